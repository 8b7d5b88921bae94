"""Decides which members decode at the same time, which one after another, and each with how many threads.

More threads shorten only the matrix products of a decode: a small part of it for one token, nearly all for sixteen. Two
members at the same time use two cores fully, but with three members one of the two cores is idle at the end. So we
search for the best split with a simple model of the cost. Its input is measured speeds, or else estimates from the
weights and the rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log2

SINGLE_THREADED = 32_000_000  # with fewer bytes of weights, threads wait for each other longer than they compute
HANDOVER = 0.05  # the part of a step that a further round must save: its members wait for the slowest before them
PASSES = 3  # how often members and threads are divided again, each by the other

# For estimates, without measured speeds. Measured on 2 cores with SmolLM2-135M in Q4_0, F16 and F32 (92, 270 and
# 540 MB): a further row costs 0.4 to 0.25 of the first, up to about 16 rows. The part of a decode that threads share is
# 0.1, 0.4 and 0.7 for one row; for sixteen rows it is 0.86 in Q4_0 and 0.6 in F16.
ROW, MOST_ROWS = 0.3, 16
SHARED, DOUBLED, MOST_SHARED = 0.1, 0.22, 0.85  # for one row of 90 MB; added for each doubling; at most


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one member's decode.

    one_thread  the time with one thread, in any unit; 0 when the member runs on a device
    shared      the part of that time that threads can divide among them, from 0 to 1
    """

    one_thread: float
    shared: float = 0.0

    def on(self, threads: int) -> float:
        """Returns the time with `threads` threads, in the unit of `one_thread`."""
        return self.one_thread * (1 - self.shared + self.shared / threads)

    @classmethod
    def estimated(cls, read: float, rows: int) -> "Cost":
        """Estimates the cost from `read`, the bytes of weights that a decode reads on the CPU, and the rows."""
        if read <= 0:
            return cls(0.0)
        rows = min(rows, MOST_ROWS)
        one = max(SHARED, SHARED + DOUBLED * log2(read / 90e6))
        shared = min(MOST_SHARED, one if rows == 1 else max(one, 0.6 if rows < 4 else 0.8))
        return cls(read * (1 + ROW * (rows - 1)), shared if read >= SINGLE_THREADED else 0.0)


Chain = tuple[int, ...]  # members that run one after another


@dataclass(frozen=True, slots=True)
class Split:
    """How the members of a step run.

    rounds   run one after another; the chains of a round run at the same time
    threads  the number of threads of each member
    beside   members on devices, which run at the same time as all rounds
    """

    rounds: tuple[tuple[Chain, ...], ...]
    threads: Mapping[int, int]
    beside: Chain = ()


def split_threads(costs: Mapping[int, Cost], n_threads: int) -> Split:
    """Returns the split of `n_threads` threads over the members with the shortest expected step.

    `costs` maps each member to its cost. A member on a device gets one thread of its own, which starts the work and
    waits for it. That thread does not count in `n_threads`.
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
    """Returns the split in which all members run one after another, each with all threads that it can use."""
    return Split(((tuple(costs),),), {i: _all(cost, n_threads) for i, cost in costs.items()})


def step_cost(costs: Mapping[int, Cost], split: Split) -> float:
    """Returns how long a step takes, in the unit of the costs. Each round takes as long as its longest chain."""
    return sum(max(sum(costs[i].on(split.threads[i]) for i in chain) for chain in chains) for chains in split.rounds)


def _all(cost: Cost, n_threads: int) -> int:
    return n_threads if cost.shared else 1


def _splits(costs: Mapping[int, Cost], n_threads: int) -> Iterator[Split]:
    """Yields the splits to compare.

    Some of the most expensive or of the cheapest members run alone first, each in a round of its own. The others run in
    one last round, in any number of chains.
    """
    order = sorted(costs, key=lambda i: -costs[i].one_thread)
    for n in range(len(order)):
        for solo, rest in ((order[:n], order[n:]), (order[len(order) - n :], order[: len(order) - n]))[: n + 1]:
            threads = {i: _all(costs[i], n_threads) for i in solo}
            for n_chains in range(1, min(len(rest), max(1, n_threads)) + 1):
                for chains, each in _chains({i: costs[i] for i in rest}, n_threads, n_chains):
                    yield Split((*(((i,),) for i in solo), chains), threads | each)


def _chains(
    costs: Mapping[int, Cost], n_threads: int, n_chains: int
) -> Iterator[tuple[tuple[Chain, ...], dict[int, int]]]:
    """Divides the members into `n_chains` chains and the threads among the chains. Yields chains and threads.

    Which members suit a chain depends on its threads, and the threads on its members. So each is found with the other,
    PASSES times, beginning with one thread for each chain.
    """
    threads = [1] * n_chains
    for _ in range(PASSES):
        chains = _assigned(costs, threads)
        threads = _divided(costs, chains, n_threads)
        each = {i: _all(costs[i], threads[chain]) for chain, members in enumerate(chains) for i in members}
        yield tuple(tuple(chain) for chain in chains if chain), each


def _assigned(costs: Mapping[int, Cost], threads: Sequence[int]) -> list[list[int]]:
    """The members of each chain. In the order of `costs`, each member goes to the chain that is done first with it."""
    chains: list[list[int]] = [[] for _ in threads]
    loads = [0.0] * len(threads)
    for i, cost in costs.items():
        ends = [load + cost.on(n) for load, n in zip(loads, threads, strict=True)]
        chain = ends.index(min(ends))
        chains[chain].append(i)
        loads[chain] = ends[chain]
    return chains


def _divided(costs: Mapping[int, Cost], chains: Sequence[Sequence[int]], n_threads: int) -> list[int]:
    """The threads of each chain: one, and each further thread goes to the slowest chain that can use it."""
    threads = [1] * len(chains)
    able = [chain for chain, members in enumerate(chains) if any(costs[i].shared for i in members)]
    for _ in range(n_threads - len(chains) if able else 0):
        waits = {chain: sum(costs[i].on(threads[chain]) for i in chains[chain]) for chain in able}
        threads[max(able, key=lambda chain: waits[chain])] += 1
    return threads
