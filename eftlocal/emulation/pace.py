"""How many tokens to guess at a time: the length of block that what was measured promises the most tokens a second."""

from collections import deque
from collections.abc import Sequence
from statistics import median

__all__ = ["LENGTHS", "Pace", "tokens_per_block"]

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
REMEMBERED = 128  # the last guesses, right or wrong
REVIEWED = 16  # blocks until the length is chosen anew
PROBED = 16  # every so many blocks, one is a length longer or shorter than the best, so that old measures do not rule
SAMPLES = 5  # the last times of each length
FIRST = 2  # the length before anything is known ...
PRIOR = (True, True, True, False) * 4  # ... and how often guesses are right
SLOPE = 0.1  # of a block's cost for each position more, where no longer block was measured: low, so that it gets tried


class Pace:
    """Measures blocks of guesses and chooses their length; 0 where guessing does not pay."""

    def __init__(self) -> None:
        self._hits: deque[bool] = deque(PRIOR, maxlen=REMEMBERED)
        self._seconds: dict[int, deque[float]] = {}
        self._blocks = 0
        self._best = FIRST

    def length(self, most: int) -> int:
        """The next block's, at most `most`."""
        if self._blocks % REVIEWED == 0 or len(self._seconds.get(self._best, ())) < 2 or self._blocks < REVIEWED:
            self._best = self._choose()
        chosen = self._best
        if self._blocks % PROBED == PROBED - 1:
            up = self._blocks // PROBED % 2 == 0
            at = LENGTHS.index(self._best) + (1 if up else -1)
            chosen = LENGTHS[min(max(at, 0), len(LENGTHS) - 1)]
        self._blocks += 1
        return min(chosen, most)

    def took(self, length: int, seconds: float) -> None:
        """A block of that many guesses took so long, all in all."""
        self._seconds.setdefault(length, deque(maxlen=SAMPLES)).append(seconds)

    def saw(self, hits: Sequence[bool]) -> None:
        """Which of the guesses at successive tokens were right."""
        self._hits.extend(hits)

    def cost(self, length: int) -> float:
        """Seconds that a block of this length takes: measured, or drawn in a line through those that were."""
        known = {n: median(times) if len(times) > 2 else min(times) for n, times in self._seconds.items()}
        if length in known or not known:
            return known.get(length, 1.0)
        below, above = [n for n in known if n < length], [n for n in known if n > length]
        if below and above:
            low, high = max(below), min(above)
            return known[low] + (known[high] - known[low]) * (length - low) / (high - low)
        nearest = max(below) if below else min(above)
        return max(known[nearest] * (1 + SLOPE * (length - nearest)), 1e-9)

    def _choose(self) -> int:
        hits = list(self._hits)
        return max(LENGTHS, key=lambda n: tokens_per_block(hits, n) / self.cost(n))


def tokens_per_block(hits: Sequence[bool], length: int) -> float:
    """How many tokens a block of `length` guesses gave on average, had these been the guesses at successive tokens.

    Replayed and not computed from the mean: right guesses come in runs.
    """
    blocks = at = 0
    while at < len(hits):
        end = min(at + length, len(hits))
        while at < end and hits[at]:
            at += 1
        at += 1  # the token that was drawn instead, or after the last guess
        blocks += 1
    return len(hits) / blocks if blocks else 1.0
