"""Who runs when: which members decode at the same time, which after one another, and on how many threads each.

Threads make a decode shorter by what its matrices are, little of one token and nearly all of sixteen; models side by
side gain the cores whole, but three of them leave one of two cores idle at the end. So the split is searched by a small
model of cost, which is fed with what was measured, or with what weights and rows promise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log2

LIGHT = 32_000_000  # bytes of weights below which threads wait for each other longer than they compute
HANDOVER = 0.05  # of a step: what a further round has to win, whose members wait for the slowest of the one before

# Where nothing was measured. On 2 cores, of SmolLM2-135M in Q4_0, F16 and F32 (92, 270 and 540 MB): a row more costs
# 0.4 to 0.25 of the first, up to about 16. More threads make 0.1, 0.4 and 0.7 of one row shorter, and of sixteen 0.86
# and 0.6 in Q4_0 and F16.
ROW, MOST_ROWS = 0.3, 16
SHARED, DOUBLED, MOST_SHARED = 0.1, 0.22, 0.85  # of one row of 90 MB; for each time twice as much; at most


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one member's decode: `alone` with one thread, in any unit; 0 is: on a device. `shared`: what threads share."""

    alone: float
    shared: float = 0.0

    def on(self, threads: int) -> float:
        """With so many threads."""
        return self.alone * (1 - self.shared + self.shared / threads)

    @classmethod
    def estimated(cls, read: float, rows: int) -> "Cost":
        """From the bytes of weights that a decode reads on the CPU, for so many rows."""
        if read <= 0:
            return cls(0.0)
        rows = min(rows, MOST_ROWS)
        one = max(SHARED, SHARED + DOUBLED * log2(read / 90e6))
        shared = min(MOST_SHARED, one if rows == 1 else max(one, 0.6 if rows < 4 else 0.8))
        return cls(read * (1 + ROW * (rows - 1)), shared if read >= LIGHT else 0.0)


Lane = tuple[int, ...]  # members that run in turn


@dataclass(frozen=True, slots=True)
class Split:
    """`rounds` follow each other, and in a round its lanes run at the same time. `threads`: by member.

    `beside`: members on devices, which run all the while.
    """

    rounds: tuple[tuple[Lane, ...], ...]
    threads: Mapping[int, int]
    beside: Lane = ()


def split_threads(costs: Mapping[int, Cost], n_threads: int) -> Split:
    """The split of `n_threads` over members that promises the shortest step. `costs`: by member.

    A member on a device has one thread, which hands over the work and waits, and which is none of `n_threads`.
    """
    here = {i: cost for i, cost in costs.items() if cost.alone > 0}
    beside = tuple(i for i in costs if i not in here)
    waiting = dict.fromkeys(beside, 1)
    if not here:
        return Split((tuple((i,) for i in beside),) if beside else (), waiting)
    splits = _splits(here, n_threads)
    best = min(splits, key=lambda split: step_cost(costs, split) * (1 + HANDOVER * (len(split.rounds) - 1)))
    return Split(best.rounds, {**best.threads, **waiting}, beside)


def in_turn(costs: Mapping[int, Cost], n_threads: int) -> Split:
    """All members one after the other, each with every thread that it can use."""
    return Split(((tuple(costs),),), {i: _all(cost, n_threads) for i, cost in costs.items()})


def step_cost(costs: Mapping[int, Cost], split: Split) -> float:
    """How long a step takes under `split`, in the costs' unit: each round as long as its longest lane."""
    return sum(max(sum(costs[i].on(split.threads[i]) for i in lane) for lane in lanes) for lanes in split.rounds)


def _all(cost: Cost, n_threads: int) -> int:
    return n_threads if cost.shared else 1


def _splits(costs: Mapping[int, Cost], n_threads: int) -> Iterator[Split]:
    """All members in one round of some lanes; or some of the dearest, or the cheapest, each in a round before it."""
    order = sorted(costs, key=lambda i: -costs[i].alone)
    for n in range(len(order)):
        for solo, rest in ((order[:n], order[n:]), (order[len(order) - n :], order[: len(order) - n]))[: n + 1]:
            threads = {i: _all(costs[i], n_threads) for i in solo}
            for n_lanes in range(1, min(len(rest), max(1, n_threads)) + 1):
                lanes, each = _lanes({i: costs[i] for i in rest}, n_threads, n_lanes)
                yield Split((*(((i,),) for i in solo), lanes), threads | each)


def _lanes(costs: Mapping[int, Cost], n_threads: int, n_lanes: int) -> tuple[tuple[Lane, ...], dict[int, int]]:
    """Members, the dearest first, each on the emptiest of `n_lanes` lanes; threads by what the lanes cost."""
    lanes: list[list[int]] = [[] for _ in range(n_lanes)]
    loads = [0.0] * n_lanes
    for i, cost in costs.items():
        lane = loads.index(min(loads))
        lanes[lane].append(i)
        loads[lane] += cost.alone
    threads = [1] * n_lanes
    able = [lane for lane, members in enumerate(lanes) if any(costs[i].shared for i in members)]
    for _ in range(n_threads - n_lanes if able else 0):  # each further thread goes where a step waits
        waits = {lane: sum(costs[i].on(threads[lane]) for i in lanes[lane]) for lane in able}
        threads[max(able, key=lambda lane: waits[lane])] += 1
    each = {i: _all(costs[i], threads[lane]) for lane, members in enumerate(lanes) for i in members}
    return tuple(map(tuple, lanes)), each
