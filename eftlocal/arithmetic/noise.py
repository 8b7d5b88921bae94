"""Random numbers without state: one for each position and token id of a sequence, computed when it is asked for.

A token is drawn by the Gumbel-max trick (Maddison et al., arXiv 1411.0030), here as a race: the token whose exponential
variate, divided by its weight, is the smallest. It comes with its probability. The numbers belong to (key, position,
token id), and so:

- a logit that differs in its last digits changes the token only where two tokens nearly tie. Inverting the CDF in the
  order of ids would move every border behind it;
- a draft model that draws its guess with the same numbers guesses what the emulator will draw nearly as often as any
  rule can arrange. The guess changes nothing: a seed's text is the same with and without drafts.

That is as exact as the logits are, and llama.cpp computes several rows by other kernels than one row, drafts or none.
Of SmolLM2-135M on a CPU, in drafts of 2 to 40 tokens: after an F16 cache, Q4_0 and Q8_0 logits are the same to the bit,
F16 and F32 ones differ by up to 0.06 and 0.03. After an F32 cache, which means no flash attention, F32 differs by 3e-5,
F16 by 0.04, and Q4_0 at most tokens by nothing and at some by up to 1: the attention's last digit, which is lost where
an activation is rounded to 8 bits, then moves one to its next step, and later layers round everything again.
`python -m tools.draft_ties` shows what that does to greedy answers.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Noise"]

MASK = (1 << 64) - 1
BELOW_1 = np.float32(1 - 2**-24)


class Noise:
    """The random numbers of one sequence. `key`: whole numbers that name it, such as (seed, index)."""

    def __init__(self, key: Sequence[int]) -> None:
        start, twist = np.random.SeedSequence(list(key)).generate_state(2, np.uint64).tolist()
        self._start, self._twist = int(start), int(twist)

    def exponentials(self, position: int, ids: NDArray[Any]) -> NDArray[np.float32]:
        """(k,) exponential variates of mean 1, one for each of the token ids, (k,), at this position."""
        u = self._bits(position, ids).astype(np.float32)  # uniform: small ones, which win, keep all their digits
        u += np.float32(0.5)
        u *= np.float32(2**-32)
        np.minimum(u, BELOW_1, out=u)
        np.negative(u, out=u)
        np.log1p(u, out=u)
        return np.negative(u, out=u)

    def below(self, position: int, ids: NDArray[Any], bound: float) -> NDArray[np.intp]:
        """Where `exponentials` may be below `bound`: places in `ids`, ascending. Cheaper, and one too many at times."""
        return (self._bits(position, ids) <= np.uint32(min(-math.expm1(-bound) * 2**32 + 300, 2**32 - 1))).nonzero()[0]

    def _bits(self, position: int, ids: NDArray[Any]) -> NDArray[np.uint32]:
        at = _splitmix(self._start + position * 0x9E3779B97F4A7C15 & MASK) ^ self._twist
        x = ids.astype(np.uint32)
        x *= np.uint32(0x9E3779B1)
        x ^= np.uint32(at & 0xFFFFFFFF)
        _mix(x)
        x += np.uint32(at >> 32)
        _mix(x)
        return x


def _splitmix(z: int) -> int:
    """The finalizer of splitmix64 (Steele et al. 2014)."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def _mix(x: NDArray[np.uint32]) -> None:
    """The finalizer of MurmurHash3 for 32 bits, in place: a bijection whose bits all depend on all bits."""
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
