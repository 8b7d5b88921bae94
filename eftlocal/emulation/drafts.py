"""Where guesses at the next tokens come from: a small member of the emulator itself, or a look-up in what was said.

A guess never changes an answer (see `speculate`): it only lets the large members compute several positions at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from eftlocal.emulation.combine import Logits
from eftlocal.emulation.engine import Engine, Known, Request, Slot
from eftlocal.emulation.generation import Generation
from eftlocal.emulation.sample import Distribution
from eftlocal.errors import EftError

__all__ = ["Block", "LookupDrafts", "MemberDrafts", "Source"]


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


class MemberDrafts:
    """Guesses drawn from a small member's own distribution, warped as the emulator's is, one token at a time.

    The rows of logits that it computes are kept: the combination needs them anyway. `n_real`: their length.
    """

    def __init__(self, engine: Engine, n_real: int) -> None:
        self._engine = engine
        self._n_real = n_real
        self._rows = np.empty((0, 0, n_real), np.float32)  # (sequences, positions, n_real), reused

    def guess(
        self, running: Mapping[Slot, Generation], n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """As Source's. A sequence's guesses end before a token that would end it."""
        self._reserve(len(running), n + 1)
        blocks = {slot: Block() for slot in running}
        places = dict(zip(running, self._rows, strict=False))
        for i in range(n):
            still = {
                slot: generation.drafter
                for slot, generation in running.items()
                if generation.drafter is not None
                and len(blocks[slot].guesses) == i < generation.room(self._engine.n_ctx)
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

    def _take(self, generation: Generation, slot: Slot, block: Block, row: Logits) -> None:
        try:
            offered = generation.distribution(row, block.guesses)
        except EftError:  # no guess: whatever is wrong with this answer's settings comes up when the emulator draws
            return
        guess = generation.offer(offered, len(block.guesses))
        block.offered.append(offered)
        if not self._engine.is_eog(guess):
            block.guesses.append(guess)
            slot.tokens.append(guess)

    def _reserve(self, n_sequences: int, n_rows: int) -> None:
        sequences, rows, _ = self._rows.shape
        if n_sequences > sequences or n_rows > rows:
            shape = (max(n_sequences, sequences), max(n_rows, rows), self._n_real)
            self._rows = np.empty(shape, np.float32)


class LookupDrafts:
    """Guesses that the text repeats itself: what followed the last tokens when they stood there before.

    Looks in the prompt and in the answer so far, for the longest of the endings of LONGEST to SHORTEST tokens.
    """

    SHORTEST, LONGEST = 3, 8

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def guess(
        self, running: Mapping[Slot, Generation], n: int, cancelled: Callable[[], bool] | None
    ) -> dict[Slot, Block]:
        """As Source's. Nothing is guessed where nothing repeats."""
        blocks = {}
        for slot, generation in running.items():
            history = [*next(iter(generation.prompts.values())), *generation.tokens]
            guesses = self.following(history, min(n, generation.room(self._engine.n_ctx)))
            if generation.matcher is not None:  # a guess that may not come is wrong for certain
                del guesses[generation.matcher.fitting(generation.tokens, guesses) :]
            end = next((i for i, guess in enumerate(guesses) if self._engine.is_eog(guess)), len(guesses))
            blocks[slot] = Block(guesses[:end])
            slot.tokens += guesses[:end]
        return blocks

    @classmethod
    def following(cls, history: Sequence[int], n: int) -> list[int]:
        """At most `n` tokens that followed the longest repeated ending of `history`, where it last stood before."""
        tokens = np.array(history, np.int32)
        text = tokens.tobytes()
        for length in range(min(cls.LONGEST, len(tokens) - 1), cls.SHORTEST - 1, -1):
            ending, end = text[-4 * length :], len(text) - 4
            while (at := text.rfind(ending, 0, end)) >= 0:
                if at % 4 == 0:
                    found: list[int] = tokens[at // 4 + length :][:n].tolist()
                    return found
                end = at + 4 * length - 1  # between two tokens: look on before it
        return []
