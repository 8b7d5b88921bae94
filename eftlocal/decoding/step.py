"""One decoding step of several answers: guess, check, combine, draw, settle."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from eftlocal.arithmetic.arrays import Logits, Rows
from eftlocal.arithmetic.combine import Combiner
from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.decoding.drafts.drafter import Drafter
from eftlocal.decoding.drafts.sources import Draft
from eftlocal.decoding.generation import Generation
from eftlocal.decoding.partial import Completed, Completer
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot
from eftlocal.errors import DecodeError, EftError

__all__ = ["Chunk", "Step"]

NOTHING: Final = np.empty((0, 0), np.float32)


class Chunk(NamedTuple):
    """A part of a prompt that is read in a step. If the request asks for rows, these tokens are scored."""

    generation: Generation
    request: Request


class Combined(NamedTuple):
    """The logits of one answer's draft.

    z     (rows, n_real) combined
    own   member -> (rows, n_real or more) its own
    slot  whose rows they are; None of a prompt that is scored
    """

    z: Logits
    own: Mapping[int, Logits]
    slot: Slot | None = None


class Step:
    """Gives each answer one or more tokens. It remembers what drafts cost and how often they are accepted.

    `combiner` combines the logits of the engine's members.
    """

    def __init__(self, engine: Engine, combiner: Combiner) -> None:
        self._engine = engine
        self._combiner = combiner
        self._drafter = Drafter(engine, combiner.n_real)
        self._completer = Completer(engine, combiner)

    def __call__(self, decoding: Mapping[Slot, Generation], chunks: Sequence[Chunk]) -> dict[Generation, str]:
        """Run one step of speculative decoding (arXiv 2211.17192). Returns the new text of each answer.

        guess    draft tokens for each answer
        check    all members compute the logits at the drafts' positions; `chunks` of prompts are fed with them
        combine  the members' rows are summed
        draw     tokens are drawn until one differs from its guess
        settle   the slots keep the drawn tokens and drop the other guesses

        An answer whose rows or settings are wrong gets an `error`; the others go on. Raises DecodeError if a decode
        failed.
        """
        before = {slot: len(slot.tokens) for slot in decoding}
        try:
            scored = [chunk for chunk in chunks if chunk.request.rows]
            drafts = self._drafter.guess(decoding, prefill=bool(chunks), scoring=bool(scored))
            logits = self._check(decoding, drafts.by_slot, chunks)
            texts: dict[Generation, str] = {}
            hits: list[bool | None] = []
            for generation, draft, combined in self._combine(decoding, drafts.by_slot, scored, logits):
                if draft is None:
                    generation.report_prompt(combined.z)
                else:
                    texts[generation] = self._draw(generation, draft, combined, hits)
        finally:  # also after an error: no guess stays after its step
            for slot, generation in decoding.items():
                _settle(slot, generation, before[slot])
        self._drafter.learn(drafts, hits, {g: g.tokens[before[slot] :] for slot, g in decoding.items()})
        return texts

    def _check(
        self, decoding: Mapping[Slot, Generation], drafts: Mapping[Slot, Draft], chunks: Sequence[Chunk]
    ) -> dict[int, tuple[Logits, Rows]]:
        """All members' logits at the drafts' positions. A draft model on its own device guesses on in the meantime."""
        if not chunks and (logits := self._drafter.check_and_guess_on(decoding, drafts)) is not None:
            return logits
        requests = [drafts[slot].request(slot, generation) for slot, generation in decoding.items()]
        return self._engine.forward([*requests, *(chunk.request for chunk in chunks)])

    def _combine(
        self,
        decoding: Mapping[Slot, Generation],
        drafts: Mapping[Slot, Draft],
        scored: Sequence[Chunk],
        logits: Mapping[int, tuple[Logits, Rows]],
    ) -> Iterator[tuple[Generation, Draft | None, Combined]]:
        """Yields each answer's rows; use them before the next ones. A row that is not finite ends only its answer.

        The rows of a prompt that is scored have no draft; they come after the others.
        """
        first = 0
        places: list[tuple[Generation, Draft | None, slice, Combined]] = []
        asked = [(generation, drafts[slot], drafts[slot].rows, slot) for slot, generation in decoding.items()]
        more = [(chunk.generation, None, chunk.request.rows, None) for chunk in scored]
        for generation, draft, n, slot in (*asked, *more):
            rows = slice(first, first := first + n)
            own = {member: _rows_of(logits[member], rows) for member in generation.mix.active}
            places.append((generation, draft, rows, Combined(NOTHING, own, slot)))
        try:
            mixes = [g.mix for g, _, rows, _ in places for _ in range(rows.stop - rows.start)]
            z = self._combiner.combine(logits, mixes)
        except DecodeError:
            for generation, draft, rows, combined in places:
                parts = {member: (part, slice(None)) for member, part in combined.own.items()}
                try:
                    mixes = [generation.mix] * (rows.stop - rows.start)
                    combined = combined._replace(z=self._combiner.combine(parts, mixes))
                except DecodeError as error:
                    generation.error = error
                else:
                    yield generation, draft, combined
        else:
            for generation, draft, rows, combined in places:
                yield generation, draft, combined._replace(z=z[rows])

    def _leveled(self, generation: Generation, z: Logits, own: Mapping[int, Logits]) -> Logits:
        """z, (n_real,), at the level that penalties take for granted: the base's largest logit is the largest.

        A sum of raw logits has an arbitrary level, and repeat_penalty depends on it. The base by itself is penalized as
        llama.cpp does it. Where the base does not run, or is on a server, which gives log-probabilities and not logits,
        the first member that runs here stands for it.
        """
        if not generation.settings.sampling.penalizes:
            return z
        specs = self._engine.workers.specs
        able = [m for m in (generation.mix.base, *generation.mix.active) if m in own]
        member = next((m for m in able if specs[m].remote is None), able[0])
        up: np.float32 = own[member][: self._combiner.n_real].max() - z.max()
        leveled: Logits = z + up
        return leveled

    def _draw(self, generation: Generation, draft: Draft, combined: Combined, hits: list[bool | None]) -> str:
        """Draw tokens until one differs from its guess: the rows after that are worthless. Returns their text.

        Appends to `hits` whether each guess was right, and None if the answer has ended. An error ends only this
        answer.
        """
        text, own = "", combined.own
        generation.steps += 1
        small = None if generation.drafter is None else own[generation.drafter]
        before = len(generation.hits)
        far = self._engine.workers.specs[generation.mix.base].remote is not None
        try:
            for i in range(draft.rows):
                guess = draft.tokens[i] if i < len(draft.tokens) else None
                if small is not None and (guess is None or not draft.n_made):
                    guess = generation.draw(small[i, : self._combiner.n_real])  # the draft model's own
                rows = {member: logits[i] for member, logits in own.items()}
                z = combined.z[i]
                if far and combined.slot is not None:
                    base = generation.mix.base

                    def drawn(row: Completed, rows: Mapping[int, Logits] = rows, base: int = base) -> int:
                        return generation.draw(self._leveled(generation, row.z, {**rows, base: row.base}))

                    if (done := self._completer.complete(combined.slot, generation, own, i, drawn)) is not None:
                        z, rows[base] = done
                token = generation.draw(self._leveled(generation, z, rows))
                if guess is not None:
                    generation.hits.append(token == guess)
                generation.report(token, z, rows)
                text += generation.take(token, self._engine)
                if generation.ended or i == len(draft.tokens) or token != draft.tokens[i]:
                    break
        except EftError as error:
            generation.error = error
        hits += generation.hits[before:]
        if generation.ended:
            hits.append(None)
        return text


def _rows_of(part: tuple[Logits, Rows], rows: slice) -> Logits:
    """A member's logits at these rows; `rows` are numbered over all requests."""
    logits, which = part
    if isinstance(which, slice):
        return logits[rows]
    start = int(np.searchsorted(which, rows.start))
    return logits[start : start + rows.stop - rows.start]


def _settle(slot: Slot, generation: Generation, start: int) -> None:
    """Make the slot's tokens equal to the answer's. Up to `start` they are equal already."""
    kept = start + common_prefix(slot.tokens[start:], generation.tokens[start:])
    slot.truncate(kept)
    slot.tokens += generation.tokens[kept:]
