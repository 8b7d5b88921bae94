"""The weighted sum of the members' logits: the arithmetic of emulated fine-tuning.

    z = sum_i w_i * logits_i + sum_k bias_k        w(base) = 1;  w(tuned_k) += beta_k;  w(reference_k) -= beta_k

This is log p_base + sum_k (beta_k (log p_tuned_k - log p_reference_k) + bias_k) up to a constant for each row. The
members' normalisers only add to that constant, so none is computed (EFT, arXiv 2310.12962, equation 4; proxy-tuning,
arXiv 2401.08565, equation 1).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids, Logits, Rows
from eftlocal.arithmetic.bias import Bias, BiasRows
from eftlocal.arithmetic.nucleus import masses, nucleus
from eftlocal.errors import DecodeError

DAMAGED = "Its file may be damaged, or its weights overflow on this device."
OVERFLOW = "The members' own logits are, so the sum overflows: choose a smaller beta or mix."


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
    ends     members -> ids that end an answer of those members, for biases
    biases   what biases add to each token
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
        self.biases = BiasRows(n_real, ends)
        self._ends = ends
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
                            total[row] += self.biases.row(bias, mix.active)
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
                reward += self.biases.row(pair.bias, mix.active)[kept]
            out[kept] += reward
        out[self._skipped] = base[self._skipped]


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
