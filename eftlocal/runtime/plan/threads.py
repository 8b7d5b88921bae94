"""Who runs where: how many members decode at the same time, and on how many threads each.

A small model gains little from a second thread, and two models side by side gain nearly all of the second core; but a
member that is nothing beside the base only takes threads from it. So the split is searched by a small model of cost.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    try:  # cgroup v2: "200000 100000" is two cores' worth, "max 100000" no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def split_threads(costs: Sequence[float], n_threads: int) -> Split:
    """The split of `n_threads` over members that promises the shortest step.

    `costs`: each member's cost of one token on one thread, in any unit (bytes of weights read serve well).
    """
    if not costs:
        return Split((), ())
    splits = [_split(costs, n_threads, n) for n in range(1, min(len(costs), max(1, n_threads)) + 1)]
    return min(splits, key=lambda split: step_cost(costs, split))


def step_cost(costs: Sequence[float], split: Split) -> float:
    """How long a step takes under `split`, in the unit of `costs`: as long as its longest lane."""
    return max(sum(_cost(costs[i], split.threads[i]) for i in lane) for lane in split.lanes)


def _cost(cost: float, threads: int) -> float:
    return cost * (1 - PARALLEL_SHARE + PARALLEL_SHARE / threads)


def _split(costs: Sequence[float], n_threads: int, n_lanes: int) -> Split:
    """Members on `n_lanes` lanes, the dearest first onto the emptiest lane; threads by the lanes' costs."""
    lanes: list[list[int]] = [[] for _ in range(n_lanes)]
    loads = [0.0] * n_lanes
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        lane = loads.index(min(loads))
        lanes[lane].append(i)
        loads[lane] += costs[i]
    threads = [1] * n_lanes
    for _ in range(n_threads - n_lanes):  # each further thread goes where a step waits
        waits = [sum(_cost(costs[i], n) for i in lane) for lane, n in zip(lanes, threads, strict=True)]
        threads[waits.index(max(waits))] += 1
    owner = {i: lane for lane, members in enumerate(lanes) for i in members}
    return Split(tuple(map(tuple, lanes)), tuple(threads[owner[i]] for i in range(len(costs))))
