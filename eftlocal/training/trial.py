"""A learning rate from a short trial on the user's own data, since what suits differs tenfold between models and data.

A few runs of few steps are taken at rates a factor of 3 apart, and judged by items that they were not trained on. What
is best for a short run is too high for a longer one: a run of n times as many steps wants a rate that is sqrt(n) times
lower. docs/tuning-study.md has the figures, and those of a range test (one run whose rate grows), the other way tried.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from eftlocal.errors import TrainingError
from eftlocal.training.network import Network
from eftlocal.training.objectives import Objective
from eftlocal.training.trainer import Recipe, Trainer, drawn, parts, steps_of
from eftlocal.training.tunable import Tunable

__all__ = ["EXPECTED", "SHARE", "Found", "Tried", "find", "short_steps"]

STEP: Final = 3.0  # between two rates
SHARE: Final = 0.2  # of the whole run's steps, which the trial may take
EXPECTED: Final = 4  # rates: three, and one more where the first guess is wrong
MOST: Final = 8  # rates, after which the best so far is taken
STEPS: Final = (4, 32)  # of a short run, at least and at most: more did not find better rates
JUDGED: Final = (16, 64)  # items


@dataclass(frozen=True, slots=True)
class Tried:
    """A short run, in place of a whole run with the rate `lr`: its own rate is higher.

    loss  the mean after it, of items that it was not trained on; infinite if it went wrong
    """

    lr: float
    loss: float


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a trial. lr: for the whole run; steps: of each short run."""

    lr: float
    tried: tuple[Tried, ...]
    steps: int


def find(
    make: Callable[[], Tunable],
    objective: Objective,
    recipe: Recipe,
    held_out: Objective | None = None,
    *,
    told: Callable[[Tried], object] = lambda tried: None,
    stop: Callable[[], bool] = lambda: False,
) -> Found | None:
    """Finds the highest learning rate for the run that `recipe` describes; the search starts at its own rate.

    make      gives what is trained, as it is before the run: it is called for each short run, and nothing else changes
    objective what is trained; held_out: what is kept back, and judges together with items that no short run sees
    told      is called after each short run
    stop      is asked before each step; the result is None once it says yes

    The same arguments give the same result, to the byte on a CPU. It needs no more memory than the run itself. Raises
    TrainingError if each rate that was tried goes wrong.
    """
    whole, steps = steps_of(recipe, len(objective)), short_steps(recipe, len(objective))
    short = replace(recipe, epochs=steps / math.ceil(len(objective) / recipe.batch))
    judges = _judges(objective, short, steps, held_out)
    higher = math.sqrt(whole / steps)
    losses: dict[int, float] = {}  # of the whole run's rate recipe.lr * STEP ** i

    def tried(i: int) -> Tried:
        return Tried(_rate(recipe, i), losses[i])

    while (i := _next(losses)) is not None and len(losses) < MOST:
        loss = _after(make(), objective, replace(short, lr=higher * _rate(recipe, i)), judges, stop)
        if loss is None:
            return None
        losses[i] = loss
        told(tried(i))
    best = min(losses, key=lambda i: (losses[i], i))
    if not math.isfinite(losses[best]):
        raise TrainingError(
            f"No learning rate was found: each from {_rate(recipe, min(losses)):g} on went wrong.",
            "Look at the data, or give a smaller one: --lr.",
        )
    return Found(_rate(recipe, best), tuple(tried(i) for i in sorted(losses)), steps)


def _rate(recipe: Recipe, i: int) -> float:
    return float(f"{recipe.lr * STEP**i:.2g}")


def short_steps(recipe: Recipe, n: int) -> int:
    """The steps of one short run before a whole run on `n` items."""
    whole = steps_of(recipe, n)
    return min(max(STEPS[0], round(SHARE * whole / EXPECTED)), STEPS[1], whole)


def _next(losses: dict[int, float]) -> int | None:
    """The rate to try next: the first guess, its neighbours, and then on towards what is best so far."""
    for i in (0, 1, -1):
        if i not in losses:
            return i
    best = min(losses, key=lambda i: (losses[i], i))
    return next((i for i in (best + 1, best - 1) if i not in losses), None)


def _after(
    tunable: Tunable,
    objective: Objective,
    recipe: Recipe,
    judges: Sequence[tuple[Objective, Sequence[int]]],
    stop: Callable[[], bool],
) -> float | None:
    """The loss after a short run; None if it was stopped."""
    run = Trainer(tunable, objective, recipe).run()
    try:
        while True:
            if stop():
                return None
            if next(run, None) is None:
                break
    except TrainingError:
        return math.inf
    loss = _mean(tunable.network(tunable.parameters), judges, recipe.fed)
    return loss if math.isfinite(loss) else math.inf


def _judges(
    objective: Objective, recipe: Recipe, steps: int, held_out: Objective | None
) -> list[tuple[Objective, Sequence[int]]]:
    """What judges: what is kept back, and items that no short run sees. Where there are none, all judge."""
    n = len(objective)
    most = min(max(JUDGED[0], steps * recipe.batch // 2), JUDGED[1])
    seen = {item for step in range(steps) for item in drawn(recipe, n, step)}
    kept = [] if held_out is None else [(held_out, range(min(most, len(held_out))))]
    unseen = [item for item in range(n) if item not in seen][: most - sum(len(items) for _, items in kept)]
    found = [*kept, *([(objective, unseen)] if unseen else [])]
    return found or [(objective, range(min(most, n)))]


@torch.no_grad()
def _mean(network: Network, judges: Sequence[tuple[Objective, Sequence[int]]], fed: int) -> float:
    total = weight = 0.0
    for objective, items in judges:
        total += sum(float(objective.total(network, part)) for part in parts(objective, items, fed))
        weight += sum(objective.weight(item) for item in items)
    return total / weight
