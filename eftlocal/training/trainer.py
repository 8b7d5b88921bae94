"""Trains: batches in a drawn order, steps of the optimizer, held-out losses, and the best parameters so far.

A trainer's state is a value (`state`, `restore`): a run that goes on from it is the run that was not interrupted, to
the byte on a CPU with the same number of threads. A state of one device can be restored on another.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from eftlocal.errors import TrainingError
from eftlocal.training.mofo import MoFO
from eftlocal.training.network import Network
from eftlocal.training.objectives import Objective
from eftlocal.training.tunable import Tunable

__all__ = ["Progress", "Recipe", "Trainer", "drawn", "mean_loss", "mean_losses", "parts", "steps_of"]

FLOOR: Final = 0.1  # the learning rate ends at this share of its highest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How it is trained.

    epochs    how often each item is seen
    batch     items of one step
    lr        the highest learning rate: it rises over the share `warmup` of the steps, and falls as a cosine
    fraction  of each matrix that moves at a step (mofo.py); 1 is AdamW
    decay     weight decay
    clip      the largest norm of a gradient
    looks     how often the held-out loss is computed in a run; the last time is at its end
    patience  how many looks in a row may bring nothing better before the run ends
    fed       tokens that are fed at once, padding included; a larger batch is summed from several parts
    """

    epochs: float = 2.0
    batch: int = 8
    lr: float = 1e-3
    warmup: float = 0.1
    fraction: float = 1.0
    decay: float = 0.0
    clip: float = 1.0
    looks: int = 10
    patience: int = 4
    fed: int = 1024
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """A step that was taken.

    loss      its batch's mean
    held_out  the mean loss of what is kept back, where it was computed
    small     the small model's own loss of the same, if `held_out` is the emulator's
    """

    step: int
    steps: int
    loss: float
    held_out: float | None
    small: float | None = None
    best: bool = False


@dataclass(slots=True)
class Trainer:
    """One run. Iterate over `run`; each step that it yields may be the last one that is taken.

    best      the parameters with the lowest held-out loss; without held-out items, those of the last step
    best_loss that loss
    """

    tunable: Tunable
    objective: Objective
    recipe: Recipe
    held_out: Objective | None = None
    taken: int = field(init=False, default=0)
    best: dict[str, Tensor] = field(init=False)
    best_loss: float = field(init=False, default=math.inf)
    _worse: int = field(init=False, default=0)
    _ended: bool = field(init=False, default=False)
    _optimizer: MoFO = field(init=False)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self._optimizer = MoFO(self.tunable.parameters, fraction=recipe.fraction, decay=recipe.decay)
        self.best = self._copy()

    @property
    def steps(self) -> int:
        """The steps of the whole run, if it does not end early."""
        return steps_of(self.recipe, len(self.objective))

    def run(self) -> Iterator[Progress]:
        """Takes the steps that are left. Raises TrainingError for a loss that is no number; `best` stays as it was."""
        while not self._ended:
            loss = self._step()
            looks = self.held_out is not None and self._looks()
            held_out, small = self._look() if looks else (None, None)
            better = held_out is not None and self._judge(held_out)
            self._ended |= self.taken >= self.steps
            if self._ended and self.held_out is None:
                self.best = self._copy()
            yield Progress(self.taken, self.steps, loss, held_out, small, better)

    # --- a step -------------------------------------------------------------------------------------------------------

    def _step(self) -> float:
        parameters = self.tunable.parameters.values()
        for parameter in parameters:
            parameter.grad = None
        items = drawn(self.recipe, len(self.objective), self.taken)
        weight = sum(self.objective.weight(item) for item in items)
        loss = 0.0
        network = self.tunable.network(self.tunable.parameters)
        for part in parts(self.objective, items, self.recipe.fed):
            total = self.objective.total(network, part) / weight
            total.backward()  # type: ignore[no-untyped-call]
            loss += total.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}")
        self._optimizer.step(self._lr(self.taken))
        self.taken += 1
        return loss

    def _lr(self, step: int) -> float:
        warm = max(1, round(self.recipe.warmup * self.steps))
        if step < warm:
            return self.recipe.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.recipe.lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)

    # --- held-out items -----------------------------------------------------------------------------------------------

    def _looks(self) -> bool:
        """Whether the held-out loss is computed after this step: evenly over the run, and at its end."""
        n, looks = self.steps, min(self.recipe.looks, self.steps)
        return self.taken * looks // n > (self.taken - 1) * looks // n

    def _look(self) -> tuple[float, float | None]:
        """The loss that is judged, and the small model's own if that is another one."""
        assert self.held_out is not None
        found = mean_losses(self.tunable.network(self.tunable.parameters), self.held_out, self.recipe.fed)
        return found[0], found[1] if len(found) > 1 else None

    def _judge(self, held_out: float) -> bool:
        """Keeps the parameters if they are the best so far. Returns whether they are."""
        if not math.isfinite(held_out):
            raise self._diverged(f"the held-out loss is {held_out}")
        if held_out < self.best_loss:
            self.best, self.best_loss, self._worse = self._copy(), held_out, 0
            return True
        self._worse += 1
        self._ended |= self._worse >= self.recipe.patience
        return False

    def _copy(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.tunable.parameters.items()}

    def _diverged(self, how: str) -> TrainingError:
        return TrainingError(
            f"The training went wrong at step {self.taken + 1} of {self.steps}: {how}.",
            f"Try a smaller learning rate than {self.recipe.lr:g}.",
        )

    # --- to go on later -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had not been interrupted. The tensors are not copied."""
        return {
            "recipe": asdict(self.recipe),
            "taken": self.taken,
            "ended": self._ended,
            "worse": self._worse,
            "best_loss": self.best_loss,
            "parameters": dict(self.tunable.parameters),
            "best": self.best,
            "first": self._optimizer.first,
            "second": self._optimizer.second,
            "optimizer_taken": self._optimizer.taken,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state. Raises TrainingError if it is one of another run."""
        shapes = {name: tuple(p.shape) for name, p in self.tunable.parameters.items()}
        if state["recipe"] != asdict(self.recipe) or {n: tuple(p.shape) for n, p in state["best"].items()} != shapes:
            raise TrainingError("The checkpoint is of a run with other settings.", "Give another name, or delete it.")
        self.taken, self._ended, self._worse = state["taken"], state["ended"], state["worse"]
        self.best_loss = state["best_loss"]
        here = {name: parameter.device for name, parameter in self.tunable.parameters.items()}
        self.best = {name: tensor.to(here[name], copy=True) for name, tensor in state["best"].items()}
        with torch.no_grad():
            for name, parameter in self.tunable.parameters.items():
                parameter.copy_(state["parameters"][name])
                self._optimizer.first[name].copy_(state["first"][name])
                self._optimizer.second[name].copy_(state["second"][name])
        self._optimizer.taken = state["optimizer_taken"]


def steps_of(recipe: Recipe, n: int) -> int:
    """The steps of a whole run on `n` items."""
    return max(1, round(recipe.epochs * math.ceil(n / recipe.batch)))


def drawn(recipe: Recipe, n: int, step: int) -> Sequence[int]:
    """The items of a step, of `n`. Each epoch has an order of its own, which the seed and its number give."""
    epoch, at = divmod(step, math.ceil(n / recipe.batch))
    order = random.Random(f"{recipe.seed} {epoch}").sample(range(n), n)
    return order[at * recipe.batch : (at + 1) * recipe.batch]


def parts(objective: Objective, items: Sequence[int], fed: int) -> Iterator[list[int]]:
    """The items in groups of which each is fed at most `fed` tokens with its padding, or is one item."""
    part: list[int] = []
    longest = 0
    for item in items:
        longest = max(longest, objective.size(item))
        if part and longest * (len(part) + 1) > fed:
            yield part
            part, longest = [], objective.size(item)
        part.append(item)
    if part:
        yield part


def mean_loss(network: Network, objective: Objective, fed: int = 1024) -> float:
    """The mean of the loss that is trained, over all items of an objective."""
    return mean_losses(network, objective, fed)[0]


@torch.no_grad()
def mean_losses(network: Network, objective: Objective, fed: int = 1024) -> list[float]:
    """The mean of each loss of an objective over all items; the first one is that which is trained."""
    found = [objective.losses(network, part) for part in parts(objective, range(len(objective)), fed)]
    weight = sum(objective.weight(item) for item in range(len(objective)))
    return [sum(map(float, each)) / weight for each in zip(*found, strict=True)]
