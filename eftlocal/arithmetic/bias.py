"""What a reward adds to some tokens besides its models' logits: calibration, after arXiv 2409.16223."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from eftlocal.arithmetic.arrays import Ids, Logits

__all__ = ["Bias", "BiasRows"]

KEPT = 16  # rows that are kept: one for each bias at each strength that is in use


@dataclass(frozen=True, slots=True)
class Bias:
    """What a reward adds to some tokens, in nats.

    end        to tokens that end an answer
    unseen     to tokens that its fine-tuning data never showed: the ascending `ids`
    """

    end: float = 0.0
    unseen: float = 0.0
    ids: Ids = field(default_factory=lambda: np.empty(0, np.intp), repr=False, compare=False)

    def as_json(self) -> dict[str, float | str]:
        """The bias as JSON values: its ids as a fingerprint, the same wherever they are the same."""
        end: dict[str, float | str] = {"end": self.end} if self.end else {}
        if not len(self.ids):
            return end
        ids = hashlib.sha256(self.ids.astype("<i8").tobytes()).hexdigest()[:16]
        return {**end, "unseen": self.unseen, "unseen_tokens": ids}

    def scaled(self, factor: float) -> "Bias | None":
        """The bias times a factor; None if nothing is left of it."""
        end, unseen = self.end * factor, self.unseen * factor * bool(len(self.ids))
        return Bias(end, unseen, self.ids) if end or unseen else None


class BiasRows:
    """Biases as rows over the vocabulary. Those that were asked for of late are kept.

    n_real  the length of a row
    ends    members -> ids that end an answer of those members; it is asked when a bias needs it
    """

    def __init__(self, n_real: int, ends: Callable[[tuple[int, ...]], Ids] | None) -> None:
        self._n_real = n_real
        self._ends = ends
        self._kept: dict[tuple[object, ...], tuple[Bias, Logits]] = {}

    def row(self, bias: Bias, active: tuple[int, ...]) -> Logits:
        """(n_real,) what the bias adds to each token. `active`: the members whose ends count."""
        key = (bias.end, bias.unseen, id(bias.ids), active)
        if (known := self._kept.get(key)) is not None:
            return known[1]
        row: Logits = np.zeros(self._n_real, np.float32)
        row[bias.ids] += np.float32(bias.unseen)
        if bias.end:
            assert self._ends is not None, "a bias on the end needs the tokens that end an answer"
            row[self._ends(active)] += np.float32(bias.end)
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = bias, row  # with the bias, so that the id of its ids stays theirs
        return row
