"""Where guesses at the next tokens come from: a constraint that leaves no choice, a look-up in what was said, a member.

A guess never changes an answer (see `speculate`): it only lets the large members compute several positions at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from eftlocal.arithmetic.combine import Logits
from eftlocal.arithmetic.sample import Distribution
from eftlocal.decoding.generation import Generation
from eftlocal.engine.engine import Engine, Known, Request, Slot
from eftlocal.errors import EftError

__all__ = ["Block", "CertainDrafts", "LookupDrafts", "MemberDrafts", "Source"]


@dataclass(slots=True)
class Block:
    """What is guessed to come next in one sequence, and what the guessing computed that need not be computed again."""

    guesses: list[int] = field(default_factory=list)
    offered: list[Distribution] = field(default_factory=list)  # what each of them was drawn from
    known: Known | None = None

    @property
    def rows(self) -> int:
        """The positions that check the guesses, and one more: for the token after the last of them."""
        return len(self.guesses) + 1

    def request(self, slot: Slot, members: Sequence[int]) -> Request:
        """What has to be computed to check the guesses."""
        return Request(slot, self.rows, members, self.known)


class Source(Protocol):
    """A maker of guesses for several sequences at once."""

    def guess(
        self, running: Mapping[Slot, Generation], n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """At most `n` guesses for each sequence; every slot's tokens end with them then. May raise as forward does."""


class Further(NamedTuple):
    """Guesses that were made while a block was checked: the next block, if the answer goes on as `expected`."""

    generation: Generation
    expected: list[int]
    block: Block


class MemberDrafts:
    """Guesses drawn from a small member's own distribution, warped as the emulator's is, one token at a time.

    The rows of logits that it computes are kept: the combination needs them anyway. `n_real`: their length.
    """

    def __init__(self, engine: Engine, n_real: int) -> None:
        self._engine = engine
        self._n_real = n_real
        self._rows: list[Logits] = []  # (positions, n_real) of each sequence, reused
        self._spare = np.empty((0, n_real), np.float32)  # of as many positions: the next block's
        self._further: Further | None = None

    def guess(
        self, running: Mapping[Slot, Generation], n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """As Source's. A sequence's guesses end before a token that would end it."""
        self._reserve(len(running), n + 1)
        blocks = {slot: Block() for slot in running}
        further, self._further = self._further, None
        if further is not None and len(running) == 1:
            for slot, generation in running.items():
                blocks[slot] = self._taken_up(further, slot, generation, n)
        places = dict(zip(running, self._rows, strict=False))
        for i in range(min((len(block.guesses) for block in blocks.values()), default=0), n):
            still = {
                slot: generation.drafter
                for slot, generation in running.items()
                if generation.drafter is not None
                and len(blocks[slot].offered) == len(blocks[slot].guesses) == i < generation.room(self._engine.n_ctx)
            }
            if not still:
                break
            rows = self._engine.forward([Request(slot, 1, (member,)) for slot, member in still.items()], cancelled)
            for at, (slot, member) in enumerate(still.items()):
                logits, which = rows[member]
                row = places[slot][i]
                row[:] = logits[at if isinstance(which, slice) else int(np.searchsorted(which, at)), : self._n_real]
                self._take(running[slot], slot, blocks[slot], row)
                blocks[slot].known = Known(member, places[slot], len(blocks[slot].offered))
        return blocks

    def go_on(
        self,
        slot: Slot,
        generation: Generation,
        block: Block,
        checked: Callable[[], bool],
        cancelled: Callable[[], bool] | None,
    ) -> Logits:
        """The member's own rows of the block, (rows, n_real); then guesses until the others have `checked` it.

        They begin the next block, if all of this one is right and its last token too. The slot's tokens end with them.
        """
        assert block.known is not None
        member, rows, n = block.known.member, block.known.logits[: block.rows], len(block.guesses)
        if block.known.n > n:  # a guess that would end the answer: nothing follows
            return rows
        self._compute(slot, member, rows[n], cancelled)
        last = Block([*block.guesses], block.offered)
        self._take(generation, slot, last, rows[n])
        if len(last.guesses) == n:
            return rows
        further = Further(generation, [*generation.tokens, *last.guesses], Block())
        for i in range(min(n, generation.room(self._engine.n_ctx) - n - 1)):
            if checked() or len(further.block.guesses) < i:
                break
            self._compute(slot, member, self._spare[i], cancelled)
            self._take(generation, slot, further.block, self._spare[i], last.guesses)
        self._further = further
        return rows

    def _taken_up(self, further: Further, slot: Slot, generation: Generation, n: int) -> Block:
        """The next block, as far as it was guessed already."""
        if further.generation is not generation or further.expected != generation.tokens:
            return Block()
        assert generation.drafter is not None
        self._rows[0], self._spare = self._spare, self._rows[0]
        guesses, offered = further.block.guesses, further.block.offered
        block = Block(guesses[:n], offered if len(guesses) <= n else offered[:n])
        slot.tokens += block.guesses
        slot.regain(generation.drafter)
        if block.offered:
            block.known = Known(generation.drafter, self._rows[0], len(block.offered))
        return block

    def _compute(self, slot: Slot, member: int, row: Logits, cancelled: Callable[[], bool] | None) -> None:
        logits, _ = self._engine.forward([Request(slot, 1, (member,))], cancelled)[member]
        row[:] = logits[0, : self._n_real]

    def _take(self, generation: Generation, slot: Slot, block: Block, row: Logits, before: Sequence[int] = ()) -> None:
        """One guess more, from the row that follows the answer, `before` and the block's guesses."""
        guesses = [*before, *block.guesses]
        try:
            offered = generation.distribution(row, guesses)
        except EftError:  # no guess: whatever is wrong with this answer's settings comes up when the emulator draws
            return
        guess = generation.offer(offered, len(guesses))
        block.offered.append(offered)
        if not self._engine.is_eog(guess):
            block.guesses.append(guess)
            slot.tokens.append(guess)

    def _reserve(self, n_sequences: int, n_rows: int) -> None:
        if len(self._spare) < n_rows:
            self._rows = []
            before, self._spare = self._spare, np.empty((n_rows, self._n_real), np.float32)
            self._spare[: len(before)] = before  # what was guessed ahead
        while len(self._rows) < n_sequences:
            self._rows.append(np.empty_like(self._spare))


class CertainDrafts:
    """What a constraint leaves no choice in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def guess(
        self, running: Mapping[Slot, Generation], n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """As Source's."""
        blocks = {}
        for slot, generation in running.items():
            certain = [] if generation.matcher is None else generation.matcher.forced(generation.tokens)
            blocks[slot] = _block(slot, certain[: min(n, generation.room(self._engine.n_ctx))])
        return blocks


class LookupDrafts:
    """Guesses that the text, prompt and answer, goes on repeating itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def guess(
        self, running: Mapping[Slot, Generation], n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """As Source's. Nothing is guessed where nothing repeats."""
        blocks = {}
        for slot, generation in running.items():
            room = min(n, generation.room(self._engine.n_ctx))
            guesses = generation.repeats.following(room) if generation.repeats is not None else []
            if generation.matcher is not None:  # a guess that may not come is wrong for certain
                del guesses[generation.matcher.fitting(generation.tokens, guesses) :]
            end = next((i for i, guess in enumerate(guesses) if self._engine.is_eog(guess)), len(guesses))
            blocks[slot] = _block(slot, guesses[:end])
        return blocks


def _block(slot: Slot, guesses: list[int]) -> Block:
    """Guesses that no member has seen yet."""
    slot.tokens += guesses
    return Block(guesses)
