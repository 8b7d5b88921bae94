"""Two ways to find a learning rate on the data alone, compared with the best of a grid of whole runs.

Short runs at several rates, judged by the held-out loss; and a range test: one run whose rate grows at each step.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from eftlocal.errors import TrainingError
from eftlocal.training import trial
from eftlocal.training.mofo import MoFO
from eftlocal.training.objectives import Objective
from eftlocal.training.trainer import Recipe, Trainer, drawn, mean_loss, parts
from eftlocal.training.tunable import Tunable

from .lab import Lab, Setting

LENGTHS = (4, 8, 16, 32)  # steps of a short run
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
GROWING = (12, 24, 48)  # steps of a range test
FROM, TO = 1e-5, 1e-1
JUDGED = 64  # items that a short run is judged by


def compare(lab: Lab, setting: Setting) -> dict[str, Any]:
    """The losses after short runs, {steps: [of each rate]}, and during range tests, {steps: [of each step]}.

    And what training/trial.py finds, from the setting's own rate on.
    """
    part = lab.data(setting.seed)
    kept = max(1, round(setting.share * setting.n))
    beta = setting.beta if setting.consistent else None
    train, held_out = (part.of(items).objective(beta) for items in (range(kept, setting.n), range(kept)))
    tunable = setting.tunable(lab.small)
    start = {name: p.detach().clone() for name, p in tunable.parameters.items()}
    # what a short run has not seen, to judge it by where few examples are kept back
    short, small, growing = {}, {}, {}
    for steps in LENGTHS:
        seen = {item for step in range(steps) for item in drawn(setting.recipe, len(train), step)}
        unseen = [kept + i for i in range(setting.n - kept) if i not in seen]
        judge = part.of([*range(kept), *unseen][:JUDGED]).objective(beta)
        found = [
            _short(tunable, train, replace(setting.recipe, lr=lr), steps, (judge, held_out), start) for lr in RATES
        ]
        short[steps], small[steps] = [f[0] for f in found], [f[1] for f in found]
    for steps in GROWING:
        growing[steps] = _grown(tunable, train, setting.recipe, steps, start)
    product = trial.find(lambda: setting.tunable(lab.small), train, setting.recipe, held_out)
    assert product is not None
    tried = [[each.lr, each.loss] for each in product.tried]
    return {
        "short": short,
        "short_held_out": small,
        "growing": growing,
        "found": {"lr": product.lr, "steps": product.steps, "tried": tried},
    }


def _short(
    tunable: Tunable,
    train: Objective,
    recipe: Recipe,
    steps: int,
    judges: Sequence[Objective],
    start: dict[str, torch.Tensor],
) -> list[float]:
    _reset(tunable, start)
    of = math.ceil(len(train) / recipe.batch)
    trainer = Trainer(tunable, train, replace(recipe, epochs=steps / of))
    try:
        for _ in trainer.run():
            pass
    except TrainingError:
        return [math.inf] * len(judges)
    model = tunable.network(tunable.parameters)
    return [mean_loss(model, judge, recipe.fed) for judge in judges]


def _grown(
    tunable: Tunable, train: Objective, recipe: Recipe, steps: int, start: dict[str, torch.Tensor]
) -> list[float]:
    _reset(tunable, start)
    optimizer = MoFO(tunable.parameters, fraction=recipe.fraction)
    losses = []
    for step in range(steps):
        for p in tunable.parameters.values():
            p.grad = None
        items = drawn(recipe, len(train), step)
        weight, loss = sum(train.weight(i) for i in items), 0.0
        for some in parts(train, items, recipe.fed):
            total = train.total(tunable.network(tunable.parameters), some) / weight
            total.backward()
            loss += total.item()
        losses.append(loss)
        if not math.isfinite(loss) or loss > 4 * losses[0]:
            break
        torch.nn.utils.clip_grad_norm_(tunable.parameters.values(), recipe.clip)
        optimizer.step(FROM * (TO / FROM) ** (step / (steps - 1)))
    return losses


@torch.no_grad()
def _reset(tunable: Tunable, start: dict[str, torch.Tensor]) -> None:
    for name, p in tunable.parameters.items():
        p.copy_(start[name])
