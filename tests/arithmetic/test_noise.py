"""The random numbers of a sequence: functions of key, position and token id alone, and as good as random."""

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal.arithmetic.distribution import Distribution
from eftlocal.arithmetic.noise import Noise
from eftlocal.arithmetic.sample import Sampling, warp

IDS = np.arange(50_000)


def test_a_number_belongs_to_its_key_its_position_and_its_id_alone() -> None:
    noise, same = Noise([5, 1]), Noise([5, 1])
    whole = {position: noise.exponentials(position, IDS) for position in (0, 1, 7, 100_000)}
    for position in (100_000, 0, 7, 1):  # in another order
        some = np.array([3, 17, 49_999])
        np.testing.assert_array_equal(same.exponentials(position, some), whole[position][some])
    for other in (Noise([5, 2]), Noise([6, 1]), Noise([5, 1, 1])):
        assert not np.isin(other.exponentials(0, IDS[:100]), whole[0][:100]).any()


def test_a_trailing_zero_names_the_same_sequence() -> None:
    """Sample 0 of a prompt draws as a single answer does."""
    np.testing.assert_array_equal(Noise([5, 3]).exponentials(2, IDS), Noise([5, 3, 0]).exponentials(2, IDS))


def kolmogorov(values: NDArray[np.float32]) -> float:
    """The largest distance from the exponential distribution, times sqrt(n). By chance it is above 1.95 in 0.1 %."""
    uniform = np.sort(-np.expm1(-values.astype(np.float64).ravel()))
    steps = (np.arange(len(uniform)) + 0.5) / len(uniform)
    return float(np.abs(uniform - steps).max() * np.sqrt(len(uniform)))


@pytest.mark.slow
def test_they_are_exponential_along_the_ids_along_the_positions_and_along_the_keys() -> None:
    assert kolmogorov(Noise([1]).exponentials(0, np.arange(200_000))) < 1.95
    for token in (0, 1, 48_000):
        assert kolmogorov(np.array([Noise([1]).exponentials(i, np.array([token])) for i in range(20_000)])) < 1.95
        assert kolmogorov(np.array([Noise([i]).exponentials(3, np.array([token])) for i in range(5_000)])) < 1.95


def test_neighbours_have_nothing_in_common() -> None:
    rows = np.stack([Noise([1]).exponentials(i, np.arange(2000)) for i in range(500)])  # (positions, ids)
    for one, other in ((rows[:, :-1], rows[:, 1:]), (rows[:-1], rows[1:]), (rows[:-1, :-1], rows[1:, 1:])):
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(one.size)


def test_small_numbers_which_win_are_as_rare_as_they_should_be() -> None:
    small = np.concatenate([Noise([2]).exponentials(i, np.arange(100_000)) for i in range(50)])  # 5,000,000
    for bound in (1e-3, 1e-4, 1e-5):
        expected = bound * small.size
        assert abs((small < bound).sum() - expected) < 4 * np.sqrt(expected)
    assert small.min() > 0 and np.isfinite(small).all()


def test_a_logit_that_differs_in_its_last_digits_hardly_ever_changes_the_token() -> None:
    """Inverting the CDF would change 4 % of the tokens here: every border behind the logit moves."""
    rng, noise, changed = np.random.default_rng(0), Noise([3]), 0
    for position in range(2000):
        z = rng.normal(0, 3, 2000).astype(np.float32)
        near = z + rng.normal(0, 0.003, 2000).astype(np.float32)
        one, other = (warp(row, Sampling(temperature=1.0, top_p=1.0), []) for row in (z, near))
        changed += one.draw(noise, position) != other.draw(noise, position)
    assert changed < 2000 * 0.01


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 8.0])
def test_a_token_among_many_is_the_one_that_wins_the_race_of_all(spread: float) -> None:
    rng, noise, unlikely = np.random.default_rng(1), Noise([7]), 0
    for position in range(300):
        n = int(rng.integers(2049, 40_000))
        ids = np.sort(rng.choice(50_000, n, replace=False)) if position % 2 else None
        weights = np.exp(rng.normal(0, spread, n)).astype(np.float32)
        weights[rng.integers(0, n, n // 10)] = 0
        token = Distribution(weights, ids).draw(noise, position)
        with np.errstate(divide="ignore"):
            race = noise.exponentials(position, np.arange(n) if ids is None else ids) / weights
        first = int(race.argmin())
        assert token == (first if ids is None else ids[first])
        unlikely += weights[first] < weights.max() * 1e-3
    assert spread < 8 or unlikely < 300
    assert spread != 3.0 or unlikely > 10  # such tokens do win


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 0.0, 5.0, 0.0]])
def test_a_weight_of_0_is_never_drawn(weights: list[float]) -> None:
    distribution = Distribution(np.array(weights, np.float32))
    assert {distribution.draw(Noise([1]), i) for i in range(1000)} == {int(np.argmax(weights))}
