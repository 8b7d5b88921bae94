"""Measures items: the likelihoods of their texts in every column, and answers to questions that have a check.

All columns' likelihoods come from one decode of all members. Prompts that begin alike are computed once, and the texts
of several items are decoded together. Answers are generated together by the scheduler, one in each column.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials
from eftlocal.decoding.thinking import spoken
from eftlocal.emulation.batch import Batch, Job
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.evaluation.columns import Column
from eftlocal.evaluation.compare import Comparer
from eftlocal.evaluation.items import Item, Question
from eftlocal.evaluation.judge import Judge
from eftlocal.evaluation.likelihoods import Given, Sums, line
from eftlocal.evaluation.line import Line
from eftlocal.evaluation.rendering import scored
from eftlocal.runtime.llama.interrupt import Stopped

__all__ = ["ANSWER_TOKENS", "Measured", "Measuring"]

ANSWER_TOKENS: Final = 256  # the most of an answer, where neither the item nor the user says it
TOGETHER: Final = 16  # texts whose likelihoods are computed at the same time
AHEAD: Final = 32  # texts and, without answers, items that wait


class Measured(NamedTuple):
    """An item that has ended, by the number that it was added with: its line, or why it could not be measured.

    tokens  how many tokens were scored and generated for it
    """

    number: int
    line: Line | EftError
    tokens: int = 0


@dataclass(slots=True)
class _Open:
    """An item that has not ended."""

    item: Item
    sums: list[Sums]
    given: dict[str, Given] = field(default_factory=dict)


class Measuring:
    """Measures items: add them while there is room, and step. They end in any order.

    answers     settings of all answers; they are greedy and without drafts if these do not say otherwise
    max_tokens  of an answer; None takes the item's own, or ANSWER_TOKENS
    parallel    answers at a time; None is what suits this machine
    generates   whether there are answers to generate at all
    """

    def __init__(
        self,
        emulator: Emulator,
        columns: Sequence[Column],
        *,
        answers: Dials | None = None,
        max_tokens: int | None = None,
        parallel: int | None = None,
        generates: bool = True,
    ) -> None:
        self._emulator, self._columns, self._max_tokens = emulator, columns, max_tokens
        self.answers: Dials = {"temperature": 0.0, "draft": 0, **(answers or {})}
        mix = emulator.mix(emulator.settings.turned(beta=1.0, alone=None))
        self._comparer = Comparer(emulator.members, columns, mix, emulator.ends)
        at_once = emulator.parallel if parallel is None else parallel
        places = emulator.reserve(at_once + TOGETHER // 2 if generates else TOGETHER)
        scoring = min(TOGETHER, max(1, places // 3)) if generates else places
        # With answers, no more items than fill the places of one column: each ends before many others have begun, and a
        # run that is killed has its line.
        self._most = max(scoring, places - scoring) if generates else AHEAD
        self._apart = places == 1 and generates  # one place for both: never at the same time
        self._forcing = emulator.forcing(scoring)
        self._batch = Batch(emulator.scheduler(), emulator.prepare, max(1, places - scoring))
        self._items: dict[int, _Open] = {}
        self._texts: dict[int, tuple[int, Sums]] = {}  # the forcing's number -> whose text it is, and what was found
        self._jobs: deque[Job] = deque()
        self._ended: list[Measured] = []
        self._column = ""
        self._judge = Judge()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self._columns)

    def __len__(self) -> int:
        """How many items have not been returned yet."""
        return len(self._items) + len(self._ended)

    @property
    def room(self) -> int:
        """How many more items can be added now."""
        return max(0, min(AHEAD - len(self._forcing), self._most - len(self._items)))

    def add(self, number: int, item: Item) -> Measured | None:
        """Begin an item. Returns it at once, with its error, if it cannot begin; else None."""
        try:
            sums = [Sums(each) for each in scored(self._emulator, item)]
        except EftError as error:
            return Measured(number, error)
        self._items[number] = _Open(item, sums)
        for each in sums:
            self._texts[self._forcing.add(each.scored.forced)] = number, each
        if not sums:
            self._ask(number)
        return None

    def step(self) -> list[Measured]:
        """Decode once for all items. Returns those that ended."""
        if self._forcing and not (self._apart and len(self._batch)):
            self._force()
        else:
            while self._jobs and self._batch.room > 0:
                refused = self._batch.add(self._next())
                if refused is not None:
                    self._take(refused.tag, refused.reply)
            for answer in self._batch.step():
                self._take(answer.tag, answer.reply)
        ended, self._ended = self._ended, []
        return ended

    def cancel(self) -> None:
        """Drop all items that have not ended."""
        self._batch.cancel()
        if len(self._batch):
            self._batch.step()  # frees their places
        self._forcing.close()
        self._items.clear()
        self._texts.clear()
        self._jobs.clear()

    def close(self) -> None:
        """As `cancel`, without another step."""
        self._judge.close()
        self._batch.close()
        self._forcing.close()
        self._items.clear()
        self._texts.clear()
        self._jobs.clear()
        self._ended.clear()

    # --- likelihoods --------------------------------------------------------------------------------------------------

    def _force(self) -> None:
        try:
            parts, logits = self._forcing.step()
            tokens = [
                token
                for part in parts
                for token in self._forced(part.answer)[part.start :][: part.rows.stop - part.rows.start]
            ]
            compared = self._comparer.compare(logits, tokens)
        except Stopped:  # Ctrl-C: the run is about to be cancelled
            self.cancel()
            return
        except EftError as error:  # of a decode: it fails all texts that took part
            failed = dict.fromkeys(number for number, _ in self._texts.values())
            self._texts.clear()
            for number in failed:
                del self._items[number]
                self._ended.append(Measured(number, error))
            return
        for part in parts:
            number, sums = self._texts[part.answer]
            sums.parts.append(compared.part(part.rows))
            if sums.whole:
                del self._texts[part.answer]
                if all(each.whole for each in self._items[number].sums):
                    self._ask(number)

    def _forced(self, answer: int) -> Sequence[int]:
        return self._texts[answer][1].scored.forced.tokens

    # --- answers ------------------------------------------------------------------------------------------------------

    def _ask(self, number: int) -> None:
        """Ask a question in every column, if it has a check; else the item has ended."""
        item = self._items[number].item
        if not isinstance(item, Question) or item.check is None:
            self._end(number)
            return
        most = self._max_tokens or item.max_tokens or ANSWER_TOKENS
        for column in self._columns:
            dials: Dials = {**self.answers, **column.dials, "max_tokens": most}
            self._jobs.append(Job(item.prompt, dials, number, (number, column.name)))

    def _next(self) -> Job:
        """The next answer to begin: of the column of the last one, if any waits."""
        job = next((job for job in self._jobs if job.tag[1] == self._column), self._jobs[0])
        self._jobs.remove(job)
        self._column = job.tag[1]
        return job

    def _take(self, tag: tuple[int, str], reply: Reply | EftError) -> None:
        number, column = tag
        if (open_ := self._items.get(number)) is None:
            return  # cancelled, or another of its answers failed
        if isinstance(reply, EftError):
            self._failed(number, reply)
            return
        if reply.finish_reason == "cancelled":
            return
        item = open_.item
        assert isinstance(item, Question) and item.check is not None
        ended = reply.finish_reason == "stop" and reply.stopped_by is None
        try:
            is_right = self._judge.right(item.check, item.answers, spoken(reply.text))
        except EftError as error:
            self._failed(number, error)
            return
        open_.given[column] = Given(reply.text, is_right, ended, len(reply.tokens))
        if len(open_.given) == len(self._columns):
            self._end(number)

    def _failed(self, number: int, error: EftError) -> None:
        """End an item for which an answer failed, or could not be judged."""
        del self._items[number]
        self._jobs = deque(job for job in self._jobs if job.tag[0] != number)
        self._ended.append(Measured(number, error))

    def _end(self, number: int) -> None:
        open_ = self._items.pop(number)
        found = line(open_.item, self._columns, open_.sums, open_.given, self._piece)
        tokens = sum(each.tokens for each in open_.sums) + sum(given.length for given in open_.given.values())
        self._ended.append(Measured(number, found, tokens))

    def _piece(self, token: int) -> str:
        return self._emulator.tokenizer.bytes_of(token).decode("utf-8", "replace")
