"""Rows of which only the likeliest tokens are known: a server that runs a base gives no more.

A partial row holds the log-probabilities p of the known tokens, and -inf for those outside. With m the smallest known
probability and r = 1 - sum p, each token outside has at most min(m, r), the `limit`, and all together have r.

What follows for the emulator, whose weights are p w with w = exp(sum_k beta_k (log p_tuned_k - log p_reference_k)):

drop    a token outside has the weight 0: the likeliest token is right if its weight is at least that of a token outside
        which has the most that it can have (`most`)
fill    r is spread over the tokens outside in the shape of a guide, the reference's distribution (`filled`)
bound   both are off by at most 1 - U_sure / (U_may + L) in total variation (`bound`). U_n is the sum of the weights of
        the n known tokens of largest weight, L the largest that the weights of the tokens outside can have together.
        Without top-k, top-p and min-p, all known tokens are sure to be kept, and this is L / (U + L)
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids, Logits
from eftlocal.arithmetic.sample import COLDEST, Sampling

__all__ = ["Partial"]

Floats = NDArray[np.floating[Any]]

NEVER = np.float32(-np.inf)
ROUNDS = 30  # of spreading what is above the limit; each fixes the share of one token or more
LEAST = -700.0  # a limit whose exp is above 0; a llama-server says -3.4e38 of a probability that is 0 in float32
SLACK = 2e-6  # an engine's log-probabilities are rounded, and so r is; a reward can make much of a probability of 1e-9
ROUNDING = 1e-5  # of logs, and of sums of probabilities in float32: a border may come one token sooner or later


@dataclass(frozen=True, slots=True, eq=False)
class Partial:
    """A partial row, and what is known of the tokens outside.

    row       (n,) log-probabilities; -inf where a token is outside
    known     (k,) ids of the known tokens
    left_out  r: the probability of all tokens outside together
    limit     the log of the most that one token outside can have
    """

    row: Logits
    known: Ids
    left_out: float
    limit: np.float32

    @classmethod
    def of(cls, row: Logits) -> Self:
        known = (row > NEVER).nonzero()[0]
        logs = row[known]
        r = max(0.0, 1.0 - float(np.exp(logs, dtype=np.float64).sum()))
        limit = max(LEAST, min(float(logs.min()), math.log(r + SLACK))) if len(known) < len(row) else NEVER
        return cls(row, known, r, np.float32(limit))

    @property
    def whole(self) -> bool:
        """Whether all tokens are known."""
        return len(self.known) == len(self.row)

    def knows(self, token: int) -> bool:
        return bool(self.row[token] > NEVER)

    def most(self) -> Logits:
        """The row with the most that each token outside can have."""
        full = np.full_like(self.row, self.limit)
        full[self.known] = self.row[self.known]
        return full

    def filled(self, guide: Logits) -> Logits:
        """The row with r spread over the tokens outside in the shape of `guide` (logits, (n,)), each below the limit.

        A share is min(limit, c x shape). c grows until the shares sum to r, and with it the tokens at the limit.
        """
        if self.whole:
            return self.row.copy()
        full = guide[: len(self.row)].copy()
        full[self.known] = NEVER
        full -= np.maximum.reduce(full)
        shape = np.exp(full)
        r, most, total = self.left_out + SLACK, math.exp(self.limit), float(shape.sum(dtype=np.float64))
        c, capped = (r / total if total > 0 else 0.0), 0
        for _ in range(ROUNDS if c > 0 else 0):
            over = shape[shape > most / c]
            left, rest = r - most * len(over), total - float(over.sum(dtype=np.float64))
            if len(over) == capped or left <= 0 or rest <= total * 1e-12:
                break
            c, capped = max(c, left / rest), len(over)
        full += np.float32(math.log(c)) if c > 0 else NEVER
        np.minimum(full, self.limit, out=full)
        full[self.known] = self.row[self.known]
        return full

    def bound(self, log_w: Logits, sampling: Sampling) -> float:
        """The largest total variation between the emulator and what `drop` or `filled` make of this row.

        log_w: (n,) log w, up to a constant, with all that is added to logits; -inf where a token cannot come. The
        temperature is above 0. Both distributions are cut by top-k, top-p and min-p in turn; typical-p is not counted,
        and log_w has what `sampling` adds to logits.

        Among the known tokens, the order and the ratios of the weights are right. So the two share what they make of
        the first known tokens that are sure to be kept.
        """
        others = log_w + self.limit
        others[self.known] = NEVER
        if np.maximum.reduce(others, initial=NEVER) == NEVER:
            return 0.0
        known = (self.row[self.known] + log_w[self.known]).astype(np.float64)
        known = -np.sort(-known[known > NEVER])
        kept = Kept(known, len(known), len(known), others)
        if 0 < sampling.top_k < len(self.row):
            kept = kept.top_k(sampling.top_k)
        if sampling.top_p < 1 and kept.sure:
            kept = kept.top_p(sampling.top_p, self._together(kept.others, 1.0))
        if sampling.min_p > 0 and kept.sure:
            kept = kept.min_p(math.log(sampling.min_p))
        if not kept.sure:
            return 1.0
        power = 1 / max(sampling.temperature, COLDEST)
        outside = self._together(kept.others, power)
        if outside == NEVER and kept.sure == kept.may:
            return 0.0
        least, all_known = _log_sum(known[: kept.sure] * power), _log_sum(known[: kept.may] * power)
        return max(0.0, -math.expm1(least - float(np.logaddexp(all_known, outside))))

    def _together(self, others: Logits, power: float) -> float:
        """log L: of the largest sum of (p w)^power that the tokens outside can have. others: (n,) log (limit w)."""
        best = np.maximum.reduce(others)
        if best == NEVER:
            return -math.inf
        r, limit = self.left_out + SLACK, math.exp(self.limit)
        if power >= 1:  # a sum of convex functions of the shares: it is largest where they are as unequal as can be
            n = int(r / limit) + 1
            largest = _largest(others, best, n)
            logs = largest.astype(np.float64)
            if len(logs) == n:  # the least of them has what is left
                logs[0] += math.log(min(1.0, max(r / limit - (n - 1), SLACK)))
            return _log_sum(logs * power)
        logs = others[others > NEVER].astype(np.float64)
        all_have = _log_sum((logs - self.limit) * (power / (1 - power))) * (1 - power) + math.log(r) * power
        return min(all_have, _log_sum(logs * power))  # the first by Hoelder's inequality


class Kept(NamedTuple):
    """What stages of sampling keep, whatever the tokens outside have. Each stage gives another one.

    known   (k,) log weights of the known tokens, the largest first
    sure    so many of the first known tokens are kept for certain
    may     no known token after so many of the first is kept
    others  (n,) log (limit w) of the tokens outside, the most that a weight can be; -inf if it is not kept
    """

    known: NDArray[np.float64]
    sure: int
    may: int
    others: Logits

    def top_k(self, k: int) -> "Kept":
        """As `sample._top_k`. Before a known token come those known before it, and those outside that may be above."""
        n, others = min(k, len(self.known)), self.others
        if not n:
            return self._replace(sure=0)
        above = np.sort(others[others >= self.known[n - 1] - ROUNDING])
        before = np.arange(n) + len(above) - np.searchsorted(above, self.known[:n] - ROUNDING)
        if n == k:  # a token below the k-th known one is not kept
            others = np.where(others >= self.known[n - 1] - ROUNDING, others, NEVER)
        return Kept(self.known, int(np.count_nonzero(before < k)), n, others)

    def top_p(self, p: float, together: float) -> "Kept":
        """As `sample._top_p`: a token is kept if those before it have less than `p`. together: log L."""
        top = self.known[0]
        weights, outside = np.exp(self.known[: self.may] - top), math.exp(min(together - top, 700.0))
        upto = np.cumsum(weights)
        before, least, most = upto - weights, upto[self.sure - 1], upto[-1] + outside
        ahead = self.known[: self.sure] > float(self.others.max()) + ROUNDING  # of all tokens outside
        here = before[: self.sure]
        highest = np.where(ahead, here / least, (here + outside) / (least + outside))
        sure = max(int(np.count_nonzero(highest < p - ROUNDING)), int(ahead[0]))  # the first one is always kept
        may = int(np.count_nonzero(before / most < p + ROUNDING))
        others = self.others
        if weights[: self.sure][ahead].sum() / most > p + ROUNDING:  # the border comes before all tokens outside
            others = np.full_like(others, NEVER)
        return Kept(self.known, sure, max(sure, may), others)

    def min_p(self, log_p: float) -> "Kept":
        """As `sample._min_p`: a token is kept if its weight is at least p times the largest one."""
        low = self.known[0] + log_p - ROUNDING
        high = max(self.known[0], float(self.others.max())) + log_p + ROUNDING
        sure = int(np.count_nonzero(self.known[: self.sure] >= high))
        may = int(np.count_nonzero(self.known[: self.may] >= low))
        return Kept(self.known, sure, may, np.where(self.others >= low, self.others, NEVER))


def _largest(logs: Logits, best: np.float32, n: int) -> Logits:
    """The `n` largest of logs, (k,), the least of them first; all that are not -inf, if they are fewer."""
    for floor in (best - 4, best - 8, best - 16, np.finfo(np.float32).min):  # comparing is cheaper than partitioning
        near: Logits = logs[logs >= floor]
        if len(near) >= n:
            break
    if len(near) <= n:
        near.sort()
        return near
    near.partition(len(near) - n)
    return near[len(near) - n :]


def _log_sum(logs: Floats) -> float:
    """log sum exp."""
    highest = float(logs.max())
    return highest + math.log(float(np.exp(logs - highest).sum()))
