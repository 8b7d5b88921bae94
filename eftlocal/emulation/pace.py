"""How many tokens to guess at a time: the length of block that what was measured promises the most tokens a second."""

from collections import deque
from collections.abc import Sequence
from statistics import fmean

__all__ = ["LENGTHS", "Pace", "tokens_per_block"]

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
REMEMBERED = 192  # the last guesses, right or wrong
STALE = 400  # blocks after which a measured time counts no more
SAMPLES = 6  # the last times of each length
PROBED = 16  # every so many blocks, one is a length longer or shorter than the best, so that old measures do not rule
FIRST = 2  # the length before anything is known ...
PRIOR = (True, True, True, False) * 4  # ... and how often guesses are right
SLOPE = 0.15  # of a block's cost for each position more than were measured: rather low, so that it gets tried


class Pace:
    """Measures blocks of guesses and chooses their length; 0 where guessing does not pay."""

    def __init__(self) -> None:
        self._hits: deque[bool | None] = deque(PRIOR, maxlen=REMEMBERED)
        self._seconds: dict[int, deque[tuple[int, float]]] = {n: deque(maxlen=SAMPLES) for n in LENGTHS}
        self._blocks = 0

    def length(self, most: int) -> int:
        """The next block's, at most `most`."""
        self._blocks += 1
        at = LENGTHS.index(self._choose())
        if self._blocks % PROBED == 0:
            at += 1 if self._blocks // PROBED % 2 else -1
        return min(LENGTHS[min(max(at, 0), len(LENGTHS) - 1)], most)

    def took(self, length: int, seconds: float) -> None:
        """A block of that many guesses took so long, all in all."""
        if length in self._seconds:
            self._seconds[length].append((self._blocks, seconds))

    def saw(self, hits: Sequence[bool | None]) -> None:
        """Which of the guesses at successive tokens were right; None where an answer ended."""
        self._hits.extend(hits)

    def costs(self) -> dict[int, float]:
        """Seconds that a block of each length takes, up to one length more than were measured lately.

        The mean of the shorter half of the last times: what else the machine does only adds to them. No longer block
        can be cheaper, so an unlucky time gives way to that of a longer block; between measured lengths costs lie on a
        line.
        """
        fresh = {n: [s for block, s in times if self._blocks - block < STALE] for n, times in self._seconds.items()}
        known = {n: fmean(sorted(times)[: (len(times) + 1) // 2]) for n, times in fresh.items() if times}
        if not known:
            return {FIRST: 1.0}
        longest, shortest = max(known), min(known)
        for n in sorted(known, reverse=True):
            known[n] = min(cost for m, cost in known.items() if m >= n)
        if longest < LENGTHS[-1]:
            further = LENGTHS[LENGTHS.index(longest) + 1]
            known[further] = known[longest] * (1 + SLOPE * (further - longest))
        known.setdefault(0, known[shortest] / (1 + SLOPE * shortest))
        return {n: _between(known, n) for n in LENGTHS if n <= max(known)}

    def _choose(self) -> int:
        hits, costs = list(self._hits), self.costs()
        return max(costs, key=lambda n: tokens_per_block(hits, n) / costs[n])


def _between(known: dict[int, float], length: int) -> float:
    if length in known:
        return known[length]
    low, high = max(n for n in known if n < length), min(n for n in known if n > length)
    return known[low] + (known[high] - known[low]) * (length - low) / (high - low)


def tokens_per_block(hits: Sequence[bool | None], length: int) -> float:
    """How many tokens a block of `length` guesses gave on average, had these been the guesses at successive tokens.

    Counted and not computed from the mean: right guesses come in runs. A run of r and the wrong guess after it take
    r // (length + 1) blocks that are right to the end, each with a token more, and one that is not. None is an
    answer's end: the block in which it comes is cut short.
    """
    tokens = blocks = run = 0
    for hit in (*hits, None):
        if hit is None:
            blocks += -(-run // (length + 1))
            run = 0
            continue
        tokens += 1
        run += 1
        if not hit:
            blocks += (run - 1) // (length + 1) + 1
            run = 0
    return tokens / blocks if blocks else 1.0
