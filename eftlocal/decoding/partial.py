"""Tokens of a base whose rows are not whole: what is drawn, how sure it is, and what is kept of that.

A greedy token is drawn only when it is certain; until then more tokens are asked for. Drawn at random, the tokens that
are not known have the reference's shape (arithmetic/partial.py).
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np

from eftlocal.arithmetic import partial
from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import Combiner, Mix
from eftlocal.decoding.generation import Generation
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Slot

__all__ = ["Completed", "Completer"]

MOST_BOUND: Final = 1e-6  # smaller ones are rounding
UNLIKELY: Final = np.float32(-1e4)  # the log of a weight that is 0


class Completed(NamedTuple):
    """What a token is drawn from. z: (n_real,) the emulator's logits; base: (n_real,) the base's row, completed."""

    z: Logits
    base: Logits


class Completer:
    """Completes rows of a base on a server. It keeps in the answer what was left out, and how far off it may be."""

    def __init__(self, engine: Engine, combiner: Combiner) -> None:
        self._engine, self._combiner = engine, combiner.another()

    def complete(
        self, slot: Slot, generation: Generation, own: Mapping[int, Logits], i: int, draw: Callable[[Completed], int]
    ) -> Completed | None:
        """Complete row `i` of the base; None if it is whole. own: member -> (rows, n_real or more) logits.

        `draw` gives the token that would be drawn. Raises DecodeError.
        """
        mix, n = generation.mix, self._combiner.n_real
        base = own.get(mix.base)
        if base is None or not partial.is_partial(base[i, :n]):
            return None
        row, others = base[i, :n], {m: logits[i : i + 1, :n] for m, logits in own.items() if m != mix.base}
        if generation.settings.sampling.temperature == 0:
            return self._certain(slot, generation, row, others, draw)
        guide = next((others[pair.reference][0] for pair in mix.pairs if pair.reference in others), None)
        if guide is None:  # the base alone: nothing here knows the shape of what is left out
            guide = np.zeros(n, np.float32)
        full = partial.filled(row, guide)
        z = self._combined(mix, full, others)
        sampling = generation.settings.sampling
        self._keep(generation, row, z, full, sampling.temperature, sampling.top_p)
        return Completed(z, full)

    def _certain(
        self,
        slot: Slot,
        generation: Generation,
        row: Logits,
        others: Mapping[int, Logits],
        draw: Callable[[Completed], int],
    ) -> Completed:
        """Ask for more tokens until the likeliest one is known, whatever the others have.

        All settings that a greedy token depends on move a token's logit up where it was up: what is drawn where the
        tokens outside have the most that they can have is right, if it is a token that is known. repeat_penalty also
        depends on the level of the row, which its largest logit gives: that one must be known, too.
        """
        leveled = generation.settings.sampling.penalizes
        while True:
            known, upper = np.isfinite(row), partial.most(row)
            z = self._combined(generation.mix, upper, others)
            certain = known[draw(Completed(z, row))] and (not leveled or known[int(z.argmax())])
            if certain or known.all():
                generation.left_out.append((partial.left_out(row), 0.0))
                break
            more = self._engine.more(slot, generation.mix.base, generation.tokens, int(known.sum()))
            if more is None or int(np.isfinite(more[: len(row)]).sum()) <= int(known.sum()):
                self._keep(generation, row, z, upper)
                break  # the server gives no more
            row = more[: len(row)]
        dropped = np.where(known, z, np.float32(-np.inf))
        return Completed(dropped, row)

    def _combined(self, mix: Mix, base: Logits, others: Mapping[int, Logits]) -> Logits:
        parts = {mix.base: (base[None], slice(None)), **{m: (logits, slice(None)) for m, logits in others.items()}}
        ordered = {member: parts[member] for member in sorted(parts)}
        row: Logits = self._combiner.combine(ordered, [mix])[0].copy()
        return row

    def _keep(self, generation: Generation, row: Logits, z: Logits, base: Logits, *dials: float) -> None:
        """Keep how far off a token may be. z: the emulator's logits, made of `base`. dials: as of `partial.bound`."""
        able = np.isfinite(z)
        off = partial.bound(row, np.subtract(z, base, out=np.full_like(z, UNLIKELY), where=able), *dials)
        generation.left_out.append((partial.left_out(row), off if off > MOST_BOUND else 0.0))
