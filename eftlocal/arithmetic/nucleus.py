"""The likeliest tokens of a row: those that together reach a probability, or the k largest. And exact, fast sums."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids, Logits

__all__ = ["largest", "masses", "nucleus", "sum_of"]

BLOCK = 512  # weights in a block: a search looks at the sums of the blocks first, then inside one block


def masses(logits: Logits, peak: np.float32) -> tuple[Logits, float]:
    """Returns exp(logits - peak), (n,) float32, and its sum; `peak` is the largest logit."""
    mass = logits - peak
    np.exp(mass, out=mass)
    return mass, sum_of(mass)


def nucleus(logits: Logits, mass: Logits, total: float, p: float) -> Ids:
    """The smallest set of the likeliest tokens that together reach probability `p` (arXiv 1904.09751): ascending ids.

    `mass` and `total` are what `masses` returns for these logits. Among equal logits at the border, the lowest ids
    are taken.
    """
    # Only tokens above a floor are sorted. All tokens below the last floor weigh less than the nucleus may leave out,
    # so those above it always suffice. The first floor suffices for nearly all rows of real models: their
    # probabilities fall about as the rank squared.
    least = (1 - p) * max(total / len(logits), 1e-23)  # 1e-23 keeps it above 0 in float32
    first = (1 - p) ** 2 / 20
    for floor in (max(first, least), max(first / 20, least), least):
        near: Ids = (mass >= floor).nonzero()[0]
        candidates = logits[near]
        falling = -candidates
        falling.sort()  # the likeliest first; far cheaper than argsort
        count = _reaching(np.exp(falling[0] - falling), p * total)
        if count <= len(near):
            break
    count = min(count, len(near))  # only rounding can put it beyond the last
    return largest(near, candidates, count, -falling[count - 1])


def _reaching(weights: Logits, target: float) -> int:
    """How many of the first weights together reach the target; len(weights) + 1 if all together do not."""
    start, before = 0, 0.0
    if len(weights) > 2 * BLOCK:  # find the block first, then the place in it
        ends = _block_sums(weights).cumsum(dtype=np.float64)
        block = min(int(ends.searchsorted(target)), len(ends) - 1)
        start, before = block * BLOCK, float(ends[block - 1]) if block else 0.0
        weights = weights[start : start + BLOCK]
    return start + 1 + int(weights.cumsum(dtype=np.float64).searchsorted(target - before))


def largest(ids: Ids, logits: Logits, k: int, last: np.float32) -> Ids:
    """The `ids` that have the k largest logits, in their order. logits: (ids,).

    `last` is the k-th largest logit. Among the ids with that logit, the first ones stay.
    """
    taken = logits >= last
    if (surplus := len(ids[taken]) - k) > 0:
        taken[(logits == last).nonzero()[0][-surplus:]] = False
    return ids[taken]


def _block_sums(weights: NDArray[Any]) -> NDArray[Any]:
    """The sums of blocks of BLOCK weights, (ceil(n / BLOCK),) in the weights' own type.

    A block is short enough for a float32 sum to keep its digits, which saves a float64 pass over the vocabulary.
    """
    n, rest = divmod(len(weights), BLOCK)
    sums = np.empty(n + (rest > 0), weights.dtype)
    np.einsum("ij->i", weights[: n * BLOCK].reshape(n, BLOCK), out=sums[:n])  # twice as fast as numpy's other sums
    if rest:
        sums[n] = np.add.reduce(weights[n * BLOCK :])
    return sums


def sum_of(weights: NDArray[Any]) -> float:
    """The sum of the weights. It equals a float64 sum to about float32's last digit."""
    return float(np.add.reduce(_block_sums(weights), dtype=np.float64)) if len(weights) else 0.0
