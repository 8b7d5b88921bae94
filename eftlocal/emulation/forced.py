"""Logits of members along given tokens: what each says at every place of an answer that is known."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot

__all__ = ["Forced", "Forcing", "Part", "logits"]

ROWS: Final = 64  # rows of logits at a time: what one decode returns at most (runtime/llama/context.py)
HELD: Final = 512  # rows of answers that `logits` holds together


class Forced(NamedTuple):
    """An answer: the prompt of each member, and the tokens that follow it in all of them."""

    prompts: Mapping[int, list[int]]
    tokens: Sequence[int]


class Part(NamedTuple):
    """Some tokens of an answer, and the rows of one decode that predict them.

    answer  the number that `add` gave the answer
    start   index of the first of these tokens
    rows    where their rows are
    """

    answer: int
    start: int
    rows: slice


class Forcing:
    """Decodes along known answers, several at a time. Add answers, and step until it is empty.

    What two prompts begin with in common is computed once: the one waits until the other has it, and copies it. Answers
    with one prompt should follow each other.

    n        logits are cut to the first n ids
    at_once  how many answers are decoded at a time; the engine must have as many free slots
    """

    def __init__(self, engine: Engine, n: int, at_once: int) -> None:
        self._engine, self._n, self._at_once = engine, n, at_once
        self._queue: deque[tuple[int, Forced]] = deque()
        self._running: dict[int, tuple[Forced, Slot]] = {}  # in the order of their beginning
        self._done: dict[int, int] = {}  # answer -> tokens that it has rows for, once it decodes
        self._added = 0

    def __len__(self) -> int:
        return len(self._queue) + len(self._running)

    def add(self, answer: Forced) -> int:
        """Add an answer of at least one token. Returns its number; the first one is 0."""
        self._queue.append((self._added, answer))
        self._added += 1
        return self._added - 1

    def step(self) -> tuple[list[Part], dict[int, Logits]]:
        """Decode once. Returns the parts of answers that were decoded, and member -> logits (rows, n).

        The logits are in llama.cpp's own memory: the next step overwrites them. All answers must have the same members.
        Raises DecodeError; then all answers are dropped.
        """
        try:
            return self._step()
        except BaseException:
            self.close()
            raise

    def _step(self) -> tuple[list[Part], dict[int, Logits]]:
        while self._queue and len(self._running) < self._at_once:
            number, answer = self._queue.popleft()
            self._running[number] = answer, self._engine.begin(answer.prompts)
        self._let_begin()
        parts, requests, first = list[Part](), list[Request](), 0
        for number, done in self._done.items():
            answer, slot = self._running[number]
            rows = min(ROWS - first, len(answer.tokens) - done)
            if rows > 0:
                slot.tokens = list(answer.tokens[: done + rows - 1])  # a token is predicted by the one before it
                requests.append(Request(slot, rows, tuple(answer.prompts), whole=True))
                parts.append(Part(number, done, slice(first, first := first + rows)))
        found = self._engine.forward(requests)
        for part in parts:
            self._done[part.answer] = part.start + part.rows.stop - part.rows.start
            answer, slot = self._running[part.answer]
            if self._done[part.answer] == len(answer.tokens):
                self._engine.end(slot)
                del self._running[part.answer], self._done[part.answer]
        return parts, {member: rows[:, : self._n] for member, (rows, _) in found.items()}

    def _let_begin(self) -> None:
        """Let answers decode whose prompt's beginning no other one is about to compute."""
        fresh = [self._running[number][1] for number, done in self._done.items() if not done]
        for number, (_, slot) in self._running.items():
            if number not in self._done and not self._engine.will_hold_more(slot, fresh):
                self._engine.share(slot)
                self._done[number] = 0
                fresh.append(slot)

    def close(self) -> None:
        """Drop all answers, and free their slots."""
        for _, slot in self._running.values():
            self._engine.end(slot)
        self._queue.clear()
        self._running.clear()
        self._done.clear()


def logits(engine: Engine, answers: Sequence[Forced], n: int) -> Iterator[Mapping[int, Logits]]:
    """For each answer, in order: member -> logits (tokens, n) from which each of its tokens is drawn.

    Several answers are decoded at a time: as many as the engine has slots. Raises DecodeError.
    """
    start = 0
    while start < len(answers):
        group: list[Forced] = []
        for answer in answers[start : start + len(engine.slots)]:
            if group and sum(len(each.tokens) for each in (*group, answer)) > HELD:
                break
            group.append(answer)
        yield from _together(engine, group, n)
        start += len(group)


def _together(engine: Engine, group: Sequence[Forced], n: int) -> list[Mapping[int, Logits]]:
    forcing = Forcing(engine, n, len(engine.slots))
    found: list[dict[int, list[Logits]]] = [{member: [] for member in answer.prompts} for answer in group]
    for answer in group:
        forcing.add(answer)
    while forcing:
        parts, rows = forcing.step()
        for part in parts:
            for member, own in found[part.answer].items():
                own.append(rows[member][part.rows].copy())
    return [{member: np.concatenate(rows) for member, rows in each.items()} for each in found]
