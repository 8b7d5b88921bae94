"""Tests of the weighted sum of logits, against its definition in float64."""

import numpy as np
import pytest

from eftlocal.arithmetic.arrays import Logits, Rows
from eftlocal.arithmetic.combine import Combiner, Mix, Pair
from eftlocal.errors import DecodeError
from tests.arithmetic.made import NAMES, exact, logits, parts


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
