"""The decoding loop: sequences in, text deltas out; guess, forward, combine, draw until every answer has ended."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from eftlocal.arithmetic.combine import Combiner, Logits, Rows
from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.decoding.drafts.length import LENGTHS, DraftLength
from eftlocal.decoding.drafts.sources import Block, CertainDrafts, LookupDrafts, MemberDrafts
from eftlocal.decoding.generation import Generation
from eftlocal.engine.engine import Cancelled, Engine, Request, Slot
from eftlocal.errors import EftError

__all__ = ["Decoder", "Running"]

BLOCK_ROWS = 64  # positions of all sequences that are checked at once, at most


class Running:
    """Answers that are decoded together, each in a slot of the engine; those that wait for their prompt among them."""

    def __init__(self, decoder: "Decoder", engine: Engine) -> None:
        self._decoder = decoder
        self._engine = engine
        self._drawing: dict[Slot, Generation] = {}
        self._reading: dict[Slot, Generation] = {}  # their prompts are not fed yet; in the order they came

    def __len__(self) -> int:
        return len(self._drawing) + len(self._reading)

    def add(self, generation: Generation) -> None:
        """Decode one more from the next step on."""
        self._reading[self._engine.begin(generation.prompts)] = generation

    def step(self, cancelled: Callable[[], bool] | None = None) -> list[tuple[Generation, str]]:
        """Every answer goes on: by a token at least, or by a part of its prompt. Text deltas of those that have any.

        An answer that has ended is among them (`ended`), and its slot is free again. What goes wrong with one answer
        alone is its `error`; a decode that failed is the error of all that ran. After `cancelled` all have ended.
        """
        try:
            pieces = self._admit()
            deltas = self._decoder.step(self._drawing, pieces, cancelled)
        except Cancelled:
            deltas = {slot: generation.end("cancelled") for slot, generation in self._all()}
        except EftError as error:
            deltas = dict.fromkeys(self._drawing | self._reading, "")
            for _, generation in self._all():
                generation.error = error
        told = []
        for slot, generation in self._all():
            if generation.ended:
                self._engine.end(slot)
                self._drawing.pop(slot, None)
                self._reading.pop(slot, None)
            if generation.ended or deltas.get(slot):
                told.append((generation, deltas.get(slot, "")))
        return told

    def close(self) -> None:
        """Give every slot back; what has not ended ends as cancelled."""
        for slot, generation in self._all():
            self._engine.end(slot)
            if not generation.ended:
                generation.end("cancelled")
        self._drawing.clear()
        self._reading.clear()

    def _all(self) -> list[tuple[Slot, Generation]]:
        return [*self._drawing.items(), *self._reading.items()]

    def _admit(self) -> list[Request]:
        """Lets those draw whose prompt fits into the coming step, and gives the pieces of longer ones to be fed.

        All of that is about one batch, so that those who draw already go on at nearly their pace. A prompt that begins
        like one that is being fed waits for that beginning and copies it.
        """
        n_batch = self._engine.n_batch
        left = max(n_batch - len(self._drawing), n_batch // 4)
        pieces: list[Request] = []
        fed: list[Slot] = []
        for slot, generation in list(self._reading.items()):
            if left <= 0:
                break
            if self._engine.will_hold_more(slot, fed):
                continue
            self._engine.share(slot)
            fed.append(slot)
            lacking = self._engine.lacking(slot)
            if lacking <= left:
                self._drawing[slot] = self._reading.pop(slot)
            else:
                pieces.append(Request(slot, 0, generation.mix.active, most=left))
            left -= lacking
        self._close_ranks()
        return pieces

    def _close_ranks(self) -> None:
        """Slots in ascending order, and no gaps between them where nothing comes to fill one: llama.cpp computes
        neighbouring sequences together, and reads all weights again for others. Copying a cache costs less than that.
        """
        if not self._reading and self._drawing:
            first = min(slot.index for slot in self._drawing)
            for gap in [slot for slot in self._engine.slots[first:] if slot.free]:
                last = max(self._drawing, key=lambda slot: slot.index)
                if last.index < gap.index:
                    break
                self._engine.move(last, gap)
                self._drawing[gap] = self._drawing.pop(last)
        self._drawing = dict(sorted(self._drawing.items(), key=lambda item: item[0].index))


class Decoder:
    """Decodes generations on an engine; it remembers what blocks cost and how often guesses are right.

    `combiner`: of the engine's members.
    """

    def __init__(self, engine: Engine, combiner: Combiner) -> None:
        self._engine = engine
        self._combiner = combiner
        self._members = MemberDrafts(engine, combiner.n_real)
        self._lookup = LookupDrafts(engine)
        self._certain = CertainDrafts(engine)
        self._paces: dict[frozenset[object], DraftLength] = {}  # by the members that run

    def start(self) -> Running:
        """Nothing yet: add to it."""
        return Running(self, self._engine)

    def decode(self, generation: Generation, cancelled: Callable[[], bool] | None = None) -> Iterator[str]:
        """Decode one answer; its text deltas. When `cancelled` answers True, or when the caller closes the iterator,
        it ends as "cancelled" and keeps the text it has. Raises its error.
        """
        running = self.start()
        try:
            running.add(generation)
            while running:
                yield from (delta for _, delta in running.step(cancelled) if delta)
            if generation.error is not None:
                raise generation.error
        finally:
            running.close()

    def step(
        self, running: Mapping[Slot, Generation], pieces: Sequence[Request], cancelled: Callable[[], bool] | None
    ) -> dict[Slot, str]:
        """Every sequence goes on by one token at least: guess a block, check it with all members, draw from it.

        `pieces`: of the prompts of others, fed along with it.
        """
        before = {slot: len(slot.tokens) for slot in running}
        pace = self._pace(running)
        # A prompt is fed by all members at the same time: guessing before would make the others wait.
        begins = any(not generation.tokens for generation in running.values())
        deltas, hits, first = dict[Slot, str](), list[bool | None](), 0
        started = time.perf_counter()
        try:
            blocks = self._certain.guess(running, _most(len(running)), cancelled)
            rest = {slot: generation for slot, generation in running.items() if not blocks[slot].guesses}
            if rest and pace is not None and not begins:
                blocks |= self._guess(rest, pace, len(running), cancelled)
            guessed = time.perf_counter()
            parts = self._check(running, blocks, pieces, cancelled)
            mixes = [generation.mix for slot, generation in running.items() for _ in range(blocks[slot].rows)]
            z = self._combiner.combine(parts, mixes)  # (rows, n_real)
            for slot, generation in running.items():
                rows = slice(first, first := first + blocks[slot].rows)
                alone = {member: _rows_of(parts[member], rows) for member in generation.mix.active}
                deltas[slot], right = self._advance(generation, blocks[slot], z[rows], alone)
                hits += [*right, None] if generation.ended else right
        finally:  # whatever happened: no guess outlives its block
            for slot, generation in running.items():
                _settle(slot, generation, before[slot])
        if pace is not None:
            if not pieces and not begins:  # of prompts, a step would be no measure of others
                if drafts := max(len(block.offered) for block in blocks.values()):
                    pace.drafted(drafts, guessed - started, len(running))
                copied = any(block.guesses and not block.offered for block in blocks.values())
                n_rows = sum(block.rows for block in blocks.values())
                pace.checked(n_rows, time.perf_counter() - guessed, copied=copied)
            pace.saw(hits)
            for slot, generation in running.items():
                if generation.repeats is not None:
                    pace.repeated(generation.repeats.extend(generation.tokens[before[slot] :]))
        return deltas

    def _check(
        self,
        running: Mapping[Slot, Generation],
        blocks: Mapping[Slot, Block],
        pieces: Sequence[Request],
        cancelled: Callable[[], bool] | None,
    ) -> dict[int, tuple[Logits, Rows]]:
        """All members' rows of the blocks. A drafter that runs apart from the others goes on guessing meanwhile."""
        if len(running) == 1 and not pieces:
            [(slot, generation)], [block] = running.items(), blocks.values()
            member = generation.drafter
            others = tuple(other for other in generation.mix.active if other != member)
            if block.known is not None and member is not None and self._engine.apart(member, others):
                pending = self._engine.start([Request(slot, block.rows, others)], cancelled)
                try:
                    rows = self._members.go_on(slot, generation, block, lambda: pending.done, cancelled)
                finally:
                    parts = pending.result()
                return {**parts, member: (rows, slice(None))}
        requests = [blocks[s].request(s, g.mix.active) for s, g in running.items()]
        return self._engine.forward([*requests, *pieces], cancelled)

    def _advance(
        self, generation: Generation, block: Block, z: Logits, alone: Mapping[int, Logits]
    ) -> tuple[str, list[bool]]:
        """Draw token after token until one is not the guess that the next row follows. Text, and which were right.

        z: (rows, n_real) the emulator's. alone: (rows, n_real or more) the members'. An error ends this answer only.
        """
        delta, hits = "", list[bool]()
        generation.steps += 1
        small = None if generation.drafter is None else alone[generation.drafter]
        try:
            for i in range(block.rows):
                offered = None
                if small is not None:
                    known = i < len(block.offered)
                    offered = block.offered[i] if known else generation.distribution(small[i, : self._combiner.n_real])
                guess = block.guesses[i] if i < len(block.guesses) else None
                if offered is not None and i >= len(block.offered):
                    guess = generation.offer(offered)  # the drafter's own, also where another source guessed
                token = generation.draw(z[i], offered)
                if guess is not None:
                    hits.append(token == guess)
                if generation.logprobs_of is not None and not self._engine.is_eog(token):
                    rows = {member: logits[i] for member, logits in alone.items()}
                    generation.logprobs.append(generation.logprobs_of(token, z[i], rows))
                delta += generation.take(token, self._engine)
                if generation.ended or i == len(block.guesses) or token != block.guesses[i]:
                    break
        except EftError as error:
            generation.error = error
        generation.hits += hits
        return delta, hits

    def _guess(
        self, running: Mapping[Slot, Generation], pace: DraftLength, n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """For each of these sequences, of `n`, from the source that promises most: a look-up costs no decode."""
        most = _most(n)
        fixed = [generation.settings.draft for generation in running.values() if generation.settings.draft != "auto"]
        length = min([most, *fixed]) if fixed else pace.length(most, n)
        looked_up: dict[int, dict[Slot, Generation]] = {}  # by length
        drafted: dict[Slot, Generation] = {}
        for slot, generation in running.items():
            matched = 0 if generation.repeats is None else generation.repeats.matched
            if copied := (length if generation.drafter is None else 0) if fixed else pace.copied(matched, most, n):
                looked_up.setdefault(copied, {})[slot] = generation
            else:
                drafted[slot] = generation
        blocks = self._members.guess(drafted, length, cancelled)
        for copied, own in looked_up.items():
            blocks |= self._lookup.guess(own, copied, cancelled)
        return blocks

    def _pace(self, running: Mapping[Slot, Generation]) -> DraftLength | None:
        """What is known of blocks of these members; None where no answer is drafted for."""
        if not any(generation.settings.draft for generation in running.values()):
            return None
        key = frozenset((generation.mix.active, generation.drafter) for generation in running.values())
        if key not in self._paces:
            drafts = any(generation.drafter is not None for generation in running.values())
            self._paces[key] = DraftLength(LENGTHS if drafts else (0,))
        return self._paces[key]


def _most(n: int) -> int:
    """How many guesses each of `n` sequences can have checked in one step."""
    return max(0, BLOCK_ROWS // max(1, n) - 1)


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
