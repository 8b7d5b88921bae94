"""Sums of what was found along an item's texts, and the line that they make together with the answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.evaluation.columns import Column
from eftlocal.evaluation.compare import Compared
from eftlocal.evaluation.items import Choices, Item, Preference, Question, Text, fields
from eftlocal.evaluation.line import (
    Answered,
    Apart,
    Chosen,
    Likelihood,
    Line,
    Preferred,
    TokenFact,
)
from eftlocal.evaluation.rendering import Scored

__all__ = ["Given", "Sums", "failed", "line"]

DIGITS: Final = 6  # of a log-probability; the others differ with how many rows are decoded together


class Given(NamedTuple):
    """An answer that was generated: its text, whether it is right, whether it ended by itself, and its tokens."""

    text: str
    right: bool
    ended: bool
    length: int


@dataclass(slots=True)
class Sums:
    """What was found along one text so far."""

    scored: Scored
    parts: list[Compared] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether all tokens were compared."""
        return sum(len(part.base) for part in self.parts) == len(self.scored.forced.tokens)

    @property
    def logprobs(self) -> NDArray[np.float64]:
        """(columns,) the text's log-probability in each."""
        found: NDArray[np.float64] = np.sum([part.logprobs.sum(1) for part in self.parts], axis=0)
        return found

    @property
    def tokens(self) -> int:
        return len(self.scored.forced.tokens)

    def apart(self, strength: int) -> Apart:
        """How far the emulator is from the others at this strength, by its number among the strengths."""
        kl = [part.kl_upper[strength].sum() for part in self.parts if part.kl_upper is not None]
        same = [part.same_upper[strength].sum() for part in self.parts if part.same_upper is not None]
        return Apart(
            positions=self.tokens,
            kl_base=_short(sum(part.kl_base[strength].sum() for part in self.parts)),
            same_base=int(sum(part.same_base[strength].sum() for part in self.parts)),
            kl_upper=_short(sum(kl)) if kl else None,
            same_upper=int(sum(same)) if same else None,
        )

    def facts(self, piece: Callable[[int], str]) -> list[TokenFact]:
        """Its first tokens one by one."""
        rows = [
            (float(part.base[i]), float(part.reward[i]), bool(part.moved[i]))
            for part in self.parts
            for i in range(len(part.base))
        ]
        told = []
        for at in range(self.scored.facts):
            base, reward, moved = rows[at]
            last = self.scored.ends and at == self.tokens - 1
            text = "" if last else piece(self.scored.forced.tokens[at])
            told.append(TokenFact(text, _short(base), _short(reward), moved))
        return told


def line(
    item: Item,
    columns: Sequence[Column],
    sums: Sequence[Sums],
    given: Mapping[str, Given],
    piece: Callable[[int], str],
) -> Line:
    """The line of an item. sums: of its texts, in their order; given: column -> the answer; piece: a token's text."""
    found = {}
    strength = -1
    for row, column in enumerate(columns):
        strength += column.beta is not None
        found[column.name] = _cell(
            item, row, strength if column.beta is not None else None, sums, given.get(column.name)
        )
    facts = [fact for each in sums for fact in each.facts(piece)]
    return replace(Line.from_json(fields(item)), columns=found, tokens=tuple(facts))


def failed(item: Item, problem: str) -> Line:
    """The line of an item that could not be measured."""
    return replace(Line.from_json(fields(item)), error=problem)


def _cell(
    item: Item, row: int, strength: int | None, sums: Sequence[Sums], given: Given | None
) -> Answered | Chosen | Preferred | Likelihood:
    logprobs = [_short(each.logprobs[row]) for each in sums]
    told = [each for each in sums if each.scored.facts]
    match item:
        case Question():
            likelihood = None
            if sums:
                apart = None if strength is None else sums[0].apart(strength)
                likelihood = _likelihood(logprobs[0], sums, apart)
            if given is None:
                return Answered(likelihood=likelihood)
            return Answered(likelihood=likelihood, **given._asdict())
        case Choices():
            return Chosen(
                logprobs=tuple(logprobs),
                tokens=tuple(each.tokens for each in sums),
                bytes=tuple(each.scored.bytes for each in sums),
                apart=told[0].apart(strength) if told and strength is not None else None,
            )
        case Preference():
            return Preferred(
                chosen=logprobs[0],
                rejected=logprobs[1],
                tokens=(sums[0].tokens, sums[1].tokens),
                apart=None if strength is None else sums[0].apart(strength),
            )
        case Text():
            apart = None if strength is None else _together([each.apart(strength) for each in sums])
            return _likelihood(_short(sum(each.logprobs[row] for each in sums)), sums, apart)
    raise AssertionError(item)


def _likelihood(logprob: float, sums: Sequence[Sums], apart: Apart | None) -> Likelihood:
    tokens, size = sum(each.tokens for each in sums), sum(each.scored.bytes for each in sums)
    return Likelihood(logprob=logprob, tokens=tokens, bytes=size, apart=apart)


def _together(parts: Sequence[Apart]) -> Apart:
    upper = [part.kl_upper for part in parts if part.kl_upper is not None]
    return Apart(
        positions=sum(part.positions for part in parts),
        kl_base=_short(sum(part.kl_base for part in parts)),
        same_base=sum(part.same_base for part in parts),
        kl_upper=_short(sum(upper)) if upper else None,
        same_upper=sum(part.same_upper or 0 for part in parts) if upper else None,
    )


def _short(value: float) -> float:
    return round(float(value), DIGITS)
