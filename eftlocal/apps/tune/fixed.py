"""What base and reference say of each token that is trained: computed once by llama.cpp, and kept on disk."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from eftlocal.apps.common import size
from eftlocal.apps.tune.check import Prepared
from eftlocal.apps.tune.progress import Tell, TuneProgress
from eftlocal.apps.tune.setup import Setup
from eftlocal.emulation import forced
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.forced import Forced
from eftlocal.errors import TrainingError
from eftlocal.runs.examples import Chat
from eftlocal.training.examples import NOTHING, Turn
from eftlocal.training.rows import Rows, bytes_of

__all__ = ["fixed_rows", "forced_answers"]

AT_ONCE: Final = 8  # answers that are decoded together


def fixed_rows(
    made: Setup,
    prepared: Sequence[Prepared],
    folder: Path,
    identity: str,
    beta: float,
    tell: Tell,
    stopped: Callable[[], bool],
) -> Rows | None:
    """The rows of these examples for a reward of this strength, in the order of their tokens.

    Those that are in `folder` are not computed again, but for rows of another `identity`, which are dropped. None if it
    was stopped. Raises TrainingError, as for a full disk.
    """
    answers = forced_answers(made, prepared)
    targets = np.array([token for answer in answers for token in answer.tokens])
    count, n_real = len(targets), made.loaded.members.n_real
    rows = Rows(folder, targets, n_real, identity, beta)
    if rows.have == count:
        return rows
    text = f"what base and reference say of {count:,} tokens: {size(bytes_of(targets, n_real))} in {folder.parent}"
    tell(TuneProgress(phase="logits", text=text, done=rows.have, total=count))
    began, started = rows.have, time.monotonic()
    for _ in _filled(made, answers, rows):
        left = (time.monotonic() - started) / (rows.have - began) * (count - rows.have)
        tell(TuneProgress(phase="logits", done=rows.have, total=count, left_s=left))
        if stopped():
            break
    return rows if rows.have == count else None


def forced_answers(setup: Setup, prepared: Sequence[Prepared]) -> list[Forced]:
    """For each row of logits that is needed, in the order of the examples' trained tokens: who is fed what.

    Raises TrainingError for a conversation that does not fit in the base's context.
    """
    members = setup.loaded.members
    base, small = members.base, members.rewards[0].reference
    found: list[Forced] = []
    for each in prepared:
        if not isinstance(each.record, Chat):
            for row in each.rows:  # a text: all see the same tokens
                first = row.tokens[:1].tolist()
                found.append(Forced({base: first, small: first}, row.targets[row.targets != NOTHING].tolist()))
            continue
        own = setup.asked.turns(each.record.messages, each.record.left_out)
        theirs = _base_turns(setup, each.record)
        for mine, other in zip(own, theirs, strict=True):
            if mine.length > setup.length:
                continue
            if len(other.prompt) + len(mine.answer) - 1 > setup.loaded.engine.n_ctx:
                n = len(other.prompt) + len(mine.answer)
                raise TrainingError(
                    f"{each.record.where}: {n} tokens for the base do not fit in its context.",
                    f"It has {setup.loaded.engine.n_ctx}. Shorten the conversation, or train with a smaller --length.",
                )
            found.append(Forced({base: list(other.prompt), small: list(mine.prompt)}, mine.answer))
    return found


def _base_turns(setup: Setup, record: Chat) -> list[Turn]:
    assert setup.base is not None
    return setup.base.turns(record.messages, record.left_out)


def _filled(setup: Setup, answers: Sequence[Forced], rows: Rows) -> Iterator[None]:
    """Computes the rows that are not there yet, and stops after each answer.

    A row's last digits depend on what is decoded beside it and on what the caches hold. So answers are decoded in
    groups that are always the same, from empty caches: a run that goes on has the rows of a run in one piece.
    """
    members, engine = setup.loaded.members, setup.loaded.engine
    Emulator(setup.loaded).reserve(min(AT_ONCE, len(answers)))
    base, small = members.base, members.rewards[0].reference
    at = 0  # the first row of the next answer
    for first in range(0, len(answers), AT_ONCE):
        group = answers[first : first + AT_ONCE]
        if at + (n := sum(len(answer.tokens) for answer in group)) <= rows.have:
            at += n
            continue
        engine.forget()
        for logits in forced.logits(engine, group, members.n_real):
            count = len(logits[base])
            skipped = min(max(0, rows.have - at), count)  # rows that are there already
            at += count
            if skipped < count:
                rows.append(logits[base][skipped:], logits[small][skipped:])
                yield
