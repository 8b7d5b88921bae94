"""Threads over members: everyone runs once, no core is promised twice, and the split is near the best there is."""

from collections.abc import Iterator, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.runtime.plan.threads import LIGHT, Split, in_turn, split_threads, step_cost, usable_cores

SMALL = 0.1e9  # bytes of weights: threads are worth their while
UNIT = 1e10


@pytest.mark.parametrize(
    ("costs", "n_threads", "lanes", "threads"),
    [
        pytest.param([1, 1], 2, {(0,), (1,)}, [1, 1], id="an equal pair has a core each"),
        pytest.param([10, 1, 1], 2, {(0, 1, 2)}, [2, 2, 2], id="a base beside which the others are nothing"),
        pytest.param([10, 1, 1], 8, None, None, id="a base and two small ones on 8 cores"),
        pytest.param([1, 1, 1], 2, {(0, 2), (1,)}, [1, 1, 1], id="an equal trio on 2 cores"),
        pytest.param([1, 1, 1], 3, {(0,), (1,), (2,)}, [1, 1, 1], id="an equal trio on 3 cores"),
        pytest.param([5], 6, {(0,)}, [6], id="one member has every core"),
        pytest.param([3, 2, 1], 1, {(0, 1, 2)}, [1, 1, 1], id="one core"),
        pytest.param([1] * 7, 2, None, [1] * 7, id="more members than cores"),
    ],
)
def test_a_split_is_what_one_would_choose(
    costs: list[float], n_threads: int, lanes: set[tuple[int, ...]] | None, threads: list[int] | None
) -> None:
    for unit in (SMALL, 10 * SMALL):
        split = split_threads([cost * unit for cost in costs], n_threads)
        checked(split, len(costs), n_threads)
        assert lanes is None or set(split.lanes) == lanes
        assert threads is None or list(split.threads) == threads


def test_a_large_base_gets_most_of_many_cores_and_waits_for_no_small_one() -> None:
    costs = [10 * SMALL, SMALL, SMALL]
    split = split_threads(costs, 8)
    assert split.threads[0] >= 6
    assert next(lane for lane in split.lanes if 0 in lane) == (0,)
    assert step_cost(costs, split) < step_cost(costs, Split(((0, 1, 2),), (8, 8, 8)))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=7), st.integers(1, 64))
def test_every_member_is_in_one_lane_and_lanes_share_the_cores(costs: list[float], n_threads: int) -> None:
    costs = [cost * UNIT for cost in costs]
    split = split_threads(costs, n_threads)
    checked(split, len(costs), n_threads)
    assert step_cost(costs, split) <= step_cost(costs, in_turn(costs, n_threads)) * (1 + 1e-9)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.integers(1, 4))
def test_no_split_is_better_by_more_than_a_third(costs: list[float], n_threads: int) -> None:
    costs = [cost * UNIT for cost in costs]
    best = min(step_cost(costs, split) for split in every_split(len(costs), n_threads))
    assert step_cost(costs, split_threads(costs, n_threads)) <= best * 4 / 3 + 1e-9


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=7), st.integers(1, 16))
def test_a_core_more_is_never_slower(costs: list[float], n_threads: int) -> None:
    costs = [cost * UNIT for cost in costs]
    fewer, more = (step_cost(costs, split_threads(costs, n)) for n in (n_threads, n_threads + 1))
    assert more <= fewer * (1 + 1e-9)


@given(st.lists(st.floats(1, LIGHT - 1), min_size=1, max_size=7), st.integers(1, 16))
def test_a_model_too_light_for_threads_has_one(costs: list[float], n_threads: int) -> None:
    split = split_threads(costs, n_threads)
    assert set(split.threads) == {1}
    assert sorted(member for lane in split.lanes for member in lane) == list(range(len(costs)))
    assert in_turn(costs, n_threads).threads == split.threads


def test_a_light_member_leaves_the_threads_to_a_heavy_one() -> None:
    assert split_threads([20 * SMALL, LIGHT / 2, LIGHT / 2], 8).threads[1:] == (1, 1)
    assert in_turn([20 * SMALL, LIGHT / 2], 8).threads == (8, 1)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(0, 4), st.integers(1, 16))
def test_members_on_devices_have_lanes_of_their_own_and_take_no_cores(
    costs: list[float], n_on_devices: int, n_threads: int
) -> None:
    costs = [cost * UNIT for cost in costs]
    split = split_threads([*costs, *[0.0] * n_on_devices], n_threads)
    alone = split_threads(costs, n_threads)
    assert split.lanes[: len(alone.lanes)] == alone.lanes
    assert split.threads[: len(costs)] == alone.threads
    assert split.lanes[len(alone.lanes) :] == tuple((len(costs) + i,) for i in range(n_on_devices))
    assert split.threads[len(costs) :] == (1,) * n_on_devices


def test_no_members_need_no_lanes() -> None:
    assert split_threads([], 4) == Split((), ())


def test_there_is_a_core_to_use() -> None:
    assert usable_cores() >= 1


def checked(split: Split, n_members: int, n_threads: int) -> None:
    """Everyone in exactly one lane; a lane's members have the same threads, and lanes together the cores there are."""
    assert sorted(member for lane in split.lanes for member in lane) == list(range(n_members))
    assert all(split.lanes) and len(split.threads) == n_members
    each = [{split.threads[member] for member in lane} for lane in split.lanes]
    assert all(len(threads) == 1 for threads in each)
    assert sum(threads.pop() for threads in each) == n_threads


def every_split(n_members: int, n_threads: int) -> Iterator[Split]:
    """All assignments of members to lanes and of threads to lanes."""
    for owners in product(range(n_members), repeat=n_members):
        lanes = [tuple(i for i in range(n_members) if owners[i] == lane) for lane in sorted(set(owners))]
        for threads in product(range(1, n_threads + 1), repeat=len(lanes)):
            if sum(threads) <= n_threads:
                yield Split(tuple(lanes), tuple(of(i, lanes, threads) for i in range(n_members)))


def of(member: int, lanes: Sequence[tuple[int, ...]], threads: Sequence[int]) -> int:
    return next(n for lane, n in zip(lanes, threads, strict=True) if member in lane)
