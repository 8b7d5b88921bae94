"""Log-probabilities (natural logarithms) of an answer's tokens and of their alternatives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import log_softmax

__all__ = ["Alternative", "Places", "TokenLogprobs", "likeliest"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come, and its log-probability under the emulator."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities of a generated token, before the constraint and the sampling settings. `score` gives the same.

    logprob  under the emulator
    base     under the base; None if its weight is 0, because then it does not run
    rewards  reward name -> "tuned" and "reference" -> under that model; None as for the base
    top      the likeliest tokens at this position under the emulator
    """

    id: int
    text: str
    logprob: float
    base: float | None
    rewards: Mapping[str, Mapping[str, float | None]]
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Computes the log-probabilities of drawn tokens.

    base     the base's member index
    rewards  reward name -> member indices (tuned, reference)
    n_real   number of token ids that all members share
    piece    token id -> the token's bytes
    top      how many of the likeliest tokens to report at each position
    """

    base: int
    rewards: Mapping[str, tuple[int, int]]
    n_real: int
    piece: Callable[[int], bytes]
    top: int

    def __call__(self, token: int, z: Logits, rows: Mapping[int, Logits]) -> TokenLogprobs:
        """Those of `token`. z: (n_real,) the combined logits. rows: member -> (n_real or more,) its own logits."""
        combined = log_softmax(z)

        def own(member: int) -> float | None:
            return float(log_softmax(rows[member][: self.n_real])[token]) if member in rows else None

        return TokenLogprobs(
            id=token,
            text=self._text(token),
            logprob=float(combined[token]),
            base=own(self.base),
            rewards={
                name: {"tuned": own(tuned), "reference": own(reference)}
                for name, (tuned, reference) in self.rewards.items()
            },
            top=tuple(
                Alternative(int(i), self._text(int(i)), float(combined[i])) for i in likeliest(combined, self.top)
            ),
        )

    def _text(self, token: int) -> str:
        return self.piece(token).decode("utf-8", "replace")


def likeliest(row: Logits, n: int) -> NDArray[np.intp]:
    """The token ids of the `n` largest values of a row, (n,), the largest first."""
    n = min(n, len(row))
    ids = np.argpartition(row, len(row) - n)[len(row) - n :] if n else np.empty(0, np.intp)
    return ids[np.argsort(-row[ids], kind="stable")]
