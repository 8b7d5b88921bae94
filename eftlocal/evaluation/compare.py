"""The arithmetic of an evaluation: from the members' logits at known tokens to log-probabilities in every column.

The emulator at strength beta is z_base + beta * r, with r = sum_k beta_k (z_tuned_k - z_reference_k), so all strengths
come from the same rows. KL(emulated || base) = beta E[r] - (log Z_emulated - log Z_base), with E under the emulator.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Ids, Logits
from eftlocal.arithmetic.combine import Combiner, Mix, check
from eftlocal.emulation.members import Members
from eftlocal.evaluation.columns import Column

__all__ = ["Compared", "Comparer"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BLOCK: Final = 1 << 16  # logits that are worked on at a time, so that they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Compared:
    """What rows say of their tokens. S strengths, in the columns' order; R rows.

    logprobs    (columns, R) log-probability of the token
    base        (R,) the same under the base
    reward      (R,) log p_tuned - log p_reference of the token, summed over the rewards with their betas and biases
    moved       (R,) whether the emulator's top token at strength 1 is not the base's
    kl_base     (S, R) KL(emulated || base) in nats
    same_base   (S, R) whether both have the same top token
    kl_upper    the same against the truly tuned large model; None if there is none
    """

    logprobs: Floats
    base: Floats
    reward: Floats
    moved: Flags
    kl_base: Floats
    same_base: Flags
    kl_upper: Floats | None
    same_upper: Flags | None

    def part(self, rows: slice) -> "Compared":
        """The same of some of the rows."""
        upper = (
            (None, None)
            if self.kl_upper is None or self.same_upper is None
            else (
                self.kl_upper[:, rows],
                self.same_upper[:, rows],
            )
        )
        own = (self.logprobs[:, rows], self.base[rows], self.reward[rows], self.moved[rows])
        return Compared(*own, self.kl_base[:, rows], self.same_base[:, rows], *upper)


class Comparer:
    """Compares the columns of one emulator. `mix` is the emulator at strength 1; `ends` as for a Combiner."""

    def __init__(
        self, members: Members, columns: Sequence[Column], mix: Mix, ends: Callable[[Sequence[int]], Ids]
    ) -> None:
        self._members, self._columns, self._mix = members, columns, mix
        self._names = [spec.name for spec in members.specs]
        self._combiner = Combiner(self._names, members.n_real, members.skipped, ends)
        self._added = [self._combiner.biases.row(bias, mix.active) for bias in mix.biases]  # (n_real,) each
        self._betas = [column.beta for column in columns if column.beta is not None]

    def compare(self, logits: Mapping[int, Logits], tokens: Sequence[int]) -> Compared:
        """What the rows say of their tokens. logits: member -> (R, n_real). Raises DecodeError if one is not finite."""
        n, strengths = len(tokens), len(self._betas)
        for member, rows in logits.items():
            check(rows, self._names[member])
        upper = None if self._members.upper is None else logits[self._members.upper]
        found = Compared(
            np.empty((len(self._columns), n)),
            np.empty(n),
            np.zeros(n),
            np.zeros(n, np.bool_),
            np.zeros((strengths, n)),
            np.zeros((strengths, n), np.bool_),
            None if upper is None else np.zeros((strengths, n)),
            None if upper is None else np.zeros((strengths, n), np.bool_),
        )
        ids, size = np.array(tokens, np.intp), max(1, BLOCK // self._members.n_real)
        for start in range(0, n, size):
            some = slice(start, start + size)
            self._block({m: rows[some] for m, rows in logits.items()}, ids[some], found.part(some))
        return found

    def _block(self, z: Mapping[int, Logits], ids: NDArray[np.intp], into: Compared) -> None:
        """Writes what some rows say to the views `into`."""
        places, buffer = np.arange(len(ids)), np.empty_like(z[self._members.base])
        norms = {member: _log_sum(rows, buffer)[0] for member, rows in z.items()}
        logs = {member: rows[places, ids] - norms[member] for member, rows in z.items()}
        base, upper = self._members.base, self._members.upper
        into.base[:] = logs[base]
        for row, column in enumerate(self._columns):
            if column.member is not None:
                into.logprobs[row] = logs[column.member]
        for pair in self._mix.pairs:
            into.reward[:] += pair.beta * (logs[pair.tuned] - logs[pair.reference])
        for added in self._added:
            into.reward[:] += added[ids]
        if not self._betas:
            return
        reward, top = self._reward(z), z[base].argmax(1)
        into.moved[:] = np.add(z[base], reward, out=buffer).argmax(1) != top
        mass = np.empty_like(buffer)
        strength = 0
        for row, column in enumerate(self._columns):
            if column.beta is None:
                continue
            np.multiply(reward, np.float32(column.beta), out=buffer)
            buffer += z[base]
            norm, total = _log_sum(buffer, mass)
            into.logprobs[row] = buffer[places, ids] - norm
            expected = _dot(mass, reward) / total
            into.kl_base[strength] = np.maximum(column.beta * expected - (norm - norms[base]), 0)
            into.same_base[strength] = buffer.argmax(1) == top
            if upper is not None and into.kl_upper is not None and into.same_upper is not None:
                apart = (_dot(mass, buffer) - _dot(mass, z[upper])) / total
                into.kl_upper[strength] = np.maximum(apart - (norm - norms[upper]), 0)
                into.same_upper[strength] = buffer.argmax(1) == z[upper].argmax(1)
            strength += 1

    def _reward(self, z: Mapping[int, Logits]) -> Logits:
        """What strength 1 adds to the base's logits, up to a constant for each row: (rows, n_real)."""
        base = z[self._members.base]
        if self._mix.reward_top_p is not None:  # on a nucleus, or not on all ids: the combiner's own way
            parts = {member: (z[member], slice(None)) for member in self._mix.active}
            found: Logits = self._combiner.combine(parts, [self._mix] * len(base)) - base
            return found
        found = np.zeros_like(base)
        for pair in self._mix.pairs:
            found += np.float32(pair.beta) * (z[pair.tuned] - z[pair.reference])
        for added in self._added:
            found += added
        return found


def _log_sum(z: Logits, mass: Logits) -> tuple[Floats, Floats]:
    """log sum exp of each row of z, (rows, V), and sum exp(z - max), whose terms are written to `mass`."""
    peak = z.max(1)
    np.subtract(z, peak[:, None], out=mass)
    np.exp(mass, out=mass)
    total = mass.sum(1, dtype=np.float32).astype(np.float64)
    return peak.astype(np.float64) + np.log(total), total


def _dot(a: Logits, b: Logits) -> Floats:
    """The products of rows, summed: (rows,)."""
    found: Floats = np.einsum("ij,ij->i", a, b).astype(np.float64)
    return found
