"""Tests of splits: each member runs once, no core is used twice, and the split is near the best possible."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.runtime.machine import usable_cores
from eftlocal.runtime.plan.threads import SINGLE_THREADED, Chain, Cost, Split, in_turn, split_threads, step_cost

SMALL = 3 * SINGLE_THREADED  # bytes of weights, enough for several threads
SHARES = st.sampled_from([0.0, 0.1, 0.4, 0.8, 1.0])  # the part of a decode that threads share
COSTS = st.builds(Cost, st.floats(0.01, 100), SHARES)


def read(sizes: Sequence[float], rows: int = 1) -> dict[int, Cost]:
    """Returns the costs of members that read `sizes` times SMALL bytes."""
    return {i: Cost.estimated(size * SMALL, rows) for i, size in enumerate(sizes)}


@pytest.mark.parametrize(
    ("sizes", "rows", "n_threads", "rounds", "threads"),
    [
        pytest.param([1, 1], 1, 2, {((0,), (1,))}, [1, 1], id="an equal pair has a core each"),
        pytest.param([1, 1], 16, 2, {((0,), (1,))}, [1, 1], id="for many rows as well"),
        pytest.param([1, 1, 1], 1, 2, {((0, 2), (1,))}, [1, 1, 1], id="a token of an equal trio: two of them in turn"),
        pytest.param([1, 1, 1], 16, 2, {((0,),), ((1,), (2,))}, [2, 1, 1], id="sixteen: one has both cores before"),
        pytest.param([1, 1, 1], 1, 3, {((0,), (1,), (2,))}, [1, 1, 1], id="an equal trio on 3 cores"),
        pytest.param([9, 1, 1], 1, 2, {((0,),), ((1,), (2,))}, [2, 1, 1], id="both cores for the base, then a pair"),
        pytest.param([5], 1, 6, {((0,),)}, [6], id="one member has every core"),
        pytest.param([3, 2, 1], 1, 1, {((0, 1, 2),)}, [1, 1, 1], id="one core"),
    ],
)
def test_a_split_is_what_one_would_choose(
    sizes: list[float], rows: int, n_threads: int, rounds: set[tuple[Chain, ...]], threads: list[int]
) -> None:
    split = split_threads(read(sizes, rows), n_threads)
    checked(split, len(sizes), n_threads)
    assert set(split.rounds) == rounds
    assert [split.threads[i] for i in range(len(sizes))] == threads


def test_a_large_base_has_most_of_many_cores_and_waits_for_no_small_one() -> None:
    costs = read([10, 1, 1])
    split = split_threads(costs, 8)
    assert split.threads[0] >= 6
    assert any((0,) in chains for chains in split.rounds)
    assert step_cost(costs, split) < step_cost(costs, Split((((0, 1, 2),),), dict.fromkeys(costs, 8)))


def test_rows_cost_more_and_threads_share_more_of_them() -> None:
    one, four, sixteen = (Cost.estimated(SMALL, rows) for rows in (1, 4, 16))
    assert one.one_thread < four.one_thread < sixteen.one_thread
    assert one.on(4) / one.one_thread > four.on(4) / four.one_thread
    assert sixteen.on(1) == sixteen.one_thread
    assert Cost.estimated(SMALL, 500) == sixteen


@given(st.lists(COSTS, min_size=1, max_size=6), st.integers(1, 64))
def test_every_member_runs_once_and_chains_share_the_cores(own: list[Cost], n_threads: int) -> None:
    costs = dict(enumerate(own))
    split = split_threads(costs, n_threads)
    checked(split, len(own), n_threads)
    assert step_cost(costs, split) <= step_cost(costs, in_turn(costs, n_threads)) * (1 + 1e-9)


@given(st.lists(COSTS, min_size=1, max_size=4), st.integers(1, 4))
def test_no_split_of_one_round_is_better_by_more_than_a_third(own: list[Cost], n_threads: int) -> None:
    costs = dict(enumerate(own))
    best = min(step_cost(costs, split) for split in every_split(len(own), n_threads))
    assert step_cost(costs, split_threads(costs, n_threads)) <= best * 4 / 3 + 1e-9


@given(st.lists(st.floats(1, SINGLE_THREADED - 1), min_size=1, max_size=7), st.integers(1, 16), st.integers(1, 20))
def test_a_model_too_light_for_threads_has_one(weights: list[float], n_threads: int, rows: int) -> None:
    costs = {i: Cost.estimated(weight, rows) for i, weight in enumerate(weights)}
    split = split_threads(costs, n_threads)
    assert set(split.threads.values()) == {1}
    assert set(in_turn(costs, n_threads).threads.values()) == {1}


def test_a_light_member_leaves_the_threads_to_a_heavy_one() -> None:
    costs = {
        0: Cost.estimated(20 * SMALL, 1),
        1: Cost.estimated(SINGLE_THREADED / 2, 1),
        2: Cost.estimated(SINGLE_THREADED / 2, 1),
    }
    threads = split_threads(costs, 8).threads
    assert (threads[1], threads[2]) == (1, 1)
    assert in_turn(costs, 8).threads == {0: 8, 1: 1, 2: 1}


@given(st.lists(COSTS, min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 16))
def test_members_on_devices_run_beside_all_others_and_take_no_cores(
    own: list[Cost], n_on_devices: int, n_threads: int
) -> None:
    costs = dict(enumerate(own))
    without = split_threads(costs, n_threads)
    devices = tuple(len(own) + i for i in range(n_on_devices))
    split = split_threads(costs | dict.fromkeys(devices, Cost(0.0)), n_threads)
    assert (split.rounds, split.beside) == (without.rounds, devices)
    assert split.threads == {**without.threads, **dict.fromkeys(devices, 1)}


def test_members_that_are_all_on_devices_have_a_lane_each() -> None:
    assert split_threads({0: Cost(0.0), 1: Cost(0.0)}, 8) == Split((((0,), (1,)),), {0: 1, 1: 1})


def test_no_members_need_no_rounds() -> None:
    assert split_threads({}, 4) == Split((), {})


def test_there_is_a_core_to_use() -> None:
    assert usable_cores() >= 1


def checked(split: Split, n_members: int, n_threads: int) -> None:
    """Checks that each member is in exactly one chain, and that no round uses more than `n_threads` threads."""
    assert sorted(member for chains in split.rounds for chain in chains for member in chain) == list(range(n_members))
    assert all(chain for chains in split.rounds for chain in chains) and set(split.threads) == set(range(n_members))
    for chains in split.rounds:
        assert sum(max(split.threads[member] for member in chain) for chain in chains) <= n_threads


def every_split(n_members: int, n_threads: int) -> Iterator[Split]:
    """Yields all splits of one round: each assignment of members to chains and of threads to chains."""
    for owners in product(range(n_members), repeat=n_members):
        chains = [tuple(i for i in range(n_members) if owners[i] == chain) for chain in sorted(set(owners))]
        for threads in product(range(1, n_threads + 1), repeat=len(chains)):
            if sum(threads) <= n_threads:
                each: Mapping[int, int] = {i: n for chain, n in zip(chains, threads, strict=True) for i in chain}
                yield Split((tuple(chains),), each)
