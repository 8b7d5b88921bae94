"""Who runs where: how many members decode at the same time, and on how many threads each.

A small model gains little from a second thread, and two models side by side gain nearly all of the second core; but a
member that is nothing beside the base only takes threads from it. So the split is searched by a small model of cost.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from eftlocal.runtime.plan.cgroup import limits

LIGHT = 32_000_000  # bytes of weights below which threads wait for each other longer than they compute

# The share of a decode that more threads make shorter. Measured on 2 cores with SmolLM2-135M, one token: 0.1 for Q4_0,
# 0.5 for F16, 0.7 for F32 (memory-bound); a lane of its own must win clearly, so the lower middle.
PARALLEL_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Split:
    """`lanes` run at the same time; in a lane, members run in turn. `threads`: for each member."""

    lanes: tuple[tuple[int, ...], ...]
    threads: tuple[int, ...]


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of the CPU where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = limits().cores
    return cores if share is None else max(1, min(cores, int(share)))


def split_threads(costs: Sequence[float], n_threads: int) -> Split:
    """The split of `n_threads` over members that promises the shortest step.

    `costs`: bytes of weights that the CPU reads for a token of each member. 0 is: all of it runs on a device; then it
    has a lane of its own with one thread, which hands over the work and waits, and which is none of `n_threads`.
    """
    here = [i for i, cost in enumerate(costs) if cost > 0]
    own = [costs[i] for i in here]
    splits = [_split(own, n_threads, n) for n in range(1, min(len(own), max(1, n_threads)) + 1)]
    best = min(splits, key=lambda split: step_cost(own, split), default=Split((), ()))
    lanes = [tuple(here[i] for i in lane) for lane in best.lanes]
    threads = dict(zip(here, best.threads, strict=True))
    lanes += [(i,) for i in range(len(costs)) if i not in threads]
    return Split(tuple(lanes), tuple(threads.get(i, 1) for i in range(len(costs))))


def in_turn(costs: Sequence[float], n_threads: int) -> Split:
    """All members one after the other, each with every thread that it can use."""
    threads = tuple(n_threads if cost >= LIGHT else 1 for cost in costs)
    return Split((tuple(range(len(costs))),), threads)


def step_cost(costs: Sequence[float], split: Split) -> float:
    """How long a step takes under `split`, in the unit of `costs`: as long as its longest lane."""
    return max((sum(_cost(costs[i], split.threads[i]) for i in lane) for lane in split.lanes), default=0.0)


def _cost(cost: float, threads: int) -> float:
    return cost if cost < LIGHT else cost * (1 - PARALLEL_SHARE + PARALLEL_SHARE / threads)


def _split(costs: Sequence[float], n_threads: int, n_lanes: int) -> Split:
    """Members on `n_lanes` lanes, the dearest first onto the emptiest lane; threads by the lanes' costs."""
    lanes: list[list[int]] = [[] for _ in range(n_lanes)]
    loads = [0.0] * n_lanes
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        lane = loads.index(min(loads))
        lanes[lane].append(i)
        loads[lane] += costs[i]
    threads = [1] * n_lanes
    able = [lane for lane, members in enumerate(lanes) if any(costs[i] >= LIGHT for i in members)]
    for _ in range(n_threads - n_lanes if able else 0):  # each further thread goes where a step waits
        waits = {lane: sum(_cost(costs[i], threads[lane]) for i in lanes[lane]) for lane in able}
        threads[max(able, key=lambda lane: waits[lane])] += 1
    owner = {i: lane for lane, members in enumerate(lanes) for i in members}
    each = tuple(threads[owner[i]] if costs[i] >= LIGHT else 1 for i in range(len(costs)))
    return Split(tuple(map(tuple, lanes)), each)
