"""Logits of members along given tokens: what each says at every place of an answer that is known."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from eftlocal.arithmetic.combine import Logits
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot

__all__ = ["Forced", "logits"]

ROWS: Final = 64  # rows of logits at a time; this limits the memory for a long answer
HELD: Final = 512  # rows of answers that are computed together


class Forced(NamedTuple):
    """An answer: the prompt of each member, and the tokens that follow it in all of them."""

    prompts: Mapping[int, list[int]]
    tokens: Sequence[int]


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
    slots: list[Slot] = []
    members = tuple(group[0].prompts)
    found: list[dict[int, list[Logits]]] = [{member: [] for member in members} for _ in group]
    done = [0] * len(group)
    try:
        slots.extend(engine.begin(answer.prompts) for answer in group)
        while active := [i for i, answer in enumerate(group) if done[i] < len(answer.tokens)]:
            requests, share = [], max(1, ROWS // len(active))
            for i in active:
                rows = min(share, len(group[i].tokens) - done[i])
                done[i] += rows
                slots[i].tokens = list(group[i].tokens[: done[i] - 1])  # a token is predicted by the one before it
                requests.append(Request(slots[i], rows, members))
            parts = engine.forward(requests)
            first = 0
            for i, request in zip(active, requests, strict=True):
                rows_of = slice(first, first := first + request.rows)
                for member in members:
                    found[i][member].append(parts[member][0][rows_of, :n].copy())
    finally:
        for slot in slots:
            engine.end(slot)
    return [{member: np.concatenate(rows) for member, rows in each.items()} for each in found]
