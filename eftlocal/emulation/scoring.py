"""Log-probabilities of given tokens, under the emulator and under every role by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.emulation.combine import Combiner, Logits, Mix, check, log_softmax
from eftlocal.emulation.engine import Engine, Request
from eftlocal.emulation.members import Members

__all__ = ["Alternative", "Score", "ScoredToken", "TokenLogprobs", "score", "token_logprobs"]

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


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have come, and its log-probability under the emulator."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log-probabilities of a generated token, as `score` would give them: before constraint and sampling settings.

    A role whose weight is 0 does not run, and has None. `top`: the likeliest tokens at its place under the emulator.
    """

    id: int
    text: str
    logprob: float
    base: float | None
    rewards: Mapping[str, Mapping[str, float | None]]
    top: tuple[Alternative, ...]


def token_logprobs(
    members: Members, piece: Callable[[int], bytes], top: int, token: int, z: Logits, rows: Mapping[int, Logits]
) -> TokenLogprobs:
    """Of one token at one place. z: (n_real,) combined; rows: (n_real or more,) of the members that run."""
    combined = log_softmax(z)

    def text(token: int) -> str:
        return piece(token).decode("utf-8", "replace")

    def alone(member: int) -> float | None:
        return float(log_softmax(rows[member][: members.n_real])[token]) if member in rows else None

    return TokenLogprobs(
        id=token,
        text=text(token),
        logprob=float(combined[token]),
        base=alone(members.base),
        rewards={r.name: {"tuned": alone(r.tuned), "reference": alone(r.reference)} for r in members.rewards},
        top=tuple(Alternative(int(i), text(int(i)), float(combined[i])) for i in _largest(combined, top)),
    )


def score(
    engine: Engine,
    combiner: Combiner,
    members: Members,
    mix: Mix,
    prompts: Mapping[int, list[int]],
    tokens: Sequence[int],
    top: int,
) -> Score:
    """Score `tokens` after each member's prompt. Every role is run, also those whose weight in `mix` is 0."""
    everyone = tuple(range(len(members.specs)))
    slot = engine.begin(prompts)
    scored: list[ScoredToken] = []
    likeliest: list[tuple[ScoredToken, ...]] = []
    try:
        for start in range(0, len(tokens), SCORED_ROWS):
            targets = tokens[start : start + SCORED_ROWS]
            # The row that predicts a token is the one of the token before it.
            slot.tokens = list(tokens[: start + len(targets) - 1])
            rows = engine.forward([Request(slot, len(targets), everyone)])
            alone = {m: log_softmax(check(rows[m][0][:, : members.n_real], members.specs[m].name)) for m in everyone}
            combined = log_softmax(combiner.combine({m: rows[m] for m in mix.active}, [mix] * len(targets)))
            for row, token in enumerate(targets):
                ids = [token, *_largest(combined[row], top)]
                first, *others = _scored(engine, members, ids, combined[row], {m: alone[m][row] for m in everyone})
                scored.append(first)
                likeliest.append(tuple(others))
    finally:
        engine.end(slot)
    return Score(tokens=tuple(scored), logprob=sum(token.logprob for token in scored), top=tuple(likeliest))


def _largest(row: Logits, n: int) -> NDArray[np.intp]:
    """The `n` largest of a row, the largest first."""
    n = min(n, len(row))
    ids = np.argpartition(row, len(row) - n)[len(row) - n :] if n else np.empty(0, np.intp)
    return ids[np.argsort(-row[ids], kind="stable")]


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
