"""Rows of which only the likeliest tokens are known: a server that runs a base gives no more.

A partial row holds the log-probabilities of the set S of known tokens, and -inf for the others. With m the smallest
known probability and r = 1 - sum_S p, each token outside has at most min(m, r), and all together have r.

What follows for the emulator, whose weights are p w with w = exp(sum_k beta_k (log p_tuned_k - log p_reference_k)):

drop    a token outside has the weight 0: the likeliest token is right if its weight is at least that of a token outside
        which has the most that it can have (`most`)
fill    r is spread over the tokens outside in the shape of a guide, the reference's distribution (`filled`)
bound   both are off by at most L / (Z_S + L) in total variation, with L the largest weight that the tokens outside can
        have together (`bound`): conditioned on S, they are the emulator's distribution
"""

import math

import numpy as np

from eftlocal.arithmetic.combine import Logits, log_softmax

__all__ = ["bound", "filled", "is_partial", "left_out", "most"]

ROUNDS = 8  # of spreading what is above the most a token can have
SLACK = 2e-6  # an engine's log-probabilities are rounded, and so r is; a reward can make much of a probability of 1e-9


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


def bound(row: Logits, log_w: Logits) -> float:
    """The largest total variation between the emulator and what `drop` or `filled` make of a partial row.

    log_w: (n,) the log of the weights w, up to a constant.
    """
    outside, r, limit = np.isneginf(row), left_out(row) + SLACK, _limit(row)
    if limit <= 0 or not outside.any():
        return 0.0
    w = np.exp(log_w.astype(np.float64) - float(log_w.max()))
    inside = float((np.exp(row[~outside].astype(np.float64)) * w[~outside]).sum())
    n = min(int(r / limit) + 1, int(outside.sum()))
    largest = np.sort(np.partition(w[outside], -n)[-n:])[::-1]
    shares = np.full(n, limit)
    shares[-1] = max(0.0, min(limit, r - limit * (n - 1)))
    weight = float((largest * shares).sum())
    return weight / (inside + weight) if weight > 0 else 0.0
