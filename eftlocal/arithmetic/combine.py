"""The weighted sum of the members' logits: the arithmetic of emulated fine-tuning.

    z = sum_i w_i * logits_i + sum_k bias_k        w(base) = 1;  w(tuned_k) += beta_k;  w(reference_k) -= beta_k

This is log p_base + sum_k (beta_k (log p_tuned_k - log p_reference_k) + bias_k) up to a constant for each row. The
members' normalisers only add to that constant, so none is computed (EFT, arXiv 2310.12962, equation 4; proxy-tuning,
arXiv 2401.08565, equation 1). The module uses numpy and imports only `errors` from eftlocal.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import DecodeError

Logits = NDArray[np.float32]
Rows = NDArray[np.intp] | slice
Ids = NDArray[np.intp]

DAMAGED = "Its file may be damaged, or its weights overflow on this device."
OVERFLOW = "The members' own logits are, so the sum overflows: choose a smaller beta or mix."

BIASES = 16  # rows that are kept: one for each bias at each strength that is in use
BLOCK = 512  # weights in a block: a search looks at the sums of the blocks first, then inside one block


@dataclass(frozen=True, slots=True)
class Bias:
    """What a reward adds to some tokens, in nats: calibration, after arXiv 2409.16223.

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


@dataclass(frozen=True, slots=True)
class Pair:
    """One reward: the indices of its two members, its strength `beta`, and what it adds to some tokens besides."""

    tuned: int
    reference: int
    beta: float
    bias: Bias | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """What is summed for one sequence: the base and the rewards, as member indices and strengths.

    With a `reward_top_p`, each reward and its bias count only on its tuned model's top-p nucleus, and are 0 elsewhere.
    This is the conservative decoding of arXiv 2310.12962, section 3.3 ("top-p filtering of the up-scaling weights").
    """

    n_members: int
    base: int
    pairs: tuple[Pair, ...] = ()
    reward_top_p: float | None = None
    weights: NDArray[np.float32] = field(init=False, repr=False, compare=False)  # (members,)
    active: tuple[int, ...] = field(init=False, compare=False)  # members that have to run
    biases: tuple[Bias, ...] = field(init=False, repr=False, compare=False)  # those of the pairs that have one

    def __post_init__(self) -> None:
        weights = np.zeros(self.n_members, np.float64)
        weights[self.base] += 1
        for pair in self.pairs:
            weights[pair.tuned] += pair.beta
            weights[pair.reference] -= pair.beta
        weights[np.abs(weights) < 1e-12] = 0  # 0.1 + 0.2 - 0.3 is not exactly 0, but such a member need not run
        active = set(np.flatnonzero(weights).tolist())
        if self.reward_top_p is not None:  # a filtered reward does not cancel against another role of its model
            strong = [pair for pair in self.pairs if pair.beta != 0]
            active = {self.base} | {pair.tuned for pair in strong} | {pair.reference for pair in strong}
        with np.errstate(over="ignore"):  # the combiner finds what overflows
            object.__setattr__(self, "weights", weights.astype(np.float32))
        object.__setattr__(self, "active", tuple(sorted(active)))
        object.__setattr__(self, "biases", tuple(pair.bias for pair in self.pairs if pair.bias is not None))


class Combiner:
    """Combines rows of the members' logits. Its buffers are reused from step to step.

    names    the members' names, for errors
    n_real   rows are cut to the first `n_real` ids
    skipped  ids on which every reward is 0: special tokens that the members' vocabularies name differently. They
             only have an effect on mixes with a reward_top_p
    ends     members -> ids that end an answer of those members, for biases; it is asked when there is one
    """

    def __init__(
        self,
        names: Sequence[str],
        n_real: int,
        skipped: NDArray[np.intp] | None = None,
        ends: Callable[[tuple[int, ...]], Ids] | None = None,
    ) -> None:
        self.names = names
        self.n_real = n_real
        self._ends = ends
        self._biases: dict[tuple[object, ...], tuple[Bias, Logits]] = {}
        self._skipped = np.empty(0, np.intp) if skipped is None else skipped
        self._total = np.empty((0, n_real), np.float32)
        self._term = np.empty((0, n_real), np.float32)

    def another(self) -> "Combiner":
        """A combiner of the same members with buffers of its own."""
        return Combiner(self.names, self.n_real, self._skipped, self._ends)

    def combine(self, parts: Mapping[int, tuple[Logits, Rows]], mixes: Sequence[Mix]) -> Logits:
        """Returns z, (rows, n_real) float32, with one row for each mix. The next call overwrites it.

        `parts` gives, for each running member, its logits (n, >= n_real) and the rows that they belong to.
        Raises DecodeError with the member's name when a row of its logits has NaN or +inf, or is -inf everywhere.
        """
        n = len(mixes)
        if len(self._total) < n:
            self._total = np.empty((n, self.n_real), np.float32)
            self._term = np.empty((n, self.n_real), np.float32)
        total = self._total[:n]
        filtered = [row for row, mix in enumerate(mixes) if mix.reward_top_p is not None]
        weights = [mix.weights.tolist() for mix in mixes]  # (rows, members)
        for row in filtered:
            weights[row] = [0.0] * len(weights[row])
        if len(filtered) < n:
            with np.errstate(over="ignore", invalid="ignore"):  # the check below finds the result of either
                self._sum(total, parts, weights)
                for row, mix in enumerate(mixes):
                    if mix.reward_top_p is None:
                        for bias in mix.biases:
                            total[row] += self.added(bias, mix.active)
        # A finite sum means finite members, except for a member that was subtracted: its +inf becomes -inf.
        doubtful = bool(filtered) or not _finite(total)
        for member, (logits, _) in parts.items():
            if doubtful or any(row[member] < 0 for row in weights):
                check(logits[:, : self.n_real], self.names[member])
        for row in filtered:
            mix = mixes[row]
            own = {m: _row(part, row) for m, part in parts.items() if m in mix.active}
            with np.errstate(over="ignore", invalid="ignore"):
                self._filtered(total[row], own, mix)
        return check(total, "the combination", OVERFLOW) if doubtful else total

    def _sum(self, total: Logits, parts: Mapping[int, tuple[Logits, Rows]], weights: list[list[float]]) -> None:
        """Writes the weighted sum of all rows to `total`, (rows, n_real). weights: (rows, members).

        The cost is the number of passes over the rows. A member with weight 1 or -1 takes one pass; the first member
        takes none when its weight is 1.
        """
        so_far: Logits | None = None  # the first member's own rows, until another member is added
        for member, (logits, rows) in parts.items():
            logits = logits[:, : self.n_real]
            each = [row[member] for row in weights]
            weight = each[0] if each.count(each[0]) == len(each) else None  # None when the rows differ in it
            if not isinstance(rows, slice):
                if so_far is not total:
                    total[:] = 0 if so_far is None else so_far
                total[rows] += np.multiply(logits, _column(each)[rows], out=self._term[: len(logits)])
            elif so_far is None and weight == 1:
                so_far = logits
                continue
            elif so_far is not None and weight in (1, -1):
                (np.add if weight == 1 else np.subtract)(so_far, logits, out=total)
            else:
                factor = _column(each) if weight is None else weight
                term = np.multiply(logits, factor, out=total if so_far is None else self._term[: len(logits)])
                if so_far is not None:
                    np.add(so_far, term, out=total)
            so_far = total
        if so_far is not None and so_far is not total:
            total[:] = so_far

    def _filtered(self, out: Logits, logits: Mapping[int, Logits], mix: Mix) -> None:
        """Writes one row, (n_real,), with the rewards filtered. The normalisers do not cancel here and are computed."""
        assert mix.reward_top_p is not None
        base = logits[mix.base][: self.n_real]
        out[:] = base
        for pair in mix.pairs:
            if pair.beta == 0:
                continue
            tuned, reference = logits[pair.tuned][: self.n_real], logits[pair.reference][: self.n_real]
            peak, other_peak = tuned.max(), reference.max()
            mass, total = masses(tuned, peak)
            _, other_total = masses(reference, other_peak)
            apart = np.float32(float(peak) + math.log(total) - float(other_peak) - math.log(other_total))
            kept = slice(None) if mix.reward_top_p >= 1 else nucleus(tuned, mass, total, mix.reward_top_p)
            reward = tuned[kept] - reference[kept]
            reward -= apart  # the difference of the two normalisers
            reward *= np.float32(pair.beta)
            if pair.bias is not None:
                reward += self.added(pair.bias, mix.active)[kept]
            out[kept] += reward
        out[self._skipped] = base[self._skipped]

    def added(self, bias: Bias, active: tuple[int, ...]) -> Logits:
        """(n_real,) what is added to each token. `active`: the members whose ends count. Those of late are kept."""
        key = (bias.end, bias.unseen, id(bias.ids), active)
        if (known := self._biases.get(key)) is not None:
            return known[1]
        row = np.zeros(self.n_real, np.float32)
        row[bias.ids] += np.float32(bias.unseen)
        if bias.end:
            assert self._ends is not None, "a bias on the end needs the tokens that end an answer"
            row[self._ends(active)] += np.float32(bias.end)
        if len(self._biases) >= BIASES:
            del self._biases[next(iter(self._biases))]
        self._biases[key] = bias, row  # with the bias, so that the id of its ids stays theirs
        return row


def _column(weights: list[float]) -> Logits:
    """The weights as a column, (rows, 1)."""
    return np.array(weights, np.float32)[:, None]


def _row(part: tuple[Logits, Rows], row: int) -> Logits:
    logits, rows = part
    found: Logits = logits[row if isinstance(rows, slice) else int(np.flatnonzero(rows == row)[0])]
    return found


def _finite(logits: Logits) -> bool:
    return math.isfinite(sum(np.maximum.reduce(logits, axis=-1).tolist()))


def check(logits: Logits, name: str, hint: str = DAMAGED) -> Logits:
    """Returns `logits` itself; DecodeError when the largest logit of a row is not finite (NaN spreads through max)."""
    if not _finite(logits):
        raise DecodeError(f"The logits of {name} are not finite.", hint)
    return logits


def log_softmax(logits: Logits) -> Logits:
    """Log-probabilities over the last axis, (..., V) float32."""
    shifted: Logits = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    shifted -= np.log(total).astype(np.float32)
    return shifted


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
        ends = block_sums(weights).cumsum(dtype=np.float64)
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


def block_sums(weights: NDArray[Any]) -> NDArray[Any]:
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
    return float(np.add.reduce(block_sums(weights), dtype=np.float64)) if len(weights) else 0.0
