"""Scores completions: log-probabilities of given tokens, under the emulator and under each role by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import Combiner, Mix, check, log_softmax
from eftlocal.decoding.logprobs import likeliest
from eftlocal.emulation.members import Members
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot
from eftlocal.errors import EftError

__all__ = ["Score", "ScoredToken", "Scorer", "Task"]

SCORED_ROWS = 64  # rows of logits at a time; this limits the memory for a long completion


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """Log-probabilities of one token.

    logprob  under the emulator
    base     under the base
    rewards  reward name -> "tuned" and "reference" -> under that model
    """

    id: int
    text: str
    logprob: float
    base: float
    rewards: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A completion's tokens and their log-probabilities (natural logarithms).

    logprob  the sum over the tokens, under the emulator
    top      for each token: the likeliest tokens at its position under the emulator, as many as were asked for
    """

    tokens: tuple[ScoredToken, ...]
    logprob: float
    top: tuple[tuple[ScoredToken, ...], ...]


class Task(NamedTuple):
    """Tokens to score after each member's prompt. `top`: how many of the likeliest tokens to give at each position."""

    mix: Mix
    prompts: Mapping[int, list[int]]
    tokens: Sequence[int]
    top: int = 0


class Scorer:
    """Scores completions. All members run, also those whose weight in the mix is 0."""

    def __init__(self, engine: Engine, combiner: Combiner, members: Members) -> None:
        self._engine = engine
        self._combiner = combiner
        self._members = members
        self._everyone = tuple(range(len(members.specs)))

    def score_each(self, tasks: Sequence[Task | EftError], at_once: int) -> list[Score | EftError]:
        """Score tasks, `at_once` at the same time. An error stays in its place. A failed decode fails all its tasks."""
        found = dict[int, Score | EftError]()
        good: list[tuple[int, Task]] = []
        for i, task in enumerate(tasks):
            if isinstance(task, EftError):
                found[i] = task
            else:
                good.append((i, task))
        for start in range(0, len(good), at_once):
            group = good[start : start + at_once]
            try:
                scores = self.score([task for _, task in group])
                found.update((i, score) for (i, _), score in zip(group, scores, strict=True))
            except EftError as error:
                found.update((i, error) for i, _ in group)
        return [found[i] for i in range(len(tasks))]

    def score(self, tasks: Sequence[Task]) -> list[Score]:
        """Score all tasks at the same time, each in its own slot. Raises DecodeError.

        A common beginning of prompts is computed once. The other tasks with this beginning wait and copy it.
        """
        slots = dict[int, Slot]()
        scores = dict[int, Score]()
        try:
            for i, task in enumerate(tasks):
                slots[i] = self._engine.begin(task.prompts)
            while len(scores) < len(tasks):
                wave: list[int] = []
                for i in (i for i in slots if i not in scores):
                    if not self._engine.will_hold_more(slots[i], [slots[j] for j in wave]):
                        self._engine.share(slots[i])
                        wave.append(i)
                found = self._together([(slots[i], tasks[i]) for i in wave])
                scores.update(zip(wave, found, strict=True))
        finally:
            for slot in slots.values():
                self._engine.end(slot)
        return [scores[i] for i in range(len(tasks))]

    def _together(self, running: Sequence[tuple[Slot, Task]]) -> list[Score]:
        # for each task, for each position: its token, then the likeliest tokens
        scored: list[list[list[ScoredToken]]] = [[] for _ in running]
        while active := [i for i, (_, task) in enumerate(running) if len(scored[i]) < len(task.tokens)]:
            requests, share = [], max(1, SCORED_ROWS // len(active))
            for i in active:
                slot, task = running[i]
                n = min(share, len(task.tokens) - len(scored[i]))
                # A token is predicted by the row of the token before it.
                slot.tokens = list(task.tokens[: len(scored[i]) + n - 1])
                requests.append(Request(slot, n, self._everyone, whole=True))
            parts = self._engine.forward(requests)
            first = 0
            for i, request in zip(active, requests, strict=True):
                rows = slice(first, first := first + request.rows)
                own = {m: parts[m][0][rows, : self._members.n_real] for m in self._everyone}
                scored[i] += self._rows(running[i][1], len(scored[i]), own)
        return [_score(places) for places in scored]

    def _rows(self, task: Task, done: int, own: Mapping[int, Logits]) -> list[list[ScoredToken]]:
        """Score the tokens from index `done` on, and the likeliest ones there. own: member -> (rows, n_real) logits."""
        for member, logits in own.items():
            check(logits, self._members.specs[member].name)
        n_rows = len(own[self._members.base])
        z = self._combiner.combine({m: (own[m], slice(None)) for m in task.mix.active}, [task.mix] * n_rows)
        combined, logs = log_softmax(z), {m: log_softmax(logits) for m, logits in own.items()}
        return [
            [
                self._scored(int(id), combined[row], {m: logs[m][row] for m in self._everyone})
                for id in (token, *likeliest(combined[row], task.top))
            ]
            for row, token in enumerate(task.tokens[done : done + n_rows])
        ]

    def _scored(self, token: int, combined: Logits, own: Mapping[int, Logits]) -> ScoredToken:
        members = self._members
        return ScoredToken(
            id=token,
            text=self._engine.workers.model(members.base).piece(token).decode("utf-8", "replace"),
            logprob=float(combined[token]),
            base=float(own[members.base][token]),
            rewards={
                reward.name: {
                    "tuned": float(own[reward.tuned][token]),
                    "reference": float(own[reward.reference][token]),
                }
                for reward in members.rewards
            },
        )


def _score(places: Sequence[Sequence[ScoredToken]]) -> Score:
    tokens = tuple(place[0] for place in places)
    top = tuple(tuple(place[1:]) for place in places)
    return Score(tokens=tokens, logprob=sum(token.logprob for token in tokens), top=top)
