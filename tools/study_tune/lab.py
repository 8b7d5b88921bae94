"""A laboratory: a small model and a base in torch, examples with what both say of them, training, and measurements.

All models share a vocabulary and see the same tokens. Nothing here knows which models they are.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eftlocal.errors import TrainingError
from eftlocal.runtime import gguf
from eftlocal.training import weights
from eftlocal.training.examples import Example
from eftlocal.training.network import Network
from eftlocal.training.objectives import Consistent, Objective, Supervised, batch
from eftlocal.training.shape import shape_of
from eftlocal.training.trainer import Recipe, Trainer, mean_loss, parts
from eftlocal.training.tunable import Tunable, adapted, copied

BETAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def network(path: Path, device: str = "cpu") -> Network:
    """A GGUF file's model."""
    header = gguf.check(path)
    return moved(Network.of(shape_of(header), weights.read(header)), device)


def moved(model: Network, device: str) -> Network:
    return Network(model.shape, {name: tensor.to(device) for name, tensor in model.weights.items()})


@dataclass(frozen=True, slots=True)
class Said:
    """What base and reference say of some examples: log-probabilities, (trained tokens, vocabulary)."""

    base: Tensor
    reference: Tensor

    def at(self, beta: float) -> "Fixed":
        return Fixed(self, beta)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is said, for an emulator of one beta."""

    said: Said
    beta: float

    def added(self, first: int, count: int, device: torch.device) -> Tensor:
        base, reference = (part[first : first + count].float() for part in (self.said.base, self.said.reference))
        return (base - self.beta * reference).to(device)


@dataclass(frozen=True, slots=True)
class Part:
    """Examples, and what base and reference say of them."""

    examples: list[Example]
    said: Said

    @property
    def starts(self) -> list[int]:
        starts, total = [], 0
        for example in self.examples:
            starts.append(total)
            total += example.trained
        return starts

    def of(self, chosen: Sequence[int]) -> "Chosen":
        return Chosen(self, list(chosen))

    def all(self) -> "Chosen":
        return self.of(range(len(self.examples)))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some of a part's examples."""

    part: Part
    items: list[int]

    @property
    def examples(self) -> list[Example]:
        return [self.part.examples[i] for i in self.items]

    def objective(self, beta: float | None) -> Objective:
        """The likelihood of the emulator with this beta, or of the small model alone (None)."""
        if beta is None:
            return Supervised(self.examples)
        starts = self.part.starts
        return Consistent(self.examples, self.part.said.at(beta), beta, [starts[i] for i in self.items])


@torch.no_grad()
def said(model: Network, examples: Sequence[Example], dtype: torch.dtype = torch.float32) -> Tensor:
    """The model's log-probabilities at each trained token, (tokens, vocabulary)."""
    objective = Supervised(examples)
    found = []
    for part in parts(objective, range(len(examples)), 2048):
        z = batch([examples[i] for i in part], model.device).logits(model)
        found.append(z.float().log_softmax(-1).to(dtype))
    return torch.cat(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one run is trained.

    method  lora, full, mofo, or lora+mofo: an adapter, of whose entries a fraction moves at a step
    share   of the examples that is kept back, to stop by
    beta    of the consistent loss
    """

    method: str = "lora"
    consistent: bool = False
    lr: float = 1e-3
    n: int = 1000
    epochs: float = 2.0
    seed: int = 0
    fraction: float = 0.05
    rank: int = 16
    alpha: float = 32.0
    batch: int = 8
    beta: float = 1.0
    patience: int = 4
    looks: int = 10
    share: float = 0.1
    decay: float = 0.0

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            fraction=self.fraction if "mofo" in self.method else 1.0,
            decay=self.decay,
            looks=self.looks,
            patience=self.patience,
            seed=self.seed,
        )

    def tunable(self, small: Network) -> Tunable:
        if "lora" in self.method:
            return adapted(small.shape, small.weights, rank=self.rank, alpha=self.alpha, seed=self.seed)
        return copied(small.shape, small.weights)


@dataclass(slots=True)
class Lab:
    """The small model (the reference), what base and it say of each part, and texts to measure what is forgotten on.

    data       a seed -> the examples of that seed, of which a run takes the first `n`
    parts      name -> examples to measure on
    unrelated  name -> texts on which the tuned model should be what the reference is
    """

    small: Network
    data: Callable[[int], Part]
    parts: Mapping[str, Part]
    unrelated: Mapping[str, list[Example]]
    _before: dict[str, Tensor] = field(default_factory=dict)

    def run(self, setting: Setting, measured: Sequence[str]) -> dict[str, Any]:
        """Trains, and measures the best parameters on the parts named."""
        part = self.data(setting.seed)
        kept = max(1, round(setting.share * setting.n))
        train, held_out = part.of(range(kept, setting.n)), part.of(range(kept))
        beta = setting.beta if setting.consistent else None
        tunable = setting.tunable(self.small)
        judge = held_out.objective(beta)
        trainer = Trainer(tunable, train.objective(beta), setting.recipe, judge)
        curve = [(0, mean_loss(tunable.network(tunable.parameters), judge))]
        started, failed = time.monotonic(), ""
        try:
            curve.extend((told.step, told.held_out) for told in trainer.run() if told.held_out is not None)
        except TrainingError as error:
            failed = error.message
        spent = time.monotonic() - started
        found = {"curve": curve, "steps": trainer.taken, "of": trainer.steps, "seconds": spent, "failed": failed}
        best = tunable.network(trainer.best)
        found["measured"] = {name: self.measure(best, name) for name in measured}
        found["drift"] = {name: self.drift(best, name) for name in self.unrelated}
        return found

    def path(self, setting: Setting, name: str) -> dict[str, Any]:
        """Trains, and says at each look [step, loss on the part named, drift on each kind of unrelated text]."""
        part = self.data(setting.seed)
        beta = setting.beta if setting.consistent else None
        tunable, judge = setting.tunable(self.small), self.parts[name].all().objective(beta)
        trainer = Trainer(tunable, part.of(range(setting.n)).objective(beta), setting.recipe, judge)
        path = [[0, mean_loss(self.small, judge), *(0.0 for _ in self.unrelated)]]
        for told in trainer.run():
            if told.held_out is not None:
                now = tunable.network(tunable.parameters)
                path.append([told.step, told.held_out, *(self.drift(now, kind) for kind in self.unrelated)])
        return {"path": path}

    def measure(self, model: Network, name: str) -> dict[str, Any]:
        """How the model alone and the emulator give a part's answers."""
        part = self.parts[name]
        return measured(part, said(model, part.examples, part.said.base.dtype))

    @torch.no_grad()
    def drift(self, model: Network, name: str) -> float:
        """The mean divergence of the model from the reference, in nats for each token."""
        texts = self.unrelated[name]
        if name not in self._before:
            self._before[name] = said(self.small, texts)
        before, after = self._before[name], said(model, texts)
        return float((before.exp() * (before - after)).sum(-1).mean())


@torch.no_grad()
def measured(part: Part, tuned: Tensor) -> dict[str, Any]:
    """The figures of a tuned model that says `tuned` of a part: alone, and in the emulator at each beta.

    Each is [log-probability of a whole answer, of a token, share that greedy decoding gives exactly].
    """
    targets = torch.cat([torch.from_numpy(e.targets[e.targets >= 0]) for e in part.examples]).long()
    owners = torch.repeat_interleave(torch.tensor([e.trained for e in part.examples]))
    targets, owners = targets.to(tuned.device), owners.to(tuned.device)
    sums: dict[str, list[float]] = {}
    for name, beta in [("alone", None), *((f"{beta:g}", beta) for beta in BETAS)]:
        logs, right = [], []
        for first in range(0, len(targets), 512):
            rows = slice(first, first + 512)
            z = tuned[rows].float()
            if beta is not None:
                z = (part.said.base[rows].float() + beta * (z - part.said.reference[rows].float())).log_softmax(-1)
            logs.append(z.gather(1, targets[rows, None])[:, 0])
            right.append(z.argmax(-1) == targets[rows])
        n = len(part.examples)
        log, wrong = torch.cat(logs).double(), (~torch.cat(right)).double()
        wrongs = torch.zeros(n, dtype=torch.double, device=log.device).index_add(0, owners, wrong)
        sums[name] = [float(log.sum()) / n, float(log.mean()), float((wrongs == 0).double().mean())]
    return sums


def key(setting: Setting, **more: object) -> dict[str, Any]:
    return {**asdict(setting), **more}


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
