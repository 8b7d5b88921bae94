"""Log-probabilities of given tokens, under the emulator and under every role by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eftlocal.arithmetic.combine import Combiner, Logits, Mix, check, log_softmax
from eftlocal.decoding.logprobs import likeliest
from eftlocal.emulation.members import Members
from eftlocal.engine.engine import Engine, Request, Slot

__all__ = ["Score", "ScoredToken", "Task", "score_all"]

SCORED_ROWS = 64  # rows of logits at a time, which bounds a long completion's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """Log-probabilities of one token: under the emulator, the base, and each reward's tuned and reference model."""

    id: int
    text: str
    logprob: float
    base: float
    rewards: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A completion's tokens and their log-probabilities (natural logarithms); `logprob` is the sum.

    `top`: for each of the tokens, the likeliest under the emulator at its place, as many as were asked for.
    """

    tokens: tuple[ScoredToken, ...]
    logprob: float
    top: tuple[tuple[ScoredToken, ...], ...]


class Task(NamedTuple):
    """Tokens to score after each member's prompt, and how many of the likeliest to name at each place."""

    mix: Mix
    prompts: Mapping[int, list[int]]
    tokens: Sequence[int]
    top: int = 0


def score_all(engine: Engine, combiner: Combiner, members: Members, tasks: Sequence[Task]) -> list[Score]:
    """Score all tasks, each in a slot of its own. Every role is run, also those whose weight in a mix is 0.

    What prompts begin with in common is computed once: those that can copy it wait for those that compute it.
    """
    slots = dict[int, Slot]()
    scores = dict[int, Score]()
    try:
        for i, task in enumerate(tasks):
            slots[i] = engine.begin(task.prompts)
        while len(scores) < len(tasks):
            wave: list[int] = []
            for i in (i for i in slots if i not in scores):
                if not engine.will_hold_more(slots[i], [slots[j] for j in wave]):
                    engine.share(slots[i])
                    wave.append(i)
            found = _together(engine, combiner, members, [(slots[i], tasks[i]) for i in wave])
            scores.update(zip(wave, found, strict=True))
    finally:
        for slot in slots.values():
            engine.end(slot)
    return [scores[i] for i in range(len(tasks))]


def _together(
    engine: Engine, combiner: Combiner, members: Members, running: Sequence[tuple[Slot, Task]]
) -> list[Score]:
    everyone = tuple(range(len(members.specs)))
    scored: list[list[list[ScoredToken]]] = [[] for _ in running]  # by task, by place: its token, then the likeliest
    while active := [i for i, (_, task) in enumerate(running) if len(scored[i]) < len(task.tokens)]:
        requests, share = [], max(1, SCORED_ROWS // len(active))
        for i in active:
            slot, task = running[i]
            n = min(share, len(task.tokens) - len(scored[i]))
            # The row that predicts a token is the one of the token before it.
            slot.tokens = list(task.tokens[: len(scored[i]) + n - 1])
            requests.append(Request(slot, n, everyone))
        parts = engine.forward(requests)
        first = 0
        for i, request in zip(active, requests, strict=True):
            task, rows = running[i][1], slice(first, first := first + request.rows)
            own = {m: check(parts[m][0][rows, : members.n_real], members.specs[m].name) for m in everyone}
            z = combiner.combine({m: (own[m], slice(None)) for m in task.mix.active}, [task.mix] * request.rows)
            combined, alone = log_softmax(z), {m: log_softmax(logits) for m, logits in own.items()}
            done = len(scored[i])
            for row, token in enumerate(task.tokens[done : done + request.rows]):
                ids = [token, *likeliest(combined[row], task.top)]
                scored[i].append(_scored(engine, members, ids, combined[row], {m: alone[m][row] for m in everyone}))
    return [_score(places) for places in scored]


def _score(places: Sequence[Sequence[ScoredToken]]) -> Score:
    tokens = tuple(place[0] for place in places)
    top = tuple(tuple(place[1:]) for place in places)
    return Score(tokens=tokens, logprob=sum(token.logprob for token in tokens), top=top)


def _scored(
    engine: Engine, members: Members, ids: Sequence[int | np.intp], combined: Logits, alone: Mapping[int, Logits]
) -> list[ScoredToken]:
    return [
        ScoredToken(
            id=int(token),
            text=engine.loaded[0].piece(int(token)).decode("utf-8", "replace"),
            logprob=float(combined[token]),
            base=float(alone[members.base][token]),
            rewards={
                reward.name: {
                    "tuned": float(alone[reward.tuned][token]),
                    "reference": float(alone[reward.reference][token]),
                }
                for reward in members.rewards
            },
        )
        for token in ids
    ]
