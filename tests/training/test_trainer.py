"""Tests of training: a run learns, keeps its best, and goes on from a checkpoint to the same bytes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from eftlocal.errors import TrainingError
from eftlocal.training import checkpoint, trainer
from eftlocal.training.examples import NOTHING, Example
from eftlocal.training.network import Network
from eftlocal.training.objectives import Supervised
from eftlocal.training.trainer import Progress, Recipe, Trainer, drawn, mean_loss
from eftlocal.training.tunable import Tunable, adapted, copied
from tests.families import write_model
from tests.training.test_network import network

RECIPE = Recipe(epochs=3, batch=4, lr=3e-3, looks=6, seed=1)


def examples(n: int, seed: int) -> list[Example]:
    """Prompts of letters that are answered with one letter twice, and an end: a pattern that is soon learnt."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        prompt, letter = draw.integers(65, 80, draw.integers(3, 9)).tolist(), 70
        targets = [NOTHING] * (len(prompt) - 1) + [letter, letter, 315]
        found.append(Example(np.array([*prompt, letter, letter], np.int32), np.array(targets, np.int32)))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return network(write_model(tmp_path_factory.mktemp("model") / "model.gguf", seed=1, d_model=32))


def tunable(model: Network, method: str) -> Tunable:
    if method == "lora":
        return adapted(model.shape, model.weights, rank=4, alpha=8.0, seed=0)
    return copied(model.shape, model.weights)


def made(model: Network, method: str = "full", recipe: Recipe = RECIPE, *, held_out: bool = True) -> Trainer:
    if method == "mofo":
        recipe = replace(recipe, fraction=0.1)
    return Trainer(
        tunable(model, method), Supervised(examples(18, 0)), recipe, Supervised(examples(6, 1)) if held_out else None
    )


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def finished(run: Iterator[Progress]) -> list[Progress]:
    return list(run)


@pytest.mark.parametrize(("method", "lr"), [("lora", 3e-2), ("full", 3e-3), ("mofo", 1e-2)])
def test_each_method_learns_what_is_kept_back(model: Network, method: str, lr: float) -> None:
    run = made(model, method, replace(RECIPE, lr=lr))
    before = mean_loss(model, Supervised(examples(6, 1)))
    told = finished(run.run())
    assert [each.step for each in told] == list(range(1, 16)) and told[0].steps == 15
    assert len([each for each in told if each.held_out is not None]) == 6 and told[-1].held_out is not None
    assert run.best_loss < before / 2
    assert mean_loss(run.tunable.network(run.best), Supervised(examples(6, 1))) == pytest.approx(
        run.best_loss, rel=1e-6
    )


def test_the_models_own_tensors_do_not_change(model: Network) -> None:
    before = {name: tensor.clone() for name, tensor in model.weights.items()}
    for method in ("lora", "full"):
        finished(made(model, method).run())
    assert same(before, dict(model.weights))


def test_every_item_is_seen_once_in_an_epoch_in_an_order_of_its_own() -> None:
    epochs = [[i for step in range(first, first + 5) for i in drawn(RECIPE, 18, step)] for first in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(18)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_learning_rate_rises_and_falls(model: Network) -> None:
    run = made(model, recipe=Recipe(epochs=20, batch=18, lr=1.0, warmup=0.2))
    rates = [run._lr(step) for step in range(run.steps)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    assert trainer.FLOOR < rates[-1] < trainer.FLOOR + 0.05


# --- a batch in parts -------------------------------------------------------------------------------------------------


def test_a_batch_in_parts_takes_the_same_step(model: Network) -> None:
    whole, apart = made(model), made(model, recipe=replace(RECIPE, fed=10))  # one or two items
    next(whole.run())
    next(apart.run())
    for name, p in whole.tunable.parameters.items():
        # Adam's first step is the gradient's sign, which may differ where the gradient is only rounding.
        assert (p - apart.tunable.parameters[name]).abs().max() < 1e-3 * RECIPE.lr or p.ndim > 1
        difference = (p - apart.tunable.parameters[name]).abs()
        assert float((difference > 1e-3 * RECIPE.lr).float().mean()) < 0.01


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full", "mofo"])
@pytest.mark.parametrize("stops", [[1], [4, 5, 9], [14], list(range(1, 15))])
def test_a_run_that_goes_on_is_the_run_that_was_not_interrupted(
    model: Network, tmp_path: Path, method: str, stops: Sequence[int]
) -> None:
    whole = made(model, method)
    told = finished(whole.run())
    path = tmp_path / "checkpoint"
    part: list[Progress] = []
    for stop in (*stops, 100):
        run = made(model, method)
        if (state := checkpoint.load(path)) is not None:
            run.restore(state)
        for progress in run.run():
            part.append(progress)
            if progress.step == stop:
                break
        checkpoint.save(path, run.state())
    assert part == told
    assert same(run.best, whole.best) and run.best_loss == whole.best_loss
    assert same(dict(run.tunable.parameters), dict(whole.tunable.parameters))


def test_a_finished_run_takes_no_more_steps(model: Network) -> None:
    run, again = made(model), made(model)
    finished(run.run())
    again.restore(run.state())
    assert finished(again.run()) == [] and same(again.best, run.best)


def test_a_checkpoint_of_another_run_is_refused(model: Network, tmp_path: Path) -> None:
    run = made(model)
    next(run.run())
    checkpoint.save(tmp_path / "c", run.state())
    state = checkpoint.load(tmp_path / "c")
    assert state is not None
    for other in (made(model, recipe=Recipe(epochs=3, batch=4, lr=1e-3)), made(model, "lora")):
        with pytest.raises(TrainingError, match="of a run with other settings"):
            other.restore(state)


def test_a_checkpoint_is_whole_or_the_one_before(
    model: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(model)
    path = tmp_path / "c"
    assert checkpoint.load(path) is None
    next(run.run())
    checkpoint.save(path, run.state())
    kept = path.read_bytes()

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"could not be written: .*failed writing"):
        checkpoint.save(path, run.state())
    assert path.read_bytes() == kept and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c").write_bytes(data)
    with pytest.raises(TrainingError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "c")


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Spoilt(Supervised):
    """Gives a loss that is no number after some calls."""

    def total(self, network: Network, items: Sequence[int]) -> torch.Tensor:
        found = super().total(network, items)
        spoilt.append(0)
        return found * math.nan if len(spoilt) > 7 else found


spoilt: list[int] = []


def test_a_loss_that_is_no_number_is_told_and_the_last_good_state_is_kept(model: Network) -> None:
    spoilt.clear()
    run = made(model)
    run.objective = Spoilt(examples(18, 0))
    good: list[float] = []
    with pytest.raises(TrainingError, match=r"at step 8 of 15: the loss is nan\.\nTry a smaller learning rate"):
        good += [progress.loss for progress in run.run()]
    assert run.taken == 7 and all(torch.isfinite(p).all() for p in run.tunable.parameters.values())
    assert run.best_loss < math.inf and mean_loss(run.tunable.network(run.best), Supervised(examples(6, 1))) < math.inf


def test_a_run_ends_when_nothing_gets_better_and_keeps_its_best(model: Network) -> None:
    """Held out is the opposite of what is trained, so the first look is the best one."""
    wrong = [Example(one.tokens, np.where(one.targets == 70, 71, one.targets)) for one in examples(6, 1)]
    recipe = Recipe(epochs=30, batch=6, lr=1e-2, looks=30, patience=4)
    run = Trainer(copied(model.shape, model.weights), Supervised(examples(18, 0)), recipe, Supervised(wrong))
    told = finished(run.run())
    assert len(told) < run.steps == 90
    looks = [each for each in told if each.held_out is not None]
    best = min(range(len(looks)), key=lambda i: looks[i].held_out or 0)
    assert len(looks) - best - 1 == 4 and [each.best for each in looks[best:]] == [True] + [False] * 4
    assert run.best_loss == looks[best].held_out


def test_without_held_out_items_the_last_parameters_are_the_best(model: Network) -> None:
    run = made(model, held_out=False)
    told = finished(run.run())
    assert all(each.held_out is None for each in told) and len(told) == 15
    assert same(run.best, dict(run.tunable.parameters))
