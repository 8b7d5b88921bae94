"""Log-probabilities of the tokens of an answer, and of those that could have come instead."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.combine import Logits, log_softmax

__all__ = ["Alternative", "Places", "TokenLogprobs", "likeliest"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come, and its log-probability under the emulator."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities of a generated token, as `score` would give them: before constraint and sampling settings.

    A role whose weight is 0 does not run, and has None. `top`: the likeliest tokens at its place under the emulator.
    """

    id: int
    text: str
    logprob: float
    base: float | None
    rewards: Mapping[str, Mapping[str, float | None]]
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Tells the log-probabilities of drawn tokens, one place after the other.

    base, rewards: members by index; a reward's are (tuned, reference). n_real: token ids that members share.
    piece: a token's bytes. top: how many of the likeliest tokens are told at each place.
    """

    base: int
    rewards: Mapping[str, tuple[int, int]]
    n_real: int
    piece: Callable[[int], bytes]
    top: int

    def __call__(self, token: int, z: Logits, rows: Mapping[int, Logits]) -> TokenLogprobs:
        """Of `token` at one place. z: (n_real,) combined; rows: (n_real or more,) of the members that run."""
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
    """The `n` largest of a row, the largest first."""
    n = min(n, len(row))
    ids = np.argpartition(row, len(row) - n)[len(row) - n :] if n else np.empty(0, np.intp)
    return ids[np.argsort(-row[ids], kind="stable")]
