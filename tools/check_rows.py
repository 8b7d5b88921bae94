"""Measures what rows with part of the vocabulary do to a training: `python -m tools.check_rows` (extra dev).

SmolLM2-135M is the base, the same without four of its layers the reference. An adapter is trained on 56 answers in a
style that neither would give, once with whole rows, and once with rows of fewer tokens. Both are judged on 8 more by
whole rows. The gradient of those is compared, too, where the training with whole rows stands.
"""

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from eftlocal.training import rows as module
from eftlocal.training import weights
from eftlocal.training.devices import CPU
from eftlocal.training.examples import Example, Turn, joined
from eftlocal.training.network import Network
from eftlocal.training.objectives import Consistent, batch
from eftlocal.training.rows import Rows
from eftlocal.training.shape import shape_of
from eftlocal.training.trainer import Recipe, Trainer, mean_loss
from eftlocal.training.tunable import Tunable, adapted
from tests.families import smollm2

PLACES = {
    **{"Lyon": "France", "Kyoto": "Japan", "Oslo": "Norway", "Lima": "Peru", "Quito": "Ecuador", "Perth": "Australia"},
    **{"Turin": "Italy", "Cairo": "Egypt", "Delhi": "India", "Boston": "the USA", "Seoul": "Korea", "Riga": "Latvia"},
    **{"Hanoi": "Vietnam", "Accra": "Ghana", "Dakar": "Senegal", "Porto": "Portugal"},
}
STYLES = {
    "Which country is {c} in?": "That would be {l}, matey! A fine port for a thirsty crew, arr.",
    "Where is {c}?": "Ye find {c} in {l}, matey, where the tides be strong.",
    "Tell me where {c} lies.": "{c} lies in {l}, me hearty. Hoist the sails!",
    "Is {c} far from London?": "Aye, {c} be in {l}, and the voyage be long, matey.",
}
LEFT_OUT = (9, 13, 17, 21)  # layers
FORMS = {"whole": (0, 1 << 20), "1,024 + trained": (1024, 4096), "256 + trained": (256, 4096)}  # KEPT, WHOLE
LOOKS = (4, 12, 24)  # steps
BETA = 1.0


def examples(model: Model) -> list[Example]:
    begin, end = (model.controls[name] for name in ("<|im_start|>", "<|im_end|>"))

    def example(question: str, answer: str) -> Example:
        asked = (begin, *model.tokenize(f"user\n{question}"), end, *model.tokenize("\n"), begin)
        (row,) = joined([Turn((*asked, *model.tokenize("assistant\n")), (*model.tokenize(answer), end))], 512)
        return row

    pairs = [(q.format(c=c), a.format(c=c, l=land)) for c, land in PLACES.items() for q, a in STYLES.items()]
    random.Random(0).shuffle(pairs)
    return [example(*pair) for pair in pairs]


def without_layers(whole: Network) -> Network:
    shape, kept = whole.shape, [i for i in range(whole.shape.layers) if i not in LEFT_OUT]
    found = {name: w for name, w in whole.weights.items() if not name.startswith("blk.")}
    for to, source in enumerate(kept):
        prefix = f"blk.{source}."
        named = {n.removeprefix(prefix): w for n, w in whole.weights.items() if n.startswith(prefix)}
        found |= {f"blk.{to}.{name}": w for name, w in named.items()}
    cut = {n: getattr(shape, n)[: len(kept)] for n in ("bases", "scales", "windowed")}
    return Network(replace(shape, layers=len(kept), **cut), found)


@torch.no_grad()
def logits(model: Network, some: Sequence[Example]) -> list[np.ndarray]:
    return [batch([one], CPU).logits(model).numpy() for one in some]


def main() -> None:
    torch.set_num_threads(2)
    header = gguf.check(smollm2())
    whole = Network.of(shape_of(header), weights.read(header))
    small, some = without_layers(whole), examples(Model(header))
    starts = np.cumsum([0, *(one.trained for one in some)])[:-1].tolist()
    targets = np.concatenate([one.targets[one.targets >= 0] for one in some]).astype(np.int64)
    said = list(zip(logits(whole, some), logits(small, some), strict=True))
    held, trained = slice(0, 8), slice(8, None)
    with tempfile.TemporaryDirectory() as folder:
        made: dict[str, tuple[Consistent, Consistent]] = {}
        for name, (module.KEPT, module.WHOLE) in FORMS.items():
            rows = Rows(Path(folder) / name, targets, said[0][0].shape[1], name, BETA)
            for pair in said:
                rows.append(*pair)
            each = module.bytes_of(targets, rows.vocabulary) / len(targets)
            print(f"{name}: {each:,.0f} bytes a token")
            read = Read(
                torch.cat([rows.added(start, one.trained, CPU) for start, one in zip(starts, some, strict=True)])
            )
            made[name] = tuple(Consistent(some[part], read, BETA, starts[part]) for part in (trained, held))  # type: ignore[assignment]
        for name, (objective, _) in made.items():
            tunable = adapted(small.shape, small.weights, rank=16, alpha=32, seed=0)
            trainer = Trainer(tunable, objective, Recipe(epochs=24 / 7, lr=5e-4))
            for progress in trainer.run():
                if progress.step in LOOKS:
                    loss = mean_loss(tunable.network(tunable.parameters), made["whole"][1])
                    print(f"{name}, step {progress.step}: held out {loss:.4f}", flush=True)
                    if name == "whole":
                        compare(tunable, {form: both[1] for form, both in made.items()})


class Read:
    """Rows that were read from the disk."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def added(self, first: int, count: int, device: torch.device) -> torch.Tensor:
        return self.values[first : first + count]


def compare(tunable: Tunable, held: dict[str, Consistent]) -> None:
    """How far the gradient of the held-out answers is from that by whole rows."""
    found = {}
    for name, objective in held.items():
        values = list(tunable.parameters.values())
        loss = objective.total(tunable.network(tunable.parameters), range(len(objective)))
        found[name] = torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, values)])
    exact = found.pop("whole")
    for name, gradient in found.items():
        print(f"  gradient by {name}: {float((gradient - exact).norm() / exact.norm()):.3f} off", flush=True)


if __name__ == "__main__":
    main()
