"""Partial rows against the whole rows that they are a part of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import log_softmax
from eftlocal.arithmetic.partial import Partial
from eftlocal.arithmetic.sample import Sampling
from tools import partial_rows

N = 300
PLAIN = Sampling(temperature=1.0, top_p=1.0)


def rows(seed: int, sharpness: float) -> tuple[Logits, Logits, Logits]:
    """A base's whole log-probabilities, the log of a reward's weights, and a guide, (N,) each."""
    rng = np.random.default_rng(seed)
    base = log_softmax((rng.normal(size=(1, N)) * sharpness).astype(np.float32))[0]
    guide = (base + rng.normal(size=N)).astype(np.float32)
    return base, (rng.normal(size=N) * 2).astype(np.float32), guide


def cut(base: Logits, k: int) -> Logits:
    """The row as a server gives it: the k likeliest tokens."""
    row = np.full(N, -np.inf, np.float32)
    top = np.argsort(-base)[:k]
    row[top] = base[top]
    return row


def emulated(base: Logits, log_w: Logits) -> np.ndarray:
    found: np.ndarray = np.exp(log_softmax((base + log_w)[None])[0].astype(np.float64))
    return found


@pytest.mark.parametrize("k", [1, 5, 20, 100, 299])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0, 15.0])
def test_no_distribution_is_further_off_than_the_bound(k: int, sharpness: float) -> None:
    for seed in range(50):
        base, log_w, guide = rows(seed, sharpness)
        row, exact = cut(base, k), emulated(base, log_w)
        limit = Partial.of(row).bound(log_w, PLAIN)
        for made in (row, Partial.of(row).filled(guide), Partial.of(row).filled(np.zeros(N, np.float32))):
            assert np.abs(emulated(made, log_w) - exact).sum() / 2 <= limit + 1e-5


@pytest.mark.parametrize("k", [1, 5, 20, 100, 299])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0, 15.0])
def test_a_known_token_that_wins_against_the_most_of_all_others_is_the_likeliest(k: int, sharpness: float) -> None:
    certain = 0
    for seed in range(50):
        base, log_w, _ = rows(seed, sharpness)
        row = cut(base, k)
        best = int((Partial.of(row).most() + log_w).argmax())
        if np.isfinite(row[best]):
            certain += 1
            assert best == int((base + log_w).argmax())
    assert certain > 0 or k < 20


def test_what_is_filled_in_is_all_that_was_left_out_and_no_token_has_more_than_the_least_known() -> None:
    for seed in range(50):
        base, _, guide = rows(seed, 2.0)
        row = cut(base, 20)
        full = Partial.of(row).filled(guide)
        outside = np.isneginf(row)
        assert np.exp(full.astype(np.float64)).sum() == pytest.approx(1, abs=1e-3)
        assert full[outside].max() <= row[~outside].min() + 1e-6
        np.testing.assert_array_equal(full[~outside], row[~outside])


def test_a_token_that_the_reward_makes_much_of_is_never_certain_to_be_left_out() -> None:
    """1e-8 beside a mass that rounds to 1: a weight of e^20 makes it the likeliest token."""
    base = np.full(N, np.log(1e-8 / 298), np.float32)
    base[:2] = np.log(1 - 2e-8), np.log(1e-8)
    log_w = np.zeros(N, np.float32)
    log_w[1] = 20
    row = cut(base, 1)
    assert not np.isfinite(row[(Partial.of(row).most() + log_w).argmax()])
    assert Partial.of(row).bound(log_w, PLAIN) > 0.5


def test_a_whole_row_has_nothing_left_out() -> None:
    base, log_w, guide = rows(0, 2.0)
    assert Partial.of(base).whole
    assert Partial.of(base).bound(log_w, PLAIN) == 0
    np.testing.assert_array_equal(Partial.of(base).filled(guide), base)
    np.testing.assert_array_equal(Partial.of(base).most(), base)


def test_rows_of_all_kinds_break_no_rule() -> None:
    """Ties, masks, rewards of any strength, any temperature and nucleus; by hand: tools.partial_rows."""
    found = partial_rows.look(2_000, seed=1)
    assert found["certain"] > 1_000
    assert (found["wrong"], found["broken"], found["odd"]) == (0, 0, 0)


def test_a_bound_is_that_of_the_temperature_at_which_tokens_are_drawn() -> None:
    """Near 0 the likeliest token has all: a token outside that could be likelier can change everything."""
    base, log_w = np.log(np.array([0.6, 0.3, 0.1], np.float32)), np.array([0.0, 1.5, 0.0], np.float32)
    row = np.array([base[0], -np.inf, -np.inf], np.float32)

    def off(temperature: float) -> float:
        p = [np.exp((z + log_w).astype(np.float64) / temperature) for z in (row, base)]
        return float(np.abs(p[0] / p[0].sum() - p[1] / p[1].sum()).sum()) / 2

    for temperature in (0.1, 0.5, 1.0, 2.0):
        assert off(temperature) <= Partial.of(row).bound(log_w, replace(PLAIN, temperature=temperature))
    assert off(0.1) > Partial.of(row).bound(log_w, PLAIN)


def test_a_bound_counts_a_token_at_which_a_nucleus_may_end() -> None:
    """A millionth that was left out moves the border of the nucleus, and with it a token of 30 %."""
    base = np.log(np.array([0.5, 0.3, 0.1999, 1e-4], np.float32))
    row, log_w = np.where(base < -9, -np.inf, base).astype(np.float32), np.zeros(4, np.float32)
    assert Partial.of(row).bound(log_w, PLAIN) < 2e-4
    assert Partial.of(row).bound(log_w, replace(PLAIN, top_p=0.500001)) > 0.3
    assert (
        Partial.of(row).bound(log_w, replace(PLAIN, top_p=0.6)) == 0
    )  # the tokens outside come after the border, wherever it is


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_a_known_token_whose_probability_is_0_is_a_limit_that_can_be_computed_with(temperature: float) -> None:
    row = np.full(N, -np.inf, np.float32)
    row[:2] = 0.0, np.finfo(np.float32).min  # as a llama-server says it
    part, log_w = Partial.of(row), np.zeros(N, np.float32)
    assert part.bound(log_w, replace(PLAIN, temperature=temperature)) < 1e-6
    assert np.isfinite(part.filled(log_w)).all() and part.most().argmax() == 0
