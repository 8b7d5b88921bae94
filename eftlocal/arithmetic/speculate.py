"""Speculative sampling: a token drawn from one distribution so that it is likely the one drawn from another.

Leviathan et al., arXiv 2211.17192, algorithm 1. A guess x comes from the draft's distribution q; with probability
min(1, p(x) / q(x)) it is the token, and else the token comes from the residual max(p - q, 0): the token is distributed
as p, whatever q is. Greedy decoding is the case of distributions on one token.

Here the rule belongs to the position, not to the block: position n has three uniform numbers of its own (one for the
guess, one for the acceptance, one for the residual), and the token there is a function of p, q and those three. So it
is the same whether it was guessed in a block of eight, in one of two or not at all, and a seed's text does not depend
on how long the blocks were. A guess only says which positions were worth computing together; any source may make it.

That is as exact as the logits are, and llama.cpp computes several rows by other kernels than one row, drafts or none.
Of SmolLM2-135M on a CPU, in blocks of 2 to 40 tokens: after an F16 cache, Q4_0 and Q8_0 logits are the same to the bit,
F16 and F32 ones differ by up to 0.06 and 0.03. After an F32 cache, which means no flash attention, F32 differs by 3e-5,
F16 by 0.04, and Q4_0 at most tokens by nothing and at some by up to 1: the attention's last digit, which is lost where
an activation is rounded to 8 bits, then moves one to its next step, and later layers round everything anew. What that
does to greedy answers, `python -m tools.draft_ties` shows.
"""

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.sample import Distribution

__all__ = ["Uniforms", "acceptance", "coupled", "residual"]

AHEAD = 64  # positions whose numbers are drawn at once


class Uniforms:
    """The uniform numbers of each position of one sequence: rows of `width`, drawn from `rng` in the positions' order.

    With a width of 1, position n has the n-th number of the stream.
    """

    def __init__(self, rng: np.random.Generator, width: int) -> None:
        self._rng = rng
        self.width = width
        self._rows: list[NDArray[np.float64]] = []

    def at(self, position: int) -> NDArray[np.float64]:
        """(width,) numbers from 0 to below 1, always the same for one position."""
        while len(self._rows) <= position:
            self._rows += list(self._rng.random((AHEAD, self.width)))
        return self._rows[position]


def coupled(p: Distribution, q: Distribution, uniforms: NDArray[np.float64]) -> int:
    """A token distributed as `p` that is `q.quantile(uniforms[0])` as often as can be. `uniforms`: (3,)."""
    guess = q.quantile(uniforms[0])
    if uniforms[1] < acceptance(p, q, guess):
        return guess
    return residual(p, q).quantile(uniforms[2])


def acceptance(p: Distribution, q: Distribution, token: int) -> float:
    """The probability with which a `token` drawn from `q` is taken for one of `p`."""
    wanted, offered = p.probability(token), q.probability(token)
    return 1.0 if wanted >= offered else wanted / offered


def residual(p: Distribution, q: Distribution) -> Distribution:
    """What a rejected guess is replaced from: max(p - q, 0), on the tokens of `p`.

    Where `p` exceeds `q` nowhere but by rounding, a rejection is rounding too, and the token comes from `p`.
    """
    ids, wanted = p.ids, p.probabilities  # (k,), (k,)
    offered = q.probabilities
    if not np.array_equal(ids, q.ids):
        at = np.minimum(np.searchsorted(q.ids, ids), len(q.ids) - 1)
        offered = np.where(q.ids[at] == ids, offered[at], 0.0)
    left = np.maximum(wanted - offered, 0.0)
    return Distribution(left if left.sum() > 0 else wanted, ids)
