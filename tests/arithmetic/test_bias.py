"""Biases count where their rewards do, each by its definition in float64."""

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal.arithmetic.bias import Bias
from eftlocal.arithmetic.combine import Combiner, Mix, Pair
from eftlocal.arithmetic.nucleus import masses, nucleus
from tests.arithmetic.made import NAMES, exact, logits, parts

ENDS = np.array([2, 31])
UNSEEN = np.array([0, 5, 6, 31])


def biased() -> Combiner:
    """A combiner that knows the tokens that end an answer."""
    return Combiner(NAMES, 40, ends=lambda members: ENDS)


def added(bias: Bias, vocab: int = 40) -> NDArray[np.float64]:
    row = np.zeros(vocab)
    row[ENDS] += bias.end
    row[bias.ids] += bias.unseen
    return row


def test_a_bias_is_added_to_the_rewards_of_its_tokens_and_each_row_has_its_own() -> None:
    one, other = Bias(1.5, -2.0, UNSEEN), Bias(-0.5)
    mixes = [Mix(5, 0, (Pair(1, 2, 0.7, one), Pair(3, 4, 0.5, other))), Mix(5, 0, (Pair(1, 2, 0.7), Pair(3, 4, 0.5)))]
    rows = {member: logits(2) for member in range(5)}
    lp = {member: exact(z) for member, z in rows.items()}
    plain = lp[0] + 0.7 * (lp[1] - lp[2]) + 0.5 * (lp[3] - lp[4])
    z = biased().combine(parts(rows), mixes)
    expected = exact(np.stack([plain[0] + added(one) + added(other), plain[1]]))
    np.testing.assert_allclose(exact(z), expected, atol=1e-4)


def test_with_a_reward_top_p_a_bias_counts_only_where_its_reward_does() -> None:
    bias = Bias(1.5, -2.0, UNSEEN)
    mix, rows = Mix(3, 0, (Pair(1, 2, 0.7, bias),), 0.6), {member: logits(8) for member in range(3)}
    lp = {member: exact(z) for member, z in rows.items()}
    expected = lp[0].copy()
    for row in range(8):
        mass, total = masses(rows[1][row], rows[1][row].max())
        kept = nucleus(rows[1][row], mass, total, 0.6)
        expected[row, kept] += (0.7 * (lp[1] - lp[2])[row] + added(bias))[kept]
    np.testing.assert_allclose(exact(biased().combine(parts(rows), [mix] * 8)), exact(expected), atol=1e-4)


def test_skipped_ids_have_no_bias_either() -> None:
    bias, rows = Bias(3.0), {member: logits(2) for member in range(3)}
    combiner = Combiner(NAMES, 40, skipped=ENDS, ends=lambda members: ENDS)
    with_bias = combiner.combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0, bias),), 1.0)] * 2).copy()
    np.testing.assert_array_equal(with_bias, combiner.combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),), 1.0)] * 2))


def test_a_bias_that_is_scaled_to_0_is_none_and_without_one_the_ends_are_never_asked_for() -> None:
    assert Bias(1.0, 2.0, UNSEEN).scaled(0) is None
    assert Bias(1.0, 2.0).scaled(-0.5) == Bias(-0.5, 0.0)  # no tokens, so nothing is added to them
    rows = {member: logits(2) for member in range(3)}
    never = Combiner(NAMES, 40, ends=lambda members: pytest.fail("nobody needs them"))
    never.combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),))] * 2)


def test_many_strengths_of_a_bias_in_turn_give_what_each_gives_alone() -> None:
    rows, combiner = {member: logits(1) for member in range(3)}, biased()
    bias = Bias(1.0, -1.0, UNSEEN)
    for turn in range(60):
        strength = 1 + turn % 20
        mix = Mix(3, 0, (Pair(1, 2, 1.0, bias.scaled(strength)),))
        alone = biased().combine(parts(rows), [mix])
        np.testing.assert_array_equal(combiner.combine(parts(rows), [mix]), alone)
