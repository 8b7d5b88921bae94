"""How many tokens to guess at a time: the length of block that what was measured promises the most tokens a second.

A block costs its guesses, which the drafter makes one by one, and their check, which depends on the rows it has: the
positions of all sequences. That cost is no line and does not even rise always: llama.cpp's repacked kernels take 4
rows at a time, so on one CPU 8 rows took 21 ms and 7 took 28. How often guesses are right is seen at every token,
whether they were made or not.

So the choice is one among several arms of unknown worth, and the rule is that of UCB (Auer et al. 2002): take the
length whose rate might be the highest, costs being as far below the measured as the measurements are few. A length is
tried while it could win, and where it could not, never.

Guesses that are looked up in a text that repeats itself cost nothing but their check. Whether they would have been
right is seen at every token as well.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

__all__ = ["LENGTHS", "AcceptanceRuns", "DraftLength"]

LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 15)  # 4 rows at a time, and the finer steps that other kernels reward
FIRST = 3  # at most that long while nothing is known of the drafter's cost
PRIOR = (True, True, True, False) * 4  # how often guesses are right, before any was seen ...
LOOKED_UP = (False,) * 8  # ... and how often those that are looked up
LONG = 8  # tokens from which on a repetition mostly goes on
HALF_TOKENS = 128  # tokens after which a guess counts half ...
HALF_BLOCKS = 300  # ... and blocks after which a time does, as evidence
SAMPLES = 16  # the last times of each kind of decode
UNSURE = 0.08  # how far one time may lie above the true cost; several, by as much divided by their number
STALE = 0.5  # and at most by that, however old it is: machines change
UNKNOWN = 0.3  # how far a cost may lie below the curve through the measured ones
GROWTH = 0.25  # that curve beyond them: rows to this power
RECENT = 9  # the last checks say how fast the machine is now
EXACT = 17  # rows from which on 4 of them cost alike


class AcceptanceRuns:
    """How many tokens blocks of each length give, had the guesses that were seen been those at successive tokens.

    Counted and not computed from their mean: right guesses come in runs. A run of r and the wrong guess after it take
    r // (length + 1) blocks that are right to the end, each with a token more, and one that is not. Older ones count
    half every `half` tokens.
    """

    def __init__(self, lengths: Sequence[int], half: float = float("inf")) -> None:
        self._half = half
        self._tokens = 0.0
        self._blocks = dict.fromkeys(lengths, 0.0)
        self._run = 0

    def saw(self, hits: Iterable[bool | None]) -> None:
        """Which of the guesses at successive tokens were right; None where an answer ended, cutting its block short."""
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
        """Tokens a block; 1 where nothing was seen."""
        blocks = self._blocks[length] + self._run / (length + 1)  # the run goes on
        return (self._tokens + self._run) / blocks if blocks else 1.0


class CostEstimate:
    """Seconds of one kind of decode, as they would be at the machine's usual speed."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=SAMPLES)
        self._evidence = 0.0  # how many times, older ones counting less ...
        self._when = 0  # ... as of this block
        self.usual = 0.0

    def add(self, seconds: float, block: int) -> None:
        """It took so long, in that block."""
        self._evidence = min(SAMPLES, self._left(block) + 1)
        self._when = block
        self._last.append(seconds)
        self.usual = median(self._last)

    def least(self, block: int) -> float:
        """What it may cost at best, as far as is known in that block."""
        return self.usual * (1 - min(STALE, UNSURE / self._left(block)))

    @property
    def several(self) -> bool:
        """Whether one unlucky time is not all that is known."""
        return len(self._last) > 1

    def _left(self, block: int) -> float:
        return float(self._evidence * 0.5 ** ((block - self._when) / HALF_BLOCKS))


class DraftLength:
    """Measures blocks of guesses and chooses their length; 0 where guessing does not pay."""

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        self._lengths = lengths
        self._runs = AcceptanceRuns(LENGTHS, HALF_TOKENS)
        self._runs.saw(PRIOR)
        self._repeats = {long: AcceptanceRuns(LENGTHS, HALF_TOKENS) for long in (False, True)}
        for runs in self._repeats.values():
            runs.saw(LOOKED_UP)
        self._checks: dict[int, CostEstimate] = {}  # by rows
        self._copies: dict[int, CostEstimate] = {}  # where guesses were looked up: the drafter reads them too
        self._drafts: dict[int, CostEstimate] = {}  # of one guess for each of so many sequences
        self._slow: deque[float] = deque([1.0], maxlen=RECENT)  # times over usual ones: what all decodes have in common
        self._block = 0
        self._rate = 0.0  # tokens a second and sequence that the chosen length may give

    def length(self, most: int, sequences: int = 1) -> int:
        """How many guesses the drafter is to make for the next block, at most `most`, for so many sequences at once."""
        self._block += 1
        if not self._checks:
            return 0
        able = [n for n in self._lengths if n <= (most if self._drafts else min(most, FIRST))]
        rates = {n: self._runs.per_block(n) / self._least(n, sequences) for n in able}
        best = max(rates, key=lambda n: rates[n])
        self._rate = rates[best]
        return best

    def copied(self, matched: int, most: int, sequences: int = 1) -> int:
        """How many guesses are to be looked up instead, after a repetition of so many tokens; 0 where the drafter's, or
        none, give more tokens a second.
        """
        if not self._checks or not matched:
            return 0
        runs = self._repeats[matched >= LONG]
        rates = {n: runs.per_block(n) / self._copy(n, sequences) for n in LENGTHS if 0 < n <= most}
        best = max(rates, key=lambda n: rates[n], default=0)
        return best if best and rates[best] > self._rate else 0

    def drafted(self, guesses: int, seconds: float, sequences: int = 1) -> None:
        """So many guesses for each sequence, one decode each, took so long."""
        self._drafts.setdefault(sequences, CostEstimate()).add(seconds / guesses / median(self._slow), self._block)

    def checked(self, rows: int, seconds: float, *, copied: bool = False) -> None:
        """The check of a block with so many rows took so long, with what was drawn from them; `copied`: whether guesses
        were looked up.
        """
        times = (self._copies if copied else self._checks).setdefault(_alike(rows), CostEstimate())
        if times.several:
            self._slow.append(seconds / times.usual)
        times.add(seconds / median(self._slow), self._block)

    def saw(self, hits: Sequence[bool | None]) -> None:
        """Which of the guesses at successive tokens were right; None where an answer ended."""
        self._runs.saw(hits)

    def repeated(self, seen: Sequence[tuple[int, bool]]) -> None:
        """Where the text repeated itself: after how many tokens, and whether it went on to."""
        for matched, hit in seen:
            self._repeats[False].saw([hit])
            if matched >= LONG:
                self._repeats[True].saw([hit])

    def _least(self, length: int, sequences: int) -> float:
        """Seconds that a block may take at best."""
        guess = 0.0
        if length and self._drafts:
            guess = self._drafts[min(self._drafts, key=lambda n: abs(n - sequences))].least(self._block)
        return length * guess + self._check(self._checks, length, sequences)

    def _copy(self, length: int, sequences: int) -> float:
        """The same of one whose guesses are looked up."""
        return self._check(self._copies or self._checks, length, sequences)

    def _check(self, known: Mapping[int, CostEstimate], length: int, sequences: int) -> float:
        """Seconds of a check at best: more rows may cost less than fewer, but not less than those without guesses."""
        rows, plain = _alike(sequences * (length + 1)), self._checks.get(_alike(sequences))
        least = known[rows].least(self._block) if rows in known else (1 - UNKNOWN) * _curve(known, rows)
        return least if plain is None else max(least, plain.least(self._block))


def _curve(known: Mapping[int, CostEstimate], rows: int) -> float:
    """The usual cost of checks that were not measured, on a line between those that were."""
    measured = sorted(known)
    at = bisect_left(measured, rows)
    if at in (0, len(measured)):
        nearest = measured[min(at, len(measured) - 1)]
        return float(known[nearest].usual * (rows / nearest) ** GROWTH)
    low, high = measured[at - 1], measured[at]
    part = (rows - low) / (high - low)
    return (1 - part) * known[low].usual + part * known[high].usual


def _alike(rows: int) -> int:
    """The largest number of rows that costs what these do."""
    return rows if rows <= EXACT else -(-rows // 4) * 4
