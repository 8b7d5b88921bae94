"""Tests of the weighted sum of logits, against its definition in float64."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal.arithmetic.combine import Bias, Combiner, Logits, Mix, Pair, Rows, masses, nucleus
from eftlocal.errors import DecodeError

NAMES = ["base", "tuned", "reference", "second tuned", "second reference"]
RNG = np.random.default_rng(7)


def logits(rows: int, vocab: int = 40) -> Logits:
    return RNG.normal(0, 3, (rows, vocab)).astype(np.float32)


def parts(members: dict[int, Logits]) -> dict[int, tuple[Logits, Rows]]:
    return {member: (rows, slice(None)) for member, rows in members.items()}


def exact(z: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Log-probabilities in float64."""
    wide = z.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return result


def test_the_weighted_sum_of_logits_is_the_emulators_distribution_over_several_rewards() -> None:
    mix = Mix(5, 0, (Pair(1, 2, 0.7), Pair(3, 4, -0.4)))
    rows = {member: logits(6) for member in range(5)}
    lp = {member: exact(z) for member, z in rows.items()}
    expected = exact(lp[0] + 0.7 * (lp[1] - lp[2]) - 0.4 * (lp[3] - lp[4]))
    z = Combiner(NAMES, 40).combine(parts(rows), [mix] * 6)
    np.testing.assert_allclose(exact(z), expected, atol=1e-4)


def test_roles_that_share_a_member_add_their_weights_and_members_of_weight_0_need_not_run() -> None:
    assert Mix(3, 0, (Pair(1, 2, 0.5), Pair(1, 2, 0.5))).weights.tolist() == [1, 1, -1]
    assert Mix(2, 0, (Pair(1, 0, 1.0),)).active == (1,)  # base == reference, beta 1: the tuned model
    assert Mix(2, 0, (Pair(1, 0, 0.25),)).weights.tolist() == [0.75, 0.25]
    assert Mix(3, 0, (Pair(1, 2, 0.0),)).active == (0,)  # beta 0: the base
    assert Mix(3, 0, (Pair(1, 2, 0.1), Pair(1, 2, 0.2), Pair(1, 2, -0.3))).active == (0,)  # rounding leaves 5.6e-17


def test_the_order_of_members_and_rewards_does_not_matter() -> None:
    rows = {member: logits(3) for member in range(5)}
    pairs = (Pair(1, 2, 0.7), Pair(3, 4, 1.3))
    one = Combiner(NAMES, 40).combine(parts(rows), [Mix(5, 0, pairs)] * 3).copy()
    backwards = dict(reversed(parts(rows).items()))
    other = Combiner(NAMES, 40).combine(backwards, [Mix(5, 0, pairs[::-1])] * 3)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_rows_may_have_mixes_of_their_own_and_members_that_only_some_of_them_run() -> None:
    base, tuned, reference = logits(3), logits(2), logits(2)
    some = np.array([0, 2])
    mixes = [Mix(3, 0, (Pair(1, 2, 1.0),)), Mix(3, 0), Mix(3, 0, (Pair(1, 2, -2.0),))]
    z = Combiner(NAMES, 40).combine({0: (base, slice(None)), 1: (tuned, some), 2: (reference, some)}, mixes)
    np.testing.assert_allclose(z[0], base[0] + tuned[0] - reference[0], atol=1e-5)
    np.testing.assert_array_equal(z[1], base[1])
    np.testing.assert_allclose(z[2], base[2] - 2 * (tuned[1] - reference[1]), atol=1e-5)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_reward_top_p_keeps_the_reward_on_the_tuned_models_nucleus_and_nowhere_else(top_p: float) -> None:
    rows = {member: logits(4) for member in range(3)}
    lp = {member: exact(z) for member, z in rows.items()}
    expected = np.empty((4, 40))
    for i in range(4):
        order = np.argsort(-lp[1][i])
        before = np.concatenate([[0], np.exp(lp[1][i][order]).cumsum()[:-1]])
        kept = order[before < top_p] if top_p < 1 else order
        expected[i] = lp[0][i]
        expected[i, kept] += 1.5 * (lp[1] - lp[2])[i, kept]
    mix = Mix(3, 0, (Pair(1, 2, 1.5),), reward_top_p=top_p)
    z = Combiner(NAMES, 40).combine(parts(rows), [mix] * 4)
    np.testing.assert_allclose(exact(z), exact(expected.astype(np.float32)), atol=1e-4)


def test_skipped_ids_keep_the_bases_log_probability_up_to_the_normaliser() -> None:
    rows = {member: logits(1) for member in range(3)}
    lp = {member: exact(z)[0] for member, z in rows.items()}
    expected = lp[0] + (lp[1] - lp[2])
    expected[[3, 17]] = lp[0][[3, 17]]
    combiner = Combiner(NAMES, 40, skipped=np.array([3, 17]))
    z = combiner.combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),), reward_top_p=1.0)])
    np.testing.assert_allclose(exact(z)[0], exact(expected.astype(np.float32)), atol=1e-4)


def test_rows_are_cut_to_the_real_vocabulary_before_anything_is_summed() -> None:
    rows = {0: logits(2), 1: logits(2, 48), 2: logits(2, 44)}
    rows[1][:, 40:] = np.nan  # padding may hold any value
    z = Combiner(NAMES, 40).combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),))] * 2)
    assert z.shape == (2, 40)
    np.testing.assert_allclose(z, rows[0] + rows[1][:, :40] - rows[2][:, :40], atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_no_number_names_the_member_it_came_from(bad: float) -> None:
    rows = {member: logits(2) for member in range(3)}
    rows[2][1, 5] = bad
    with pytest.raises(DecodeError, match="reference"):
        Combiner(NAMES, 40).combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),))] * 2)


def test_a_row_without_one_finite_logit_names_the_member_it_came_from() -> None:
    rows = {0: logits(1), 1: np.full((1, 40), -np.inf, np.float32), 2: logits(1)}
    with pytest.raises(DecodeError, match="tuned"):
        Combiner(NAMES, 40).combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),))])


def test_infinities_that_cancel_still_name_a_member_and_warn_of_nothing() -> None:
    rows = {member: logits(2) for member in range(3)}
    rows[0][1, 5] = rows[2][1, 5] = np.inf
    with pytest.raises(DecodeError, match="base"):
        Combiner(NAMES, 40).combine(parts(rows), [Mix(3, 0, (Pair(1, 2, 1.0),))] * 2)


def test_finite_logits_whose_sum_is_not_are_the_combinations_fault() -> None:
    rows = {0: np.full((1, 40), 3e38, np.float32), 1: np.full((1, 40), -3e38, np.float32)}
    with pytest.raises(DecodeError, match="the combination"):
        Combiner(NAMES, 40).combine(parts(rows), [Mix(2, 0, (Pair(0, 1, 1.0),))])


@pytest.mark.parametrize("beta", [1.0, -1.0, 0.7])
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("partial", [False, True])
def test_the_sum_is_the_same_whichever_member_comes_first_and_whoever_has_all_rows(
    beta: float, first: int, partial: bool
) -> None:
    rows = {member: logits(3) for member in range(3)}
    some = np.array([0, 2])
    mix, none = Mix(3, 0, (Pair(1, 2, beta),)), Mix(3, 0)
    members: dict[int, tuple[Logits, Rows]] = parts(rows)
    if partial:
        members |= {1: (rows[1][some], some), 2: (rows[2][some], some)}
    order = dict(sorted(members.items(), key=lambda item: item[0] != first))
    z = Combiner(NAMES, 40).combine(order, [mix, none if partial else mix, mix])
    weights = np.array([[beta], [0 if partial else beta], [beta]])
    np.testing.assert_allclose(z, rows[0] + weights * (rows[1] - rows[2]), atol=1e-5)


def test_the_only_member_is_copied_and_left_as_it_is() -> None:
    rows = logits(2)
    z = Combiner(NAMES, 40).combine({0: (rows, slice(None))}, [Mix(1, 0)] * 2)
    assert np.array_equal(z, rows) and not np.shares_memory(z, rows)


def test_a_step_allocates_nothing_that_grows_with_the_vocabulary() -> None:
    import tracemalloc

    rows = parts({member: logits(2, 50_000) for member in range(3)})
    combiner, mixes = Combiner(NAMES, 50_000), [Mix(3, 0, (Pair(1, 2, 1.0),))] * 2
    first = combiner.combine(rows, mixes)
    tracemalloc.start()
    again = combiner.combine(rows, mixes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(first, again)
    assert peak < 50_000  # one row of float32 is 200,000 bytes


def test_the_nucleus_is_the_fewest_likeliest_tokens_also_on_a_flat_row() -> None:
    for n in (1, 30, 3000, 40_000):
        for spread in (0.1, 4.0):
            row = (RNG.normal(size=n) * spread).astype(np.float32)
            order = np.argsort(-row, kind="stable")
            reached = np.exp(exact(row)[order]).cumsum()
            for p in (0.0, 0.3, 0.9, 0.999):
                expected = order[: int(np.searchsorted(reached, p)) + 1]
                found = nucleus(row, *masses(row, row.max()), p)
                assert np.array_equal(found, np.sort(found))
                # The masses are float32, so rounding at the border may take or leave one token.
                assert len(set(found.tolist()) ^ set(expected.tolist())) <= (1 if n > 1000 else 0)


def test_of_equal_logits_at_the_nucleus_border_those_of_the_lowest_ids_are_taken() -> None:
    for n in (8, 800, 8000):
        row = np.where(np.arange(n) % 2, 1.0, -20.0).astype(np.float32)  # the odd ids share nearly all probability
        kept = nucleus(row, *masses(row, row.max()), 0.5)
        assert kept.tolist() == list(range(1, n // 2, 2))


# --- biases -----------------------------------------------------------------------------------------------------------

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
