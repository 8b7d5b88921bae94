"""Where the pair acts: on which tokens, at which positions, and how often it changes the likeliest token."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from eftlocal.evaluation.classes import CLASSES, POSITIONS, position, token_classes
from eftlocal.evaluation.intervals import percentiles, resampled
from eftlocal.evaluation.line import Line, TokenFact
from eftlocal.evaluation.results import ActsOn, Estimate, Example, MovedToken, Part

__all__ = ["END", "acts_on"]

END: Final = "(end of answer)"  # how the end is shown where a token's text stands
AROUND: Final = 60  # characters of text shown on either side of an example
MOVED: Final = 20  # tokens that are listed
EXAMPLES: Final = 3  # of each
LEAST: Final = 2  # places that a listed token has, where enough tokens have so many
HIGH: Final = 0.2
# RAST (arXiv 2506.15710): where a small pair brought reasoning to a large model, base and tuned model agreed on over
# 95 % of tokens. Intermediate Proxy Tuning (ICLR 2026 workshop, openreview V4RHtOVkZ4): where the two models' knowledge
# differs, the result can be worse than either alone. Chat tuning is another matter: 5 to 8 % of its tokens are not
# among the base's first three (AlignTDS, arXiv 2312.01552), and more are not its first. That 20 % is much is ours.
WARNING: Final = (
    "The pair changes the likeliest token at {:.0%} of positions. For manners that may be right. For reasoning and "
    "knowledge it is a warning: where small pairs carried reasoning over, it was under 5% (arXiv 2506.15710). Above "
    "about 20% the small model decides what is said. Where it knows less, that can be worse than either model alone: "
    "compare the scores, and try a smaller strength."
)


class _Place(NamedTuple):
    line: Line
    at: int
    fact: TokenFact
    kind: str


def acts_on(lines: Sequence[Line], seed: int) -> ActsOn | None:
    """Where the pair acts on the scored tokens of these lines; None where none has tokens."""
    places = [place for line in lines for place in _places(line)]
    if not places:
        return None
    answers = [place for place in places if place.line.shape != "text"] or places
    intervention = _intervention(lines, seed)
    return ActsOn(
        tokens=len(places),
        classes=_parts(places, CLASSES, lambda place: place.kind),
        positions=_parts(answers, [position(i) for i in POSITIONS], lambda place: position(place.at)),
        moved=_moved(places),
        intervention=intervention,
        warning=WARNING.format(intervention.value) if intervention.value > HIGH else None,
    )


def _places(line: Line) -> Iterable[_Place]:
    kinds = token_classes([fact.piece for fact in line.tokens], answer=line.shape != "text")
    return (_Place(line, i, *pair) for i, pair in enumerate(zip(line.tokens, kinds, strict=True)))


def _parts(places: Sequence[_Place], names: Sequence[str], of: Callable[[_Place], str]) -> tuple[Part, ...]:
    """The parts of these names that have tokens, in this order."""
    index = {name: i for i, name in enumerate(names)}
    which = np.array([index[of(place)] for place in places])
    rewards = np.array([place.fact.reward for place in places])

    def sums(weights: object) -> list[float]:
        found: list[float] = np.bincount(which, np.asarray(weights, np.float64), len(names)).tolist()
        return found

    tokens, sizes, signed = sums(np.ones(len(places))), sums(np.abs(rewards)), sums(rewards)
    moved = sums([place.fact.moved for place in places])
    everything = sum(sizes)
    return tuple(
        Part(
            name=name,
            tokens=int(tokens[i]),
            share=tokens[i] / len(places),
            acts=sizes[i] / everything if everything else 0.0,
            mean=sizes[i] / tokens[i],
            signed=signed[i] / tokens[i],
            moved=moved[i] / tokens[i],
        )
        for i, name in enumerate(names)
        if tokens[i]
    )


def _moved(places: Sequence[_Place]) -> tuple[MovedToken, ...]:
    """The tokens with the largest mean |reward|. Those that are there only once come after all others."""
    by_token: dict[str, list[_Place]] = {}
    for place in places:
        by_token.setdefault(place.fact.piece, []).append(place)

    def size(token: str) -> float:
        return sum(abs(place.fact.reward) for place in by_token[token])

    order = sorted(by_token, key=lambda t: (len(by_token[t]) < LEAST, -size(t) / len(by_token[t]), t))
    found = []
    for token in order[:MOVED]:
        here = by_token[token]
        if not size(token):
            break
        strongest = sorted(here, key=lambda place: -abs(place.fact.reward))[:EXAMPLES]
        mean = sum(place.fact.reward for place in here) / len(here)
        examples = tuple(map(_example, strongest))
        found.append(MovedToken(token=token or END, n=len(here), mean=mean, total=size(token), examples=examples))
    return tuple(found)


def _example(place: _Place) -> Example:
    pieces = [fact.piece for fact in place.line.tokens]
    before, after = "".join(pieces[: place.at]), "".join(pieces[place.at + 1 :])
    return Example(
        where=place.line.where,
        before=("…" if len(before) > AROUND else "") + before[-AROUND:],
        token=place.fact.piece or END,
        after=after[:AROUND] + ("…" if len(after) > AROUND else ""),
        reward=place.fact.reward,
        base=place.fact.base,
    )


def _intervention(lines: Sequence[Line], seed: int) -> Estimate:
    """The share of positions whose top token changes. Items are resampled: positions of one item are alike."""
    able = [line for line in lines if line.tokens]
    counts = np.array([[sum(fact.moved for fact in line.tokens), len(line.tokens)] for line in able], np.float64)
    moved, positions = counts.sum(axis=0).tolist()
    low, high = None, None
    if len(able) > 1:
        drawn = resampled(counts, seed, "intervention")
        low, high = percentiles(drawn[:, 0] / drawn[:, 1])
    return Estimate(moved / positions, low, high, len(able))
