"""Random rows of logits, and their log-probabilities in float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Logits, Rows

NAMES = ["base", "tuned", "reference", "second tuned", "second reference"]
RNG = np.random.default_rng(7)


def logits(rows: int, vocab: int = 40) -> Logits:
    return RNG.normal(0, 3, (rows, vocab)).astype(np.float32)


def parts(members: dict[int, Logits]) -> dict[int, tuple[Logits, Rows]]:
    return {member: (rows, slice(None)) for member, rows in members.items()}


def exact(z: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Log-probabilities in float64."""
    wide = z.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return result
