"""Who runs when: which members decode at the same time, which after one another, and on how many threads each.

Threads make a decode shorter by what its matrices are, little of one token and nearly all of sixteen; models side by
side gain the cores whole, but three of them leave one of two cores idle at the end. So the split is searched by a small
model of cost, which is fed with what was measured, or with what weights and rows promise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log2

SINGLE_THREADED = 32_000_000  # bytes of weights below which threads wait for each other longer than they compute
HANDOVER = 0.05  # of a step: what a further round has to win, whose members wait for the slowest of the one before

# Where nothing was measured. On 2 cores, of SmolLM2-135M in Q4_0, F16 and F32 (92, 270 and 540 MB): a row more costs
# 0.4 to 0.25 of the first, up to about 16. More threads make 0.1, 0.4 and 0.7 of one row shorter, and of sixteen 0.86
# and 0.6 in Q4_0 and F16.
ROW, MOST_ROWS = 0.3, 16
SHARED, DOUBLED, MOST_SHARED = 0.1, 0.22, 0.85  # of one row of 90 MB; for each time twice as much; at most


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one member's decode: `one_thread` with one thread, in any unit; 0 is: on a device. `shared`: what threads share."""

    one_thread: float
    shared: float = 0.0

    def on(self, threads: int) -> float:
        """With so many threads."""
        return self.one_thread * (1 - self.shared + self.shared / threads)

    @classmethod
    def estimated(cls, read: float, rows: int) -> "Cost":
        """From the bytes of weights that a decode reads on the CPU, for so many rows."""
        if read <= 0:
            return cls(0.0)
        rows = min(rows, MOST_ROWS)
        one = max(SHARED, SHARED + DOUBLED * log2(read / 90e6))
        shared = min(MOST_SHARED, one if rows == 1 else max(one, 0.6 if rows < 4 else 0.8))
        return cls(read * (1 + ROW * (rows - 1)), shared if read >= SINGLE_THREADED else 0.0)


Chain = tuple[int, ...]  # members that run in turn


@dataclass(frozen=True, slots=True)
class Split:
    """`rounds` follow each other, and in a round its chains run at the same time. `threads`: by member.

    `beside`: members on devices, which run all the while.
    """

    rounds: tuple[tuple[Chain, ...], ...]
    threads: Mapping[int, int]
    beside: Chain = ()


def split_threads(costs: Mapping[int, Cost], n_threads: int) -> Split:
    """The split of `n_threads` over members that promises the shortest step. `costs`: by member.

    A member on a device has one thread, which hands over the work and waits, and which is none of `n_threads`.
    """
    here = {i: cost for i, cost in costs.items() if cost.one_thread > 0}
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
    """How long a step takes under `split`, in the costs' unit: each round as long as its longest chain."""
    return sum(max(sum(costs[i].on(split.threads[i]) for i in chain) for chain in chains) for chains in split.rounds)


def _all(cost: Cost, n_threads: int) -> int:
    return n_threads if cost.shared else 1


def _splits(costs: Mapping[int, Cost], n_threads: int) -> Iterator[Split]:
    """All members in one round of some chains; or some of the dearest, or the cheapest, each in a round before it."""
    order = sorted(costs, key=lambda i: -costs[i].one_thread)
    for n in range(len(order)):
        for solo, rest in ((order[:n], order[n:]), (order[len(order) - n :], order[: len(order) - n]))[: n + 1]:
            threads = {i: _all(costs[i], n_threads) for i in solo}
            for n_chains in range(1, min(len(rest), max(1, n_threads)) + 1):
                chains, each = _chains({i: costs[i] for i in rest}, n_threads, n_chains)
                yield Split((*(((i,),) for i in solo), chains), threads | each)


def _chains(costs: Mapping[int, Cost], n_threads: int, n_chains: int) -> tuple[tuple[Chain, ...], dict[int, int]]:
    """Members, the dearest first, each on the emptiest of `n_chains` chains; threads by what the chains cost."""
    chains: list[list[int]] = [[] for _ in range(n_chains)]
    loads = [0.0] * n_chains
    for i, cost in costs.items():
        chain = loads.index(min(loads))
        chains[chain].append(i)
        loads[chain] += cost.one_thread
    threads = [1] * n_chains
    able = [chain for chain, members in enumerate(chains) if any(costs[i].shared for i in members)]
    for _ in range(n_threads - n_chains if able else 0):  # each further thread goes where a step waits
        waits = {chain: sum(costs[i].on(threads[chain]) for i in chains[chain]) for chain in able}
        threads[max(able, key=lambda chain: waits[chain])] += 1
    each = {i: _all(costs[i], threads[chain]) for chain, members in enumerate(chains) for i in members}
    return tuple(map(tuple, chains)), each
