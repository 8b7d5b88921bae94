"""The sources of draft tokens: a constraint that leaves no choice, prompt look-up, and a draft model.

A guess never changes an answer (see `arithmetic.noise`). It only lets the large members compute
several positions at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.decoding.generation import Generation
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Known, Request, Slot
from eftlocal.errors import EftError

__all__ = ["Draft", "DraftModelSource", "ForcedSource", "LookupSource", "Source"]


@dataclass(slots=True)
class Draft:
    """The guesses for the next tokens of one sequence.

    n_made  how many guesses the draft model made; 0 where it made none. There may be one more than `tokens`: a guess
            that would end the answer
    known   the draft model's logits at these positions; they need not be computed again
    """

    tokens: list[int] = field(default_factory=list)
    n_made: int = 0
    known: Known | None = None

    @property
    def rows(self) -> int:
        """How many positions the check needs: one for each guess, and one for the token after the last guess."""
        return len(self.tokens) + 1

    def request(self, slot: Slot, generation: Generation) -> Request:
        """The request for the logits that check the guesses."""
        whole = generation.needs_whole
        return Request(slot, self.rows, generation.mix.active, self.known, whole=whole)


class Source(Protocol):
    """Guesses the next tokens of several sequences at once."""

    def guess(self, decoding: Mapping[Slot, Generation], n: int) -> dict[Slot, Draft]:
        """Make at most `n` guesses for each sequence, and append them to the slot's tokens. Raises DecodeError."""


class Ahead(NamedTuple):
    """A draft that was made while the one before it was checked. It counts only if the answer has `expected` tokens."""

    generation: Generation
    expected: list[int]
    draft: Draft


class DraftModelSource:
    """Guesses with a draft model: draws each guess from a small member's own distribution, one decode for each guess.

    The answer's sampling settings and constraint apply to that distribution. The logits are kept, because the
    combination needs them too. `n_real` is the number of token ids that all members share.
    """

    def __init__(self, engine: Engine, n_real: int) -> None:
        self._engine = engine
        self._n_real = n_real
        self._rows: list[Logits] = []  # (positions, n_real) for each sequence, reused
        self._spare = np.empty((0, n_real), np.float32)  # (positions, n_real) for the draft that is made ahead
        self._ahead: Ahead | None = None

    def guess(self, decoding: Mapping[Slot, Generation], n: int) -> dict[Slot, Draft]:
        """As Source.guess. A draft stops before a guess that would end the answer."""
        self._reserve(len(decoding), n + 1)
        drafts = {slot: Draft() for slot in decoding}
        ahead, self._ahead = self._ahead, None
        if ahead is not None and len(decoding) == 1:
            for slot, generation in decoding.items():
                drafts[slot] = self._made_ahead(ahead, slot, generation, n)
        places = dict(zip(decoding, self._rows, strict=False))
        for i in range(min((len(draft.tokens) for draft in drafts.values()), default=0), n):
            still = {
                slot: generation.drafter
                for slot, generation in decoding.items()
                if generation.drafter is not None
                and drafts[slot].n_made == len(drafts[slot].tokens) == i < generation.room(self._engine.n_ctx)
            }
            if not still:
                break
            rows = self._engine.forward([Request(slot, 1, (member,)) for slot, member in still.items()])
            for at, (slot, member) in enumerate(still.items()):
                logits, which = rows[member]
                row = places[slot][i]
                row[:] = logits[at if isinstance(which, slice) else int(np.searchsorted(which, at)), : self._n_real]
                self._take(decoding[slot], slot, drafts[slot], row)
                drafts[slot].known = Known(member, places[slot], drafts[slot].n_made)
        return drafts

    def guess_on(self, slot: Slot, generation: Generation, draft: Draft, checked: Callable[[], bool]) -> Logits:
        """Guess on while the other members check `draft`, until `checked` returns True.

        Returns the draft model's logits for the draft, (rows, n_real). The new guesses become the next draft if all
        guesses of this one are right, and the guess for the token after it as well. They are appended to the slot's
        tokens.
        """
        assert draft.known is not None
        member, rows, n = draft.known.member, draft.known.logits[: draft.rows], len(draft.tokens)
        if draft.known.n > n:  # the last guess ends the answer: nothing follows
            return rows
        self._compute(slot, member, rows[n])
        last = Draft([*draft.tokens], draft.n_made)
        self._take(generation, slot, last, rows[n])
        if len(last.tokens) == n:
            return rows
        ahead = Ahead(generation, [*generation.tokens, *last.tokens], Draft())
        for i in range(min(n, generation.room(self._engine.n_ctx) - n - 1)):
            if checked() or len(ahead.draft.tokens) < i:
                break
            self._compute(slot, member, self._spare[i])
            self._take(generation, slot, ahead.draft, self._spare[i], last.tokens)
        self._ahead = ahead
        return rows

    def _made_ahead(self, ahead: Ahead, slot: Slot, generation: Generation, n: int) -> Draft:
        """The next draft as far as it was made ahead; an empty draft if the answer has other tokens than expected."""
        if ahead.generation is not generation or ahead.expected != generation.tokens:
            return Draft()
        assert generation.drafter is not None
        self._rows[0], self._spare = self._spare, self._rows[0]
        guesses, n_made = ahead.draft.tokens, ahead.draft.n_made
        draft = Draft(guesses[:n], n_made if len(guesses) <= n else n)
        slot.tokens += draft.tokens
        slot.regain(generation.drafter)
        if draft.n_made:
            draft.known = Known(generation.drafter, self._rows[0], draft.n_made)
        return draft

    def _compute(self, slot: Slot, member: int, row: Logits) -> None:
        logits, _ = self._engine.forward([Request(slot, 1, (member,))])[member]
        row[:] = logits[0, : self._n_real]

    def _take(self, generation: Generation, slot: Slot, draft: Draft, row: Logits, before: Sequence[int] = ()) -> None:
        """Draw one more guess from `row`: the position after the answer, the tokens `before` and the draft's tokens."""
        guesses = [*before, *draft.tokens]
        try:
            guess = generation.draw(row, guesses)
        except EftError:  # the settings are wrong: drawing the answer's own token raises this again
            return
        draft.n_made += 1
        if not generation.is_end(guess):
            draft.tokens.append(guess)
            slot.tokens.append(guess)

    def _reserve(self, n_sequences: int, n_rows: int) -> None:
        if len(self._spare) < n_rows:
            self._rows = []
            before, self._spare = self._spare, np.empty((n_rows, self._n_real), np.float32)
            self._spare[: len(before)] = before  # the draft that was made ahead
        while len(self._rows) < n_sequences:
            self._rows.append(np.empty_like(self._spare))


class ForcedSource:
    """Guesses the tokens that a constraint forces."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def guess(self, decoding: Mapping[Slot, Generation], n: int) -> dict[Slot, Draft]:
        """As Source.guess."""
        drafts = {}
        for slot, generation in decoding.items():
            certain = [] if generation.matcher is None else generation.matcher.forced(generation.tokens)
            drafts[slot] = _unseen(slot, certain[: min(n, generation.room(self._engine.n_ctx))])
        return drafts


class LookupSource:
    """Guesses by prompt look-up: what followed the text's last tokens at an earlier place may follow again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def guess(self, decoding: Mapping[Slot, Generation], n: int) -> dict[Slot, Draft]:
        """As Source.guess. A draft is empty if nothing repeats."""
        drafts = {}
        for slot, generation in decoding.items():
            room = min(n, generation.room(self._engine.n_ctx))
            guesses = generation.lookup.following(room) if generation.lookup is not None else []
            if generation.matcher is not None:  # a forbidden guess is always wrong
                del guesses[generation.matcher.fitting(generation.tokens, guesses) :]
            end = next((i for i, guess in enumerate(guesses) if generation.is_end(guess)), len(guesses))
            drafts[slot] = _unseen(slot, guesses[:end])
        return drafts


def _unseen(slot: Slot, guesses: list[int]) -> Draft:
    """A draft of these guesses, appended to the slot; no member has computed their logits yet."""
    slot.tokens += guesses
    return Draft(guesses)
