"""Speculative sampling: accepts or replaces a guessed token so that the result is distributed as the target model's.

Leviathan et al., arXiv 2211.17192, algorithm 1. A guess x is drawn from the draft's distribution q. It is accepted with
probability min(1, p(x) / q(x)). Otherwise the token is drawn from the residual max(p - q, 0). The token is then
distributed as p for any q. In greedy decoding, p and q each have one possible token.

Here the rule belongs to the position, not to the block. Each position has three uniform numbers of its own: one for
the guess, one for the acceptance, one for the residual. The token there is a function of p, q and those three numbers.
So the token is the same whether it was guessed in a block of eight, in a block of two or not at all, and the text of a
seed does not depend on the block lengths. A guess only says which positions are worth computing together, so any source
may make it.

The result is as exact as the logits are. llama.cpp computes several rows with other kernels than one row, with or
without drafts. Measured with SmolLM2-135M on a CPU, in blocks of 2 to 40 tokens, against one row at a time:
- F16 KV cache: Q4_0 and Q8_0 logits are the same to the bit; F16 and F32 logits differ by up to 0.06 and 0.03.
- F32 KV cache (so without flash attention): F32 logits differ by 3e-5 and F16 by 0.04. Q4_0 logits are the same at most
  tokens, but differ by up to 1 at some. There the attention differs in its last digit. When an activation is rounded
  to 8 bits, that mostly makes no difference, but sometimes moves it to the next step, and all later layers follow.
`python -m tools.draft_ties` shows the effect on greedy answers.
"""

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.sample import Distribution

__all__ = ["Uniforms", "acceptance", "coupled", "residual"]

AHEAD = 64  # how many positions' numbers are drawn at a time


class Uniforms:
    """The uniform numbers of one sequence: `width` numbers for each position, drawn from `rng` in order of position.

    With a width of 1, position n has the n-th number of the stream.
    """

    def __init__(self, rng: np.random.Generator, width: int) -> None:
        self._rng = rng
        self.width = width
        self._rows: list[NDArray[np.float64]] = []

    def at(self, position: int) -> NDArray[np.float64]:
        """(width,) numbers from 0 to below 1. The same position always gets the same numbers."""
        while len(self._rows) <= position:
            self._rows += list(self._rng.random((AHEAD, self.width)))
        return self._rows[position]


def coupled(p: Distribution, q: Distribution, uniforms: NDArray[np.float64]) -> int:
    """Returns a token distributed as `p`. It equals the guess `q.quantile(uniforms[0])` as often as possible.

    uniforms: (3,) the numbers of the position, for the guess, the acceptance and the residual.
    """
    guess = q.quantile(uniforms[0])
    if uniforms[1] < acceptance(p, q, guess):
        return guess
    return residual(p, q).quantile(uniforms[2])


def acceptance(p: Distribution, q: Distribution, token: int) -> float:
    """The probability of accepting a `token` that was drawn from `q`: min(1, p / q)."""
    wanted, offered = p.probability(token), q.probability(token)
    return 1.0 if wanted >= offered else wanted / offered


def residual(p: Distribution, q: Distribution) -> Distribution:
    """The distribution that replaces a rejected guess: max(p - q, 0), on the tokens of `p`.

    When no token of `p` exceeds `q`, the guess was rejected only because of rounding. Then the result is `p` itself.
    """
    ids, wanted = p.ids, p.probabilities  # (k,), (k,)
    offered = q.probabilities
    if not np.array_equal(ids, q.ids):
        at = np.minimum(np.searchsorted(q.ids, ids), len(q.ids) - 1)
        offered = np.where(q.ids[at] == ids, offered[at], 0.0)
    left = np.maximum(wanted - offered, 0.0)
    return Distribution(left if left.sum() > 0 else wanted, ids)
