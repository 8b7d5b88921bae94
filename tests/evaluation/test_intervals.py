"""Intervals against scipy's (scipy_values.py computes them once), and what a resample is."""

import json
from pathlib import Path

import numpy as np
import pytest

from eftlocal.evaluation.intervals import Floats, percentiles, resampled, wilson

SCIPY = json.loads((Path(__file__).parent / "scipy_values.json").read_text(encoding="utf-8"))


def values(n: int, seed: int) -> Floats:
    """(n, 4) the losses and tokens of two columns over n items, as scipy_values.py makes them."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 20, n)
    hard = rng.gamma(2.0, 1.0, n)
    return np.stack([tokens * hard, tokens, tokens * (0.8 * hard + rng.normal(0.1, 0.3, n)), tokens], 1)


@pytest.mark.parametrize(("successes", "n", "low", "high"), SCIPY["wilson"])
def test_wilsons_interval_is_scipys(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-12)


def test_a_share_of_nothing_or_beyond_all_has_no_interval() -> None:
    for successes, n in ((0, 0), (3, 2), (-1, 4)):
        with pytest.raises(ValueError, match="is not a share"):
            wilson(successes, n)


@pytest.mark.parametrize("case", SCIPY["bootstrap"], ids=lambda case: f"{case['n']} items")
def test_the_paired_bootstrap_is_scipys(case: dict[str, list[float]]) -> None:
    """With 20,000 resamples the ends scatter: on 10 items by up to a fiftieth of the interval."""
    n, seed = int(case["n"]), int(case["seed"])  # type: ignore[call-overload]
    sums = resampled(values(n, seed), 0, n_resamples=20_000)
    one, other = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    for samples, wanted in ((one, case["ratio"]), (other - one, case["difference"])):
        width = wanted[1] - wanted[0]
        assert percentiles(samples) == pytest.approx(tuple(wanted), abs=width / 50)


def test_a_pair_of_columns_differs_less_than_two_apart() -> None:
    data = values(200, 3)
    paired = resampled(data, 0)
    apart = np.concatenate([paired[:, :2], resampled(data, 1)[:, 2:]], axis=1)
    widths = [np.ptp(percentiles(s[:, 2] / s[:, 3] - s[:, 0] / s[:, 1])) for s in (paired, apart)]
    assert widths[0] < widths[1] / 2


def test_the_same_seed_and_name_draw_the_same_items_whatever_the_columns_are() -> None:
    data = values(50, 1)
    both = resampled(data, 7, "a")
    np.testing.assert_array_equal(resampled(data, 7, "a"), both)
    np.testing.assert_allclose(resampled(data[:, 2:3], 7, "a")[:, 0], both[:, 2], rtol=1e-12)
    assert not np.array_equal(resampled(data, 8, "a"), both) and not np.array_equal(resampled(data, 7, "b"), both)


def test_percentiles_are_numpys_also_of_few_of_equal_and_of_infinite_figures() -> None:
    rng = np.random.default_rng(4)
    for n in (1, 2, 3, 39, 41, 2000, 2001):
        for samples in (rng.normal(size=n), rng.integers(0, 3, n).astype(float), np.full(n, 7.5)):
            assert percentiles(samples) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])), rel=1e-12)
    infinite = np.array([1.0] * 90 + [np.inf] * 10)
    assert percentiles(infinite) == (1.0, np.inf)
    assert np.isnan(percentiles(np.array([1.0, np.nan, 2.0]))).all()


def test_a_resample_has_as_many_items_as_there_are_and_blocks_join(monkeypatch: pytest.MonkeyPatch) -> None:
    ones = np.ones((37, 1))
    assert (resampled(ones, 0) == 37).all() and len(resampled(ones, 0)) == 2000
    monkeypatch.setattr("eftlocal.evaluation.intervals.BLOCK", 100)  # two rows at a time
    many = resampled(values(37, 1), 0)
    assert many.shape == (2000, 4) and len(np.unique(many[:, 0])) > 1900
