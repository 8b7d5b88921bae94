"""A distribution over the next token: its probabilities, and the token that given random numbers draw from it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids
from eftlocal.arithmetic.noise import Noise
from eftlocal.arithmetic.nucleus import sum_of

__all__ = ["Distribution"]

MANY = 2048  # tokens, from which on the unlikely ones are looked through first
LIKELY = 1e-3  # of the likeliest token's weight


class Distribution:
    """A distribution over token ids. Tokens that are not among its ids have probability 0.

    weights  (k,) the tokens' probabilities in any scale: not negative, at least one above 0
    ids      (k,) the token ids, ascending; None stands for 0 .. k - 1, the whole vocabulary, and saves writing it out
    """

    __slots__ = ("_ids", "_weights")

    def __init__(self, weights: NDArray[np.floating[Any]], ids: Ids | None = None) -> None:
        self._weights = weights  # (k,)
        self._ids = ids  # (k,) or None

    @property
    def only(self) -> int | None:
        """The one possible token; None when there are several."""
        if len(self._weights) > 1:
            return None
        return 0 if self._ids is None else int(self._ids[0])

    @property
    def ids(self) -> Ids:
        """(k,) the token ids, ascending."""
        return np.arange(len(self._weights)) if self._ids is None else self._ids

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(k,) float64, in the order of `ids`; they sum to 1."""
        probabilities: NDArray[np.float64] = np.divide(self._weights, sum_of(self._weights), dtype=np.float64)
        return probabilities

    def dense(self, n_vocab: int) -> NDArray[np.float64]:
        """(n_vocab,) float64: the probability of every token."""
        probabilities = np.zeros(n_vocab)
        probabilities[slice(len(self._weights)) if self._ids is None else self._ids] = self.probabilities
        return probabilities

    def draw(self, noise: Noise, position: int) -> int:
        """The token that `noise` draws at this position: a function of the two and of the distribution."""
        if (only := self.only) is not None:
            return only
        ids, weights = self.ids, self._weights
        if len(ids) > MANY:  # only few of the unlikely can win against the best of the likely
            likely = (weights >= weights.max() * LIKELY).nonzero()[0]
            best = (noise.exponentials(position, ids[likely]) / weights[likely]).min()
            near = noise.below(position, ids, float(best * weights.max() * LIKELY))
            chosen = np.union1d(likely, near)
            ids, weights = ids[chosen], weights[chosen]
        race = noise.exponentials(position, ids)
        with np.errstate(divide="ignore"):  # a weight of 0 never wins
            race /= weights
        return int(ids[race.argmin()])
