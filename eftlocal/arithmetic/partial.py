"""Rows of which only the likeliest tokens are known: a server that runs a base gives no more.

A partial row holds the log-probabilities of the set S of known tokens, and -inf for the others. With m the smallest
known probability and r = 1 - sum_S p, each token outside has at most min(m, r), and all together have r.

What follows for the emulator, whose weights are p w with w = exp(sum_k beta_k (log p_tuned_k - log p_reference_k)):

drop    a token outside has the weight 0: the likeliest token is right if its weight is at least that of a token outside
        which has the most that it can have (`most`)
fill    r is spread over the tokens outside in the shape of a guide, the reference's distribution (`filled`)
bound   both are off by at most L / (Z_S + L) in total variation, with L the largest weight that the tokens outside can
        have together: conditioned on S, they are the emulator's distribution (`bound`, also with temperature and top-p)
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import log_softmax

__all__ = ["bound", "filled", "is_partial", "left_out", "most"]

Floats = NDArray[np.floating[Any]]

ROUNDS = 8  # of spreading what is above the most a token can have
SLACK = 2e-6  # an engine's log-probabilities are rounded, and so r is; a reward can make much of a probability of 1e-9
ROUNDING = 1e-5  # of a sum of probabilities in float32, at which a nucleus may end one token sooner or later


def is_partial(row: Logits) -> bool:
    """Whether tokens of a row, (n,), are not known."""
    return bool(np.isneginf(row).any())


def left_out(row: Logits) -> float:
    """r: the probability of all tokens that are not known together."""
    return max(0.0, 1.0 - float(np.exp(row, dtype=np.float64).sum()))


def _limit(row: Logits) -> float:
    """The most that one token outside can have, as a probability."""
    return min(math.exp(float(row[np.isfinite(row)].min())), left_out(row) + SLACK)


def most(row: Logits) -> Logits:
    """The row with the most that each token outside can have."""
    limit = _limit(row)
    outside = np.float32(math.log(limit)) if limit > 0 else np.float32(-np.inf)
    return np.where(np.isneginf(row), outside, row)


def filled(row: Logits, guide: Logits) -> Logits:
    """The row with r spread over the tokens outside in the shape of `guide` (logits, (n,)), each at most the limit."""
    outside, r, limit = np.isneginf(row), left_out(row) + SLACK, _limit(row)
    full = row.copy()
    if not outside.any():
        return full
    shape = np.exp(log_softmax(guide[None, : len(row)])[0, outside].astype(np.float64))
    share, left = np.zeros_like(shape), r
    for _ in range(ROUNDS):
        free = share < limit
        total = shape[free].sum()
        if left <= r * 1e-6 or total <= 0:
            break
        share[free] += left * shape[free] / total
        left = float(np.maximum(share - limit, 0).sum())
        np.minimum(share, limit, out=share)
    with np.errstate(divide="ignore"):
        full[outside] = np.log(share)
    return full


def bound(row: Logits, log_w: Logits, temperature: float = 1.0, top_p: float = 1.0) -> float:
    """The largest total variation between the emulator and what `drop` or `filled` make of a partial row.

    Both at this temperature, above 0, and within their own nuclei, which top-p takes before the temperature. Other ways
    to cut a distribution (top-k, min-p) can make more of a small difference. log_w: (n,) log w, up to a constant.

    Among the known tokens, the order and the ratios of the weights are right, so any two such distributions share what
    they make of the first known tokens, which are `sure` to be in both. No more than `may` be in one, and what is
    outside has at most L. With U the sums of the weights of the first known tokens: TV <= 1 - U_sure / (U_may + L).
    """
    outside, limit = np.isneginf(row), _limit(row)
    if limit <= 0 or not outside.any():
        return 0.0
    others = log_w[outside].astype(np.float64)
    known = -np.sort(-(row[~outside].astype(np.float64) + log_w[~outside]))
    weight, sure, may = _most_outside(row, others, 1 / temperature), len(known), len(known)
    if top_p < 1:
        off = _share(_most_outside(row, others, 1.0), _log_sum(known))
        p = np.exp(known - _log_sum(known))
        before = np.cumsum(p) - p  # among the known tokens alone: `off` of that may go to tokens outside
        ahead = known > math.log(limit) + float(others.max())  # of all tokens outside
        sure = int(np.count_nonzero(np.where(ahead, before, before + off * (1 - before)) < top_p - ROUNDING))
        sure = max(sure, int(ahead[0]))
        may = int(np.count_nonzero(before * (1 - off) < top_p + ROUNDING))
        if p[ahead].sum() * (1 - off) > top_p + ROUNDING:
            weight = -math.inf
        if not sure:
            return 1.0
    inside, least = _log_sum(known[:may] / temperature), _log_sum(known[:sure] / temperature)
    return 1 - math.exp(least - np.logaddexp(inside, weight)) if weight > -math.inf or sure < may else 0.0


def _most_outside(row: Logits, others: Floats, power: float) -> float:
    """The log of the largest sum of (p w)^power over the tokens outside. others: their log w."""
    r, limit = left_out(row) + SLACK, _limit(row)
    if power >= 1:  # a sum of convex functions of the shares: it is largest where the shares are as unequal as may be
        n = min(int(r / limit) + 1, len(others))
        largest = -np.sort(-np.partition(others, -n)[-n:])
        shares = np.full(n, limit)
        shares[-1] = min(limit, max(r - limit * (n - 1), SLACK * limit))
        return _log_sum((np.log(shares) + largest) * power)
    together = _log_sum(others * (power / (1 - power))) * (1 - power) + math.log(r) * power  # Hoelder's inequality
    return min(together, _log_sum((math.log(limit) + others) * power))


def _share(log_part: float, log_rest: float) -> float:
    """What part of a sum a number is, of the logs of it and of the rest."""
    return math.exp(log_part - float(np.logaddexp(log_part, log_rest)))


def _log_sum(logs: Floats) -> float:
    """log sum exp."""
    highest = float(logs.max())
    return highest + math.log(float(np.exp(logs - highest).sum()))
