"""Calibration on made-up rows: condensed rows lose next to nothing, and the fit finds what the data were drawn with."""

from collections.abc import Sequence

import numpy as np
import pytest

from eftlocal.arithmetic.combine import log_softmax
from eftlocal.errors import SettingError
from eftlocal.evaluation.calibration import Condensed, Found, calibrated, condensed, fit, joined, loss
from eftlocal.evaluation.intervals import Floats

VOCAB = 600
ENDS = np.array([2, 7])
UNSEEN = np.arange(400, VOCAB)


class Rows:
    """Rows of logits, and right tokens that are drawn from the emulator with these numbers."""

    def __init__(self, n: int, found: Found, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.base = rng.normal(0, 3, (n, VOCAB)).astype(np.float32)
        self.rewards = [rng.normal(0, 2, (n, VOCAB)).astype(np.float32) for _ in found.betas]
        self.tokens = (self.z(found) + rng.gumbel(size=(n, VOCAB))).argmax(1).tolist()

    def z(self, found: Found) -> Floats:
        z = self.base.astype(np.float64)
        for beta, reward in zip(found.betas, self.rewards, strict=True):
            z += beta * reward
        z[:, ENDS] += found.end
        z[:, UNSEEN] += found.unseen
        return z

    def loss(self, found: Found) -> float:
        """The exact loss."""
        z = self.z(found)
        z -= z.max(axis=1, keepdims=True)
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), self.tokens]).sum())

    def items(self, size: int = 10) -> list[Condensed]:
        return [self.item(slice(start, start + size)) for start in range(0, len(self.tokens), size)]

    def item(self, rows: slice) -> Condensed:
        rewards = [reward[rows] for reward in self.rewards]
        return condensed(self.base[rows], rewards, self.tokens[rows], ENDS, UNSEEN)


def numbers(found: Found) -> list[float]:
    return [*found.betas, found.end, found.unseen]


@pytest.mark.parametrize("betas", [(0.7,), (0.7, 0.4)], ids=["one reward", "two rewards"])
def test_condensed_rows_have_the_loss_of_whole_ones_at_all_strengths(betas: Sequence[float]) -> None:
    rows = Rows(40, Found(betas=tuple(betas)), 1)
    items = rows.items()
    assert sum(len(item.logits) for item in items) < 40 * VOCAB
    rng = np.random.default_rng(2)
    for _ in range(20):
        at = Found(betas=tuple(rng.uniform(0, 2.5, len(betas))), end=rng.normal(0, 3), unseen=rng.normal(0, 3))
        found = loss(items, at)
        assert found[:, 1].tolist() == [10] * 4
        assert found[:, 0].sum() == pytest.approx(rows.loss(at), abs=0.01)  # of 40 tokens


def test_a_large_vocabulary_is_condensed_to_a_fraction() -> None:
    rng = np.random.default_rng(3)
    base, reward = (rng.normal(0, 3, (3, 50_000)).astype(np.float32) for _ in range(2))
    item = condensed(base, [reward], [5, 6, 7], ENDS, UNSEEN)
    assert len(item.logits) < 3 * 2500
    exact = -log_softmax(base.astype(np.float64) + 0.8 * reward)[np.arange(3), [5, 6, 7]].sum()
    assert loss([item], Found(betas=(0.8,)))[0, 0] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(
    "truth",
    [Found(betas=(0.7,), end=2.0, unseen=-1.5), Found(betas=(1.4, 0.3), end=-1.0, unseen=0.8), Found(betas=(1.0,))],
    ids=["one reward", "two rewards", "as it was"],
)
def test_the_fit_finds_the_numbers_that_the_answers_were_drawn_with(truth: Found) -> None:
    rows = Rows(1500, truth, 4)
    found = fit(rows.items(), Found(betas=tuple(1.0 for _ in truth.betas)))
    assert found.betas == pytest.approx(truth.betas, abs=0.05)
    assert found.unseen == pytest.approx(truth.unseen, abs=0.25)
    assert found.end == pytest.approx(truth.end, abs=0.7)  # a few of the 1,500 tokens are ends
    best = rows.loss(found)
    for i in range(len(numbers(found))):  # the exact loss rises in every direction
        for step in (-0.2, 0.2):
            there = numbers(found)
            there[i] += step
            assert rows.loss(Found(betas=tuple(there[:-2]), end=there[-2], unseen=there[-1])) > best


def test_what_is_not_fitted_stays() -> None:
    rows = Rows(200, Found(betas=(0.5,), end=2.0, unseen=-2.0), 5)
    start = Found(betas=(1.0,), end=0.25, unseen=0.5)
    some = fit(rows.items(), start, end=False, unseen=False)
    assert (some.end, some.unseen) == (0.25, 0.5) and some.betas != start.betas
    assert fit(rows.items(), start, unseen=False).unseen == 0.5


def test_a_harmful_reward_gets_the_strength_0_and_no_less() -> None:
    rows = Rows(400, Found(betas=(-0.6, 0.5)), 6)
    found = fit(rows.items(), Found(betas=(1.0, 1.0)))
    assert found.betas[0] == 0 and found.betas[1] == pytest.approx(0.5, abs=0.2)


def test_numbers_that_the_items_leave_open_stay_small() -> None:
    """No right token ends an answer, so the likelihood alone would send `end` to minus infinity."""
    rows = Rows(100, Found(betas=(1.0,), end=-50.0), 7)
    found = fit(rows.items(), Found(betas=(1.0,)))
    assert -20 < found.end < 0 and np.isfinite(numbers(found)).all()


def test_parts_that_are_joined_are_the_item() -> None:
    rows = Rows(10, Found(betas=(1.0, 0.5)), 8)
    whole, parts = rows.item(slice(0, 10)), joined([rows.item(slice(0, 3)), rows.item(slice(3, 10))])
    at = Found(betas=(0.3, 1.2), end=1.0, unseen=-1.0)
    np.testing.assert_allclose(loss([parts], at), loss([whole], at), rtol=1e-12)
    np.testing.assert_array_equal(parts.starts, whole.starts)


def test_a_calibration_is_judged_on_items_that_it_did_not_see() -> None:
    rows = Rows(600, Found(betas=(0.5,), end=2.0, unseen=-2.0), 9)
    found = calibrated(rows.items(), ["r"], Found(betas=(1.0,)))
    assert found.helps and found.change.high is not None and found.change.high < 0
    assert (found.n_fitted, found.n_judged) == (30, 30)
    values = [each.value for each in found.steps.values()]
    assert list(found.steps) == ["as configured", "strength", "strength and end", "strength, end and unseen"]
    assert values == sorted(values, reverse=True)
    assert found.before == found.steps["as configured"] and found.after.value == values[-1]
    assert found.change.value == pytest.approx(values[-1] - values[0])


def test_an_emulator_that_is_right_as_configured_is_left_alone() -> None:
    helped = [
        calibrated(Rows(160, Found(betas=(1.0,)), seed).items(), ["r"], Found(betas=(1.0,)), seed).helps
        for seed in range(8)
    ]
    assert sum(helped) <= 1


def test_without_data_of_the_fine_tuning_only_the_end_is_fitted() -> None:
    rows = Rows(200, Found(betas=(0.5,), end=2.0), 10)
    items = [
        condensed(rows.base[s], [rows.rewards[0][s]], rows.tokens[s], ENDS)
        for s in (slice(i, i + 10) for i in range(0, 200, 10))
    ]
    found = calibrated(items, ["r"], Found(betas=(1.0,)))
    assert found.unseen is None and list(found.steps)[-1] == "strength and end"


def test_too_few_items_are_an_error() -> None:
    with pytest.raises(SettingError, match="at least 8 items with a right answer, and there are 7"):
        calibrated(Rows(70, Found(betas=(1.0,)), 11).items(), ["r"], Found(betas=(1.0,)))
