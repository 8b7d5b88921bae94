"""The drafter: chooses for each answer which source guesses its next tokens, and how many.

The sources are a constraint that leaves no choice, prompt look-up, and a draft model (a small member).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eftlocal.arithmetic.arrays import Logits, Rows
from eftlocal.decoding.drafts.length import LENGTHS, DraftLength
from eftlocal.decoding.drafts.sources import Draft, DraftModelSource, ForcedSource, LookupSource, Source
from eftlocal.decoding.generation import Generation
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot

__all__ = ["Drafter", "Drafts"]

SHORT: Final = 256  # tokens of a prompt that a draft model may read before the other members
MAX_ROWS: Final = 64  # the most positions that one step checks, over all sequences


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts of one step, and what is needed to learn from them.

    by_slot  one draft for each sequence; it may be empty
    length   chooses the draft lengths for these members; None if no answer wants drafts
    timed    whether to learn from the step's times; a step that reads prompts is not typical
    began    when guessing began (time.perf_counter)
    guessed  when guessing was done
    """

    by_slot: Mapping[Slot, Draft]
    length: DraftLength | None
    timed: bool
    began: float
    guessed: float


class Drafter:
    """Guesses draft tokens for each answer. It learns what drafts cost and how often they are accepted.

    `n_real` is the number of token ids that all members share.
    """

    def __init__(self, engine: Engine, n_real: int) -> None:
        self._engine = engine
        self._draft_model = DraftModelSource(engine, n_real)
        self._lookup: Source = LookupSource(engine)
        self._forced: Source = ForcedSource(engine)
        self._lengths: dict[frozenset[object], DraftLength] = {}  # one for each set of running members

    def guess(self, decoding: Mapping[Slot, Generation], *, prefill: bool, scoring: bool = False) -> Drafts:
        """Make a draft for each sequence, and append its tokens to the slot.

        `prefill` says that prompts are read in the same step, and `scoring` that their tokens are scored: then all rows
        that a decode has room for are theirs, and the drafts are empty. Raises DecodeError if a draft model fails.
        """
        length = self._length(decoding)
        begins = any(not generation.tokens for generation in decoding.values())
        waits = any(
            not generation.tokens and not self._saves(slot, generation) for slot, generation in decoding.items()
        )
        began = time.perf_counter()
        drafts = self._forced.guess(decoding, 0 if scoring else _most(len(decoding)))
        rest = {
            s: generation for s, generation in decoding.items() if generation.settings.draft and not drafts[s].tokens
        }
        if rest and length is not None and not waits and not scoring:
            drafts |= self._choose(rest, length, len(decoding))
        return Drafts(drafts, length, not prefill and not begins, began, time.perf_counter())

    def _saves(self, slot: Slot, generation: Generation) -> bool:
        """Whether a draft may come before a prompt is read.

        All members feed a prompt at the same time, and a draft model that guesses first makes the others wait. That is
        worth a round trip to a server, where little is left to read.
        """
        far = self._engine.workers.specs[generation.mix.base].remote is not None
        return far and self._engine.n_to_feed(slot) <= SHORT

    def check_and_guess_on(
        self, decoding: Mapping[Slot, Generation], drafts: Mapping[Slot, Draft]
    ) -> dict[int, tuple[Logits, Rows]] | None:
        """All members' logits at the draft's positions, while the draft model makes the next draft.

        Returns None if that is not possible or not worth it: there are several sequences, the draft is not the draft
        model's, or the draft model shares its device with another member.
        """
        if len(decoding) != 1:
            return None
        [(slot, generation)] = decoding.items()
        draft, member = drafts[slot], generation.drafter
        others = tuple(other for other in generation.mix.active if other != member)
        if draft.known is None or member is None or not self._engine.workers.placing.apart(member, others):
            return None
        pending = self._engine.start([Request(slot, draft.rows, others, whole=generation.needs_whole)])
        try:
            rows = self._draft_model.guess_on(slot, generation, draft, lambda: pending.done)
        finally:
            logits = pending.result()
        return {**logits, member: (rows, slice(None))}

    def learn(self, drafts: Drafts, hits: Sequence[bool | None], new: Mapping[Generation, Sequence[int]]) -> None:
        """Learn from a step. Nothing happens if no answer wants drafts.

        hits  whether each guess was right, in order; None where an answer ended
        new   the new tokens of each answer
        """
        if drafts.length is None:
            return
        made = drafts.by_slot.values()
        if drafts.timed:
            if longest := max(draft.n_made for draft in made):
                drafts.length.drafted(longest, drafts.guessed - drafts.began, len(made))
            looked_up = any(draft.tokens and not draft.n_made for draft in made)
            n_rows = sum(draft.rows for draft in made)
            drafts.length.checked(n_rows, time.perf_counter() - drafts.guessed, looked_up=looked_up)
        drafts.length.saw(hits)
        for generation, tokens in new.items():
            if generation.lookup is not None:
                drafts.length.repeated(generation.lookup.extend(tokens))

    def _choose(self, rest: Mapping[Slot, Generation], length: DraftLength, n: int) -> dict[Slot, Draft]:
        """Drafts for `rest`, some of `n` sequences; each from the source that promises the most tokens a second."""
        most = _most(n)
        fixed = [generation.settings.draft for generation in rest.values() if generation.settings.draft != "auto"]
        drafted_length = min([most, *fixed]) if fixed else length.draft_model(most, n)
        looked_up: dict[int, dict[Slot, Generation]] = {}  # by length
        drafted: dict[Slot, Generation] = {}
        for slot, generation in rest.items():
            if fixed:
                own = drafted_length if generation.drafter is None else 0
            else:
                own = length.lookup(0 if generation.lookup is None else generation.lookup.matched, most, n)
            if own:
                looked_up.setdefault(own, {})[slot] = generation
            else:
                drafted[slot] = generation
        drafts = self._draft_model.guess(drafted, drafted_length)
        for own, generations in looked_up.items():
            drafts |= self._lookup.guess(generations, own)
        return drafts

    def _length(self, decoding: Mapping[Slot, Generation]) -> DraftLength | None:
        """The object that chooses draft lengths for these members; None if no answer wants drafts."""
        if not any(generation.settings.draft for generation in decoding.values()):
            return None
        key = frozenset((generation.mix.active, generation.drafter) for generation in decoding.values())
        if key not in self._lengths:
            has_model = any(generation.drafter is not None for generation in decoding.values())
            self._lengths[key] = DraftLength(LENGTHS if has_model else (0,))
        return self._lengths[key]


def _most(n: int) -> int:
    """The most guesses for each of `n` sequences in one step."""
    return max(0, MAX_ROWS // max(1, n) - 1)
