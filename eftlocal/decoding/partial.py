"""Tokens of a base whose rows are not whole: what is drawn, how sure it is, and what is kept of that.

A greedy token is drawn only when it is certain; until then more tokens are asked for. Drawn at random, the tokens that
are not known have the reference's shape, and more are asked for only where a constraint makes a token less sure than
it would be without one (arithmetic/partial.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import Combiner, Mix
from eftlocal.arithmetic.partial import Partial
from eftlocal.arithmetic.sample import added
from eftlocal.decoding.generation import Generation
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Slot

__all__ = ["Completed", "Completer"]

LEAST_BOUND: Final = 1e-6  # smaller ones are rounding
CONSTRAINED: Final = 0.01  # a bound that a constraint may always have, in total variation
NEVER: Final = np.float32(-np.inf)


class Completed(NamedTuple):
    """What a token is drawn from. z: (n_real,) the emulator's logits; base: (n_real,) the base's row, completed."""

    z: Logits
    base: Logits


class Completer:
    """Completes rows of a base on a server. It keeps in the answer what was left out, and how far off it may be."""

    def __init__(self, engine: Engine, combiner: Combiner) -> None:
        self._engine, self._combiner = engine, combiner.another()
        self._nothing = np.zeros((1, combiner.n_real), np.float32)

    def complete(
        self, slot: Slot, generation: Generation, own: Mapping[int, Logits], i: int, draw: Callable[[Completed], int]
    ) -> Completed | None:
        """Complete row `i` of the base; None if it is whole. own: member -> (rows, n_real or more) logits.

        `draw` gives the token that would be drawn. Raises DecodeError, and as `Generation.allowed`.
        """
        mix, n = generation.mix, self._combiner.n_real
        base = own.get(mix.base)
        if base is None or (part := Partial.of(base[i, :n])).whole:
            return None
        others = {m: logits[i : i + 1, :n] for m, logits in own.items() if m != mix.base}
        log_w = self._log_w(mix, others)
        allowed = generation.allowed()
        if allowed is not None and np.count_nonzero(allowed) == 1:  # certain without any row
            generation.left_out.append((part.left_out, 0.0))
            return _made(part.most(), log_w)
        if generation.settings.sampling.temperature == 0:
            return self._certain(slot, generation, part, log_w, draw)
        guide = next((others[pair.reference][0] for pair in mix.pairs if pair.reference in others), None)
        if guide is None:  # the base alone: nothing here knows the shape of what is left out
            guide = self._nothing[0]
        return self._filled(slot, generation, part, log_w, guide)

    def _certain(
        self,
        slot: Slot,
        generation: Generation,
        part: Partial,
        log_w: Logits,
        draw: Callable[[Completed], int],
    ) -> Completed:
        """Ask for more tokens until the likeliest one is known, whatever the others have.

        All settings that a greedy token depends on move a token's logit up where it was up: what is drawn where the
        tokens outside have the most that they can have is right, if it is a token that is known. repeat_penalty also
        depends on the level of the row, which its largest logit gives: that one must be known, too.
        """
        sampling = generation.settings.sampling
        while not part.whole:
            upper = _made(part.most(), log_w)
            if part.knows(draw(upper)) and not (sampling.penalizes and not part.knows(int(upper.z.argmax()))):
                break
            more = self._more(slot, generation, part)
            if more is None:
                able = _able(generation, log_w)
                off = part.bound(able, replace(sampling, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0))
                generation.left_out.append((part.left_out, off))
                return upper if (able[part.known] == NEVER).all() else _made(part.row, log_w)
            part = more
        generation.left_out.append((part.left_out, 0.0))
        return _made(part.row, log_w)

    def _filled(self, slot: Slot, generation: Generation, part: Partial, log_w: Logits, guide: Logits) -> Completed:
        """Fill the row. Where a constraint leaves few tokens that are known, ask for more first."""
        sampling, able = generation.settings.sampling, _able(generation, log_w)
        off = part.bound(able, sampling)
        if generation.matcher is not None:
            free = added(log_w, sampling, generation.tokens)
            while off > CONSTRAINED and off > part.bound(free, sampling):
                more = self._more(slot, generation, part)
                if more is None:
                    break
                part = more
                off = part.bound(able, sampling)
        generation.left_out.append((part.left_out, off if off > LEAST_BOUND else 0.0))
        return _made(part.filled(guide), log_w)

    def _more(self, slot: Slot, generation: Generation, part: Partial) -> Partial | None:
        """The row with more tokens known; None if the server gives no more."""
        row = self._engine.more(slot, generation.mix.base, generation.tokens, len(part.known))
        more = None if row is None else Partial.of(row[: len(part.row)])
        return more if more is not None and len(more.known) > len(part.known) else None

    def _log_w(self, mix: Mix, others: Mapping[int, Logits]) -> Logits:
        """(n_real,) log w of each token: what the rewards add to the base's logits, whose weight is always 1."""
        rows = {mix.base: self._nothing, **others}
        in_order = {member: (rows[member], slice(None)) for member in sorted(rows)}  # always the same sum
        log_w: Logits = self._combiner.combine(in_order, [mix])[0].copy()
        return log_w


def _made(base: Logits, log_w: Logits) -> Completed:
    return Completed(base + log_w, base)


def _able(generation: Generation, log_w: Logits) -> Logits:
    """log w with what the settings add to it; -inf for tokens that cannot come."""
    able = added(log_w, generation.settings.sampling, generation.tokens)
    allowed = generation.allowed()
    return able if allowed is None else np.where(allowed, able, NEVER)
