"""Tests of the learning rate's trial: what it finds is near the best of whole runs, and it changes and costs little."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from eftlocal.errors import TrainingError
from eftlocal.training import trial
from eftlocal.training.network import Network
from eftlocal.training.objectives import Objective, Supervised
from eftlocal.training.trainer import Recipe, Trainer, drawn, mean_loss, steps_of
from eftlocal.training.trial import Found, Tried, find, short_steps
from eftlocal.training.tunable import Tunable
from tests.training.test_trainer import examples, tunable
from tests.training.test_trainer import model as model  # a fixture

RECIPE = Recipe(epochs=8, batch=4, lr=1e-3, seed=1)
TRAINED, HELD_OUT = Supervised(examples(24, 0)), Supervised(examples(8, 1))


def made(model: Network, method: str) -> Callable[[], Tunable]:
    return lambda: tunable(model, method)


def found(model: Network, method: str, recipe: Recipe = RECIPE) -> Found:
    result = find(made(model, method), TRAINED, recipe, HELD_OUT)
    assert result is not None
    return result


def whole(model: Network, method: str, lr: float) -> float:
    """The held-out loss of a whole run."""
    run = Trainer(tunable(model, method), TRAINED, replace(RECIPE, lr=lr), HELD_OUT)
    for _ in run.run():
        pass
    return run.best_loss


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_rate_is_nearly_as_good_as_the_best_of_whole_runs_wherever_the_search_starts(
    model: Network, method: str
) -> None:
    before = mean_loss(model, HELD_OUT)
    best = min(whole(model, method, lr) for lr in (1e-3, 3e-3, 1e-2, 3e-2))
    for start in (1e-4, 1e-2):
        chosen = found(model, method, replace(RECIPE, lr=start)).lr
        assert whole(model, method, chosen) < best + 0.05 * (before - best)


def test_the_trial_is_the_same_each_time_and_changes_nothing_of_the_model(model: Network) -> None:
    before = {name: tensor.clone() for name, tensor in model.weights.items()}
    assert found(model, "full") == found(model, "full")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.weights.items())


def test_the_best_rate_lies_between_two_that_were_tried_unless_they_are_too_many(model: Network) -> None:
    told: list[Tried] = []
    result = find(made(model, "lora"), TRAINED, RECIPE, HELD_OUT, told=told.append)
    assert result is not None and sorted(told, key=lambda each: each.lr) == list(result.tried)
    losses = [each.loss for each in result.tried]
    at = losses.index(min(losses))
    assert 0 < at < len(losses) - 1 or len(losses) == trial.MOST
    assert result.lr == result.tried[at].lr
    for lower, higher in pairwise(result.tried):
        assert higher.lr == pytest.approx(trial.STEP * lower.lr, rel=0.1)  # rates are rounded


@pytest.mark.parametrize(
    ("items", "epochs", "steps"), [(1, 10.0, 4), (1, 2.0, 2), (50, 10.0, 4), (1000, 2.0, 12), (5000, 2.0, 32)]
)
def test_a_short_run_takes_a_twentieth_of_the_steps_but_few_at_least(items: int, epochs: float, steps: int) -> None:
    assert short_steps(Recipe(epochs=epochs, batch=8), items) == steps


def test_it_takes_no_more_steps_than_it_says(model: Network) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return False

    result = find(made(model, "lora"), TRAINED, RECIPE, HELD_OUT, stop=stop)
    assert result is not None and result.steps == short_steps(RECIPE, 24)
    assert asked == len(result.tried) * (result.steps + 1)  # before each step, and where there is no other


def test_a_rate_that_goes_wrong_is_the_worst(model: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {-1: 0.5, 0: 0.7, 1: math.inf, -2: 0.6}
    higher = math.sqrt(steps_of(RECIPE, 24) / short_steps(RECIPE, 24))

    def after(tunable: Tunable, objective: Objective, recipe: Recipe, *others: object) -> float:
        return losses[round(math.log(recipe.lr / higher / RECIPE.lr, trial.STEP))]

    monkeypatch.setattr(trial, "_after", after)
    result = found(model, "lora")
    assert result.lr == pytest.approx(RECIPE.lr / trial.STEP, rel=0.1)
    assert [each.loss for each in result.tried] == [0.6, 0.5, 0.7, math.inf]
    monkeypatch.setattr(trial, "_after", lambda *args: math.inf)
    with pytest.raises(TrainingError, match="went wrong"):
        found(model, "lora")


def test_a_run_whose_loss_is_no_number_is_one_that_went_wrong(model: Network) -> None:
    assert trial._after(tunable(model, "full"), TRAINED, replace(RECIPE, lr=1e30), [(HELD_OUT, [0])], bool) == math.inf


def test_it_stops_when_it_is_asked_to(model: Network) -> None:
    answers = iter([False] * 3 + [True])
    assert find(made(model, "lora"), TRAINED, RECIPE, HELD_OUT, stop=lambda: next(answers)) is None


def test_items_that_no_short_run_sees_judge_beside_those_that_are_kept_back() -> None:
    judges = trial._judges(TRAINED, RECIPE, 5, HELD_OUT)
    assert [(objective is HELD_OUT, len(items)) for objective, items in judges] == [(True, 8), (False, 4)]
    seen = {item for step in range(5) for item in drawn(RECIPE, 24, step)}
    assert not seen & set(judges[1][1])
    few = Supervised(examples(3, 0))
    assert trial._judges(few, RECIPE, 4, None) == [(few, range(3))]
