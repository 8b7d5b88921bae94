"""Chooses how many tokens to guess at a time: the draft length that promises the most tokens a second.

A draft has two costs: the draft model makes the guesses one by one, and all members check them in one decode. The cost
of the check depends on its rows, which are the positions of all sequences. It does not grow in a straight line, and it
does not always grow: llama.cpp's repacked kernels take 4 rows at a time, so on one CPU 8 rows took 21 ms and 7 took 28.
Every token shows whether a guess for it would have been right, also if none was made.

The choice is a multi-armed bandit problem, and the rule is UCB (Auer et al. 2002): take the length that might be the
fastest. The fewer measurements there are, the further the true cost may lie below the measured one. So a length is
tried as long as it could win, and not longer.

Guesses from prompt look-up cost only their check. Every token that follows a match shows whether they would have been
right.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

__all__ = ["LENGTHS", "AcceptanceRuns", "DraftLength"]

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 15)  # many kernels take 4 rows at a time; some gain from finer steps
FIRST = 3  # the longest draft while the draft model's cost is unknown
PRIOR = (True, True, True, False) * 4  # before any guess was made: 3 of 4 guesses are right
LOOKED_UP = (False,) * 8  # the same for prompt look-up: all guesses are wrong
LONG = 8  # a match of this many tokens mostly continues
HALF_TOKENS = 128  # a guess counts half after this many tokens
HALF_BLOCKS = 300  # a measured time counts half after this many steps
SAMPLES = 16  # how many of the last times are kept for each kind of decode
UNSURE = 0.08  # the true cost may lie this share below one measured time; below n times, this share divided by n
STALE = 0.5  # the largest such share, reached when the times are old: machines change
UNKNOWN = 0.3  # a cost that was not measured may lie this share below the curve through those that were
GROWTH = 0.25  # outside the measured range, the curve grows with the rows to this power
RECENT = 9  # this many of the last checks tell how fast the machine is now
EXACT = 17  # above this many rows, all numbers up to the next multiple of 4 cost the same


class AcceptanceRuns:
    """Counts how many tokens a step gives with drafts of each length, for the guesses seen so far.

    The mean acceptance is not enough, because right guesses come in runs. A run is r right guesses and the wrong one
    after them. With drafts of length n it takes r // (n + 1) drafts that are right to the end, and one that is not. A
    draft that is right to the end gives n + 1 tokens. A guess counts half after `half` tokens.
    """

    def __init__(self, lengths: Sequence[int], half: float = float("inf")) -> None:
        self._half = half
        self._tokens = 0.0
        self._blocks = dict.fromkeys(lengths, 0.0)
        self._run = 0

    def saw(self, hits: Iterable[bool | None]) -> None:
        """Count guesses: whether each was right, in order. None is the end of an answer, which cuts a draft short."""
        for hit in hits:
            if hit is not None:
                self._run += 1
            if not hit:
                right = self._run if hit is None else self._run - 1
                faded = 0.5 ** (self._run / self._half)
                self._tokens = self._tokens * faded + self._run
                for n, blocks in self._blocks.items():
                    more = -(-right // (n + 1)) if hit is None else right // (n + 1) + 1
                    self._blocks[n] = blocks * faded + more
                self._run = 0

    def per_block(self, length: int) -> float:
        """Mean tokens of a step with drafts of this length; 1 if no guess was counted."""
        blocks = self._blocks[length] + self._run / (length + 1)  # the run is not over
        return (self._tokens + self._run) / blocks if blocks else 1.0


class CostEstimate:
    """The cost of one kind of decode in seconds, when the machine runs at its usual speed."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=SAMPLES)
        self._evidence = 0.0  # how many times were measured; older ones count less
        self._when = 0  # the step of the last time, for which `_evidence` holds
        self.usual = 0.0  # median of the last times

    def add(self, seconds: float, block: int) -> None:
        """Add a measured time, in the step number `block`."""
        self._evidence = min(SAMPLES, self._left(block) + 1)
        self._when = block
        self._last.append(seconds)
        self.usual = median(self._last)

    def least(self, block: int) -> float:
        """The lowest cost that is still plausible in the step number `block`."""
        return self.usual * (1 - min(STALE, UNSURE / self._left(block)))

    @property
    def several(self) -> bool:
        """Whether more than one time is known. A single time may be far off."""
        return len(self._last) > 1

    def _left(self, block: int) -> float:
        return float(self._evidence * 0.5 ** ((block - self._when) / HALF_BLOCKS))


class DraftLength:
    """Learns what drafts cost and gain, and chooses their length. 0 means that a draft would not be faster."""

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        self._lengths = lengths
        self._runs = AcceptanceRuns(LENGTHS, HALF_TOKENS)
        self._runs.saw(PRIOR)
        self._lookup_runs = {long: AcceptanceRuns(LENGTHS, HALF_TOKENS) for long in (False, True)}
        for runs in self._lookup_runs.values():
            runs.saw(LOOKED_UP)
        self._checks: dict[int, CostEstimate] = {}  # number of rows -> cost of a check
        self._lookups: dict[int, CostEstimate] = {}  # the same for guesses from prompt look-up
        self._drafts: dict[int, CostEstimate] = {}  # number of sequences -> cost of one guess
        self._slow: deque[float] = deque([1.0], maxlen=RECENT)  # time / usual time: how much the machine is slowed
        self._block = 0  # number of the step
        self._rate = 0.0  # tokens a second for each sequence, at best, with the chosen length

    def draft_model(self, most: int, sequences: int = 1) -> int:
        """How many tokens the draft model should guess next for each of `sequences`; at most `most`."""
        self._block += 1
        if not self._checks:
            return 0
        able = [n for n in self._lengths if n <= (most if self._drafts else min(most, FIRST))]
        rates = {n: self._runs.per_block(n) / self._least(n, sequences) for n in able}
        best = max(rates, key=lambda n: rates[n])
        self._rate = rates[best]
        return best

    def lookup(self, matched: int, most: int, sequences: int = 1) -> int:
        """How many tokens to guess by prompt look-up instead, after a match of `matched` tokens.

        0 if the draft model, or no draft at all, promises more tokens a second. Call `draft_model` first.
        """
        if not self._checks or not matched:
            return 0
        runs = self._lookup_runs[matched >= LONG]
        rates = {n: runs.per_block(n) / self._lookup(n, sequences) for n in LENGTHS if 0 < n <= most}
        best = max(rates, key=lambda n: rates[n], default=0)
        return best if best and rates[best] > self._rate else 0

    def drafted(self, guesses: int, seconds: float, sequences: int = 1) -> None:
        """Learn that the draft model took `seconds` for `guesses` decodes. Each made one guess for each sequence."""
        self._drafts.setdefault(sequences, CostEstimate()).add(seconds / guesses / median(self._slow), self._block)

    def checked(self, rows: int, seconds: float, *, looked_up: bool = False) -> None:
        """Learn that checking `rows` and drawing from them took `seconds`. `looked_up`: guesses came from look-up."""
        times = (self._lookups if looked_up else self._checks).setdefault(_alike(rows), CostEstimate())
        if times.several:
            self._slow.append(seconds / times.usual)
        times.add(seconds / median(self._slow), self._block)

    def saw(self, hits: Sequence[bool | None]) -> None:
        """Learn whether each guess was right, in order; None where an answer ended."""
        self._runs.saw(hits)

    def repeated(self, seen: Sequence[tuple[int, bool]]) -> None:
        """Learn from prompt look-up: for each token after a match, its length and whether the guess was right."""
        for matched, hit in seen:
            self._lookup_runs[False].saw([hit])
            if matched >= LONG:
                self._lookup_runs[True].saw([hit])

    def _least(self, length: int, sequences: int) -> float:
        """The lowest plausible seconds of a step with a draft of this length."""
        guess = 0.0
        if length and self._drafts:
            guess = self._drafts[min(self._drafts, key=lambda n: abs(n - sequences))].least(self._block)
        return length * guess + self._check(self._checks, length, sequences)

    def _lookup(self, length: int, sequences: int) -> float:
        """The same for guesses from prompt look-up."""
        return self._check(self._lookups or self._checks, length, sequences)

    def _check(self, known: Mapping[int, CostEstimate], length: int, sequences: int) -> float:
        """The lowest plausible seconds of a check. It is never below that of a step without guesses."""
        rows, plain = _alike(sequences * (length + 1)), self._checks.get(_alike(sequences))
        least = known[rows].least(self._block) if rows in known else (1 - UNKNOWN) * _curve(known, rows)
        return least if plain is None else max(least, plain.least(self._block))


def _curve(known: Mapping[int, CostEstimate], rows: int) -> float:
    """The cost of a check that was not measured, interpolated between the usual costs of those that were."""
    measured = sorted(known)
    at = bisect_left(measured, rows)
    if at in (0, len(measured)):
        nearest = measured[min(at, len(measured) - 1)]
        return float(known[nearest].usual * (rows / nearest) ** GROWTH)
    low, high = measured[at - 1], measured[at]
    part = (rows - low) / (high - low)
    return (1 - part) * known[low].usual + part * known[high].usual


def _alike(rows: int) -> int:
    """The largest number of rows that costs as much as these: above EXACT, the next multiple of 4."""
    return rows if rows <= EXACT else -(-rows // 4) * 4
