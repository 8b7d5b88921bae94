"""Scores completions: log-probabilities of given tokens, under the emulator and under each role by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from eftlocal.arithmetic.arrays import Logits
from eftlocal.arithmetic.combine import Combiner, Mix, check, log_softmax
from eftlocal.decoding.logprobs import likeliest
from eftlocal.emulation.members import Members
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot
from eftlocal.errors import EftError

__all__ = ["Likelihood", "Score", "ScoredToken", "Scorer", "Task"]

Found = TypeVar("Found")

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


class Likelihood(NamedTuple):
    """How likely a completion is under the mix: its log-probability, and whether each token is the likeliest."""

    logprob: float
    greedy: bool


class Task(NamedTuple):
    """Tokens to score after each member's prompt. `top`: how many of the likeliest tokens to give at each position."""

    mix: Mix
    prompts: Mapping[int, list[int]]
    tokens: Sequence[int]
    top: int = 0


class Scorer:
    """Scores completions.

    For a `Score` all members run, also those whose weight in the mix is 0; for a `Likelihood` only those of the mix.
    """

    def __init__(self, engine: Engine, combiner: Combiner, members: Members) -> None:
        self._engine = engine
        self._combiner = combiner
        self._members = members
        self._everyone = tuple(range(len(members.specs)))

    def score_each(self, tasks: Sequence[Task | EftError], at_once: int) -> list[Score | EftError]:
        """Score tasks, `at_once` at the same time. An error stays in its place. A failed decode fails all its tasks."""
        return _each(tasks, at_once, self.score)

    def likelihood_each(self, tasks: Sequence[Task | EftError], at_once: int) -> list[Likelihood | EftError]:
        """As `score_each`, for tasks whose members' own log-probabilities nobody asks for: it is faster."""
        return _each(tasks, at_once, self.likelihoods)

    def score(self, tasks: Sequence[Task]) -> list[Score]:
        """Score all tasks at the same time, each in its own slot. Raises DecodeError.

        A common beginning of prompts is computed once. The other tasks with this beginning wait and copy it.
        """
        return [_score(places) for places in self._scored_by(tasks, lambda _: self._everyone, self._rows)]

    def likelihoods(self, tasks: Sequence[Task]) -> list[Likelihood]:
        """As `score`."""
        found = self._scored_by(tasks, lambda task: tuple(task.mix.active), self._likelihoods)
        return [Likelihood(sum(each.logprob for each in places), all(p.greedy for p in places)) for places in found]

    def _scored_by(
        self,
        tasks: Sequence[Task],
        members: Callable[[Task], tuple[int, ...]],
        read: Callable[[Task, int, Mapping[int, Logits]], list[Found]],
    ) -> list[list[Found]]:
        """For each task, what `read` makes of each position, when `members` of the task have run.

        `read` gets the task, the index of the first token, and member -> (rows, n_real) logits.
        """
        slots = dict[int, Slot]()
        scores = dict[int, list[Found]]()
        try:
            for i, task in enumerate(tasks):
                slots[i] = self._engine.begin({member: task.prompts[member] for member in members(task)})
            while len(scores) < len(tasks):
                wave: list[int] = []
                for i in (i for i in slots if i not in scores):
                    if not self._engine.will_hold_more(slots[i], [slots[j] for j in wave]):
                        self._engine.share(slots[i])
                        wave.append(i)
                found = self._together([(slots[i], tasks[i]) for i in wave], read)
                scores.update(zip(wave, found, strict=True))
        finally:
            for slot in slots.values():
                self._engine.end(slot)
        return [scores[i] for i in range(len(tasks))]

    def _together(
        self,
        running: Sequence[tuple[Slot, Task]],
        read: Callable[[Task, int, Mapping[int, Logits]], list[Found]],
    ) -> list[list[Found]]:
        scored: list[list[Found]] = [[] for _ in running]  # for each task, for each position
        while active := [i for i, (_, task) in enumerate(running) if len(scored[i]) < len(task.tokens)]:
            requests, share = [], max(1, SCORED_ROWS // len(active))
            for i in active:
                slot, task = running[i]
                n = min(share, len(task.tokens) - len(scored[i]))
                # A token is predicted by the row of the token before it.
                slot.tokens = list(task.tokens[: len(scored[i]) + n - 1])
                requests.append(Request(slot, n, tuple(slot.prompts), whole=True))
            parts = self._engine.forward(requests)
            first = dict.fromkeys(parts, 0)  # the first row of each member that is not read yet
            for i, request in zip(active, requests, strict=True):
                own: dict[int, Logits] = {}
                for m in request.members:
                    own[m] = parts[m][0][first[m] : first[m] + request.rows, : self._members.n_real]
                    check(own[m], self._members.specs[m].name)
                    first[m] += request.rows
                scored[i] += read(running[i][1], len(scored[i]), own)
        return scored

    def _combined(self, task: Task, own: Mapping[int, Logits]) -> Logits:
        """(rows, n_real) log-probabilities under the mix."""
        n_rows = len(next(iter(own.values())))
        return log_softmax(
            self._combiner.combine({m: (own[m], slice(None)) for m in task.mix.active}, [task.mix] * n_rows)
        )

    def _likelihoods(self, task: Task, done: int, own: Mapping[int, Logits]) -> list[Likelihood]:
        rows = self._combined(task, own)
        tokens = task.tokens[done : done + len(rows)]
        return [Likelihood(float(row[t]), int(likeliest(row, 1)[0]) == t) for row, t in zip(rows, tokens, strict=True)]

    def _rows(self, task: Task, done: int, own: Mapping[int, Logits]) -> list[list[ScoredToken]]:
        """Score the tokens from index `done` on, and the likeliest ones there."""
        combined, logs = self._combined(task, own), {m: log_softmax(logits) for m, logits in own.items()}
        return [
            [
                self._scored(int(id), combined[row], {m: logs[m][row] for m in self._everyone})
                for id in (token, *likeliest(combined[row], task.top))
            ]
            for row, token in enumerate(task.tokens[done : done + len(combined)])
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


def _each(
    tasks: Sequence[Task | EftError], at_once: int, scored: Callable[[Sequence[Task]], list[Found]]
) -> list[Found | EftError]:
    found = dict[int, Found | EftError]()
    good: list[tuple[int, Task]] = []
    for i, task in enumerate(tasks):
        if isinstance(task, EftError):
            found[i] = task
        else:
            good.append((i, task))
    for start in range(0, len(good), at_once):
        group = good[start : start + at_once]
        try:
            scores = scored([task for _, task in group])
            found.update((i, score) for (i, _), score in zip(group, scores, strict=True))
        except EftError as error:
            found.update((i, error) for i, _ in group)
    return [found[i] for i in range(len(tasks))]


def _score(places: Sequence[Sequence[ScoredToken]]) -> Score:
    tokens = tuple(place[0] for place in places)
    top = tuple(tuple(place[1:]) for place in places)
    return Score(tokens=tokens, logprob=sum(token.logprob for token in tokens), top=top)
