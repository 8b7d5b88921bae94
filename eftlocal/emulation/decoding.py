"""The decoding loop: sequences in, text deltas out; guess, forward, combine, draw until every answer has ended."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from eftlocal.emulation.combine import Combiner, Logits, Rows
from eftlocal.emulation.drafts import Block, LookupDrafts, MemberDrafts, Source
from eftlocal.emulation.engine import Cancelled, Engine, Slot, common_prefix
from eftlocal.emulation.generation import Generation
from eftlocal.emulation.pace import Pace

__all__ = ["Decoder"]

BLOCK_ROWS = 64  # positions of all sequences that are checked at once, at most


class Decoder:
    """Decodes generations on an engine; it remembers what blocks of which length cost and how often guesses are right.

    `combiner`: of the engine's members.
    """

    def __init__(self, engine: Engine, combiner: Combiner) -> None:
        self._engine = engine
        self._combiner = combiner
        self._members = MemberDrafts(engine, combiner.n_real)
        self._lookup = LookupDrafts(engine)
        self._paces: dict[tuple[object, ...], Pace] = {}

    def decode(
        self, waiting: Iterable[Generation], cancelled: Callable[[], bool] | None = None
    ) -> Iterator[tuple[Generation, str]]:
        """Decode all of `waiting`, as many at a time as the engine has slots; yields (generation, text delta).

        A generation that has ended gives its slot to the next at once. When `cancelled` answers True, or when the
        caller closes the iterator, what runs ends as "cancelled" and keeps the text it has.
        """
        queue, running = iter(waiting), dict[Slot, Generation]()
        try:
            while True:
                while len(running) < len(self._engine.slots) and (new := next(queue, None)):
                    running[self._engine.begin(new.prompts)] = new
                if not running:
                    return
                try:
                    deltas = self._step(running, cancelled)
                except Cancelled:
                    yield from ((generation, generation.end("cancelled")) for generation in running.values())
                    return
                for slot, delta in deltas.items():
                    generation = running[slot]
                    if generation.finish_reason:
                        self._engine.end(slot)
                        del running[slot]
                    if delta or generation.finish_reason:
                        yield generation, delta
        finally:
            for slot, generation in running.items():
                self._engine.end(slot)
                if generation.finish_reason is None:
                    generation.end("cancelled")

    def _step(self, running: Mapping[Slot, Generation], cancelled: Callable[[], bool] | None) -> dict[Slot, str]:
        """Every sequence goes on by one token at least: guess a block, check it with all members, draw from it."""
        started, before = time.perf_counter(), {slot: len(slot.tokens) for slot in running}
        pace, length = self._pace(running), self._length(running)
        deltas, hits, first = dict[Slot, str](), list[bool | None](), 0
        try:
            blocks = (
                self._source(running).guess(running, length, cancelled) if length else {s: Block() for s in running}
            )
            parts = self._engine.forward([blocks[s].request(s, g.mix.active) for s, g in running.items()], cancelled)
            mixes = [generation.mix for slot, generation in running.items() for _ in range(blocks[slot].rows)]
            z = self._combiner.combine(parts, mixes)  # (rows, n_real)
            for slot, generation in running.items():
                rows = slice(first, first := first + blocks[slot].rows)
                small = None if generation.drafter is None else _rows_of(parts[generation.drafter], rows)
                deltas[slot], right = self._advance(generation, blocks[slot], z[rows], small)
                hits += [*right, None] if generation.finish_reason else right
        finally:  # whatever happened: no guess outlives its block
            for slot, generation in running.items():
                _settle(slot, generation, before[slot])
        if length == max(len(block.guesses) for block in blocks.values()):
            pace.took(length, time.perf_counter() - started)
        pace.saw(hits)
        return deltas

    def _advance(self, generation: Generation, block: Block, z: Logits, small: Logits | None) -> tuple[str, list[bool]]:
        """Draw token after token until one is not the guess that the next row follows. Text, and which were right.

        z: (rows, n_real) the emulator's. small: (rows, n_real or more) the draft member's.
        """
        delta, hits = "", list[bool]()
        generation.steps += 1
        for i in range(block.rows):
            offered = None
            if small is not None:
                known = i < len(block.offered)
                offered = block.offered[i] if known else generation.distribution(small[i, : self._combiner.n_real])
            guess = block.guesses[i] if i < len(block.guesses) else offered and generation.offer(offered)
            token = generation.draw(z[i], offered)
            if guess is not None:
                hits.append(token == guess)
            delta += generation.take(token, self._engine)
            if generation.finish_reason or i == len(block.guesses) or token != block.guesses[i]:
                break
        generation.hits += hits
        return delta, hits

    def _source(self, running: Mapping[Slot, Generation]) -> Source:
        return self._lookup if any(generation.drafter is None for generation in running.values()) else self._members

    def _length(self, running: Mapping[Slot, Generation]) -> int:
        """How many tokens to guess now."""
        # A prompt is fed by all members at the same time: guessing before would make the others wait.
        if any(not generation.tokens for generation in running.values()):
            return 0
        most = BLOCK_ROWS // len(running) - 1
        asked = [generation.settings.draft for generation in running.values()]
        fixed = [length for length in asked if length != "auto"]
        return min(most, *fixed) if fixed else self._pace(running).length(most)

    def _pace(self, running: Mapping[Slot, Generation]) -> Pace:
        """What is known of steps of so many sequences with these members."""
        key = (len(running), *{(generation.mix.active, generation.drafter) for generation in running.values()})
        return self._paces.setdefault(key, Pace())


def _rows_of(part: tuple[Logits, Rows], rows: slice) -> Logits:
    """A member's logits for these of all rows."""
    logits, which = part
    if isinstance(which, slice):
        return logits[rows]
    start = int(np.searchsorted(which, rows.start))
    return logits[start : start + rows.stop - rows.start]


def _settle(slot: Slot, generation: Generation, start: int) -> None:
    """The slot's tokens become the answer's; both are alike up to `start`."""
    kept = start + common_prefix(slot.tokens[start:], generation.tokens[start:])
    slot.truncate(kept)
    slot.tokens += generation.tokens[kept:]
