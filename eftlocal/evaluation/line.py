"""A line of items.jsonl: what was measured on one item, in every column. From JSON and to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast, get_args

from eftlocal.errors import EftError
from eftlocal.evaluation.items import Shape

__all__ = ["Answered", "Apart", "Chosen", "Column", "Likelihood", "Line", "Preferred", "TokenFact", "column_beta"]


class TokenFact(NamedTuple):
    """One scored token.

    piece   its text; "" for the end of an answer
    base    its log-probability under the base
    reward  its log-probability under tuned less that under reference, summed over the rewards with their betas
    moved   whether emulated@1 has another top token than the base at this place
    """

    piece: str
    base: float
    reward: float
    moved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How far the emulator is from the base, and from the truly tuned large model where there is one.

    positions   the scored positions that the sums go over: all of a question or text, the right or chosen completion's
    kl_base     sum of KL(emulated || base), in nats
    same_base   at how many positions both have the same top token
    """

    positions: int
    kl_base: float
    same_base: int
    kl_upper: float | None = None
    same_upper: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """The log-probability of a text, in nats, over so many tokens and bytes. `bytes` counts no end token."""

    logprob: float
    tokens: int
    bytes: int
    apart: Apart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question: the likelihood of its first answer, and what was generated; each None where there is none.

    right    whether the check accepts the text
    ended    whether the model ended it by itself
    length   its tokens
    """

    likelihood: Likelihood | None = None
    text: str | None = None
    right: bool | None = None
    ended: bool | None = None
    length: int | None = None

    @property
    def apart(self) -> Apart | None:
        return None if self.likelihood is None else self.likelihood.apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Choices: for each of them its log-probability, tokens and bytes."""

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]
    apart: Apart | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferred:
    """A preference: log-probabilities of the chosen and the rejected answer, and their tokens."""

    chosen: float
    rejected: float
    tokens: tuple[int, int]
    apart: Apart | None = None


Column = Answered | Chosen | Preferred | Likelihood
"""A question's, choices', a preference's and a text's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was measured on one item.

    shape    question, choices, preference or text; it says what the columns are
    prompt   the prompt as people read it; of a text its beginning
    answers  accepted answers; the choices' texts; chosen and rejected
    right    indices of the right choices
    columns  column -> what was measured
    tokens   facts of the scored tokens: the answer's with its end, a text's first, the right choice's, the chosen's
    error    why nothing could be measured; then there are no columns
    """

    where: str
    source: str
    kind: str | None
    shape: Shape
    prompt: str
    answers: tuple[str, ...] = ()
    right: frozenset[int] = frozenset()
    columns: Mapping[str, Column] = field(default_factory=dict)
    tokens: tuple[TokenFact, ...] = ()
    error: str | None = None

    def measured(self) -> dict[str, object]:
        """What the run adds to the item's own fields (items.fields), as JSON."""
        if self.error is not None:
            return {"error": self.error}
        return {
            "columns": {name: _column_to_json(column) for name, column in self.columns.items()},
            "tokens": [[t.piece, t.base, t.reward, int(t.moved)] for t in self.tokens],
        }

    def to_json(self) -> dict[str, object]:
        """The line as JSON, without what a run writes of itself (index, digest, settings, models)."""
        names = {"choices": ("choices",), "preference": ("chosen", "rejected")}.get(self.shape, ("answers",))
        texts = dict(zip(names, self.answers, strict=True)) if len(names) > 1 else {names[0]: list(self.answers)}
        head = {"where": self.where, "source": self.source, "kind": self.kind, "shape": self.shape}
        if self.shape == "text":
            return {**head, "text": self.prompt, **self.measured()}
        right = {"right": sorted(self.right)} if self.shape == "choices" else {}
        return {**head, "prompt": self.prompt, **texts, **right, **self.measured()}

    @classmethod
    def from_json(cls, value: object) -> "Line":
        """Read a line back; fields that a run writes of itself are ignored. Raises EftError for another object."""
        try:
            return _line(cast(Mapping[str, object], value))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise EftError(f"is not a line of an evaluation: {type(error).__name__} {error}") from None


def column_beta(name: str) -> float | None:
    """The strength of a column `emulated@B`; None for a role."""
    role, at, beta = name.partition("@")
    return float(beta) if role == "emulated" and at else None


# --- to JSON ----------------------------------------------------------------------------------------------------------


def _column_to_json(column: Column) -> dict[str, object]:
    apart = {} if column.apart is None else _given(column.apart)
    match column:
        case Answered():
            likelihood = {} if column.likelihood is None else _likelihood_to_json(column.likelihood)
            answer = {"text": column.text, "right": column.right, "ended": column.ended, "length": column.length}
            return {**likelihood, **{name: value for name, value in answer.items() if value is not None}, **apart}
        case Chosen():
            return {
                "logprobs": list(column.logprobs),
                "tokens": list(column.tokens),
                "bytes": list(column.bytes),
                **apart,
            }
        case Preferred():
            tokens = list(column.tokens)
            return {"chosen": column.chosen, "rejected": column.rejected, "tokens": tokens, **apart}
        case Likelihood():
            return {**_likelihood_to_json(column), **apart}


def _likelihood_to_json(likelihood: Likelihood) -> dict[str, object]:
    return {"logprob": likelihood.logprob, "tokens": likelihood.tokens, "bytes": likelihood.bytes}


def _given(apart: Apart) -> dict[str, object]:
    found = {name: getattr(apart, name) for name in ("positions", "kl_base", "same_base", "kl_upper", "same_upper")}
    return {name: value for name, value in found.items() if value is not None}


# --- from JSON --------------------------------------------------------------------------------------------------------

Json = Mapping[str, object]


def _line(value: Json) -> Line:
    shape = {name: name for name in get_args(Shape)}[value["shape"]]
    columns, tokens = cast(Json, value.get("columns", {})), cast(list[list[object]], value.get("tokens", []))
    prompts = cast(list[str], value.get("prompts", [""]))
    return Line(
        where=str(value["where"]),
        source=str(value["source"]),
        kind=_text(value.get("kind")),
        shape=shape,
        prompt=str(value["text"] if shape == "text" else value.get("prompt", prompts[0])),
        answers=_answers(shape, value),
        right=frozenset(cast(list[int], value.get("right", []))),
        columns={name: _column(shape, cast(Json, column)) for name, column in columns.items()},
        tokens=tuple(TokenFact(str(t[0]), _number(t[1]), _number(t[2]), bool(t[3])) for t in tokens),
        error=_text(value.get("error")),
    )


def _answers(shape: Shape, value: Json) -> tuple[str, ...]:
    if shape == "preference":
        return str(value["chosen"]), str(value["rejected"])
    return tuple(map(str, cast(list[object], value.get("choices" if shape == "choices" else "answers", []))))


def _column(shape: Shape, column: Json) -> Column:
    apart = None
    if "kl_base" in column:
        apart = Apart(
            positions=_whole(column["positions"]),
            kl_base=_number(column["kl_base"]),
            same_base=_whole(column["same_base"]),
            kl_upper=_number(column["kl_upper"]) if "kl_upper" in column else None,
            same_upper=_whole(column["same_upper"]) if "same_upper" in column else None,
        )
    if shape == "choices":
        logprobs, tokens, sizes = (cast(list[object], column[name]) for name in ("logprobs", "tokens", "bytes"))
        return Chosen(
            logprobs=tuple(map(_number, logprobs)),
            tokens=tuple(map(_whole, tokens)),
            bytes=tuple(map(_whole, sizes)),
            apart=apart,
        )
    if shape == "preference":
        chosen, rejected = map(_whole, cast(list[object], column["tokens"]))
        return Preferred(
            chosen=_number(column["chosen"]),
            rejected=_number(column["rejected"]),
            tokens=(chosen, rejected),
            apart=apart,
        )
    likelihood = None
    if "logprob" in column:
        logprob, tokens_, bytes_ = _number(column["logprob"]), _whole(column["tokens"]), _whole(column["bytes"])
        likelihood = Likelihood(logprob=logprob, tokens=tokens_, bytes=bytes_, apart=apart)
    if shape == "text":
        if likelihood is None:
            raise KeyError("logprob")
        return likelihood
    right, ended, length = (column.get(name) for name in ("right", "ended", "length"))
    return Answered(
        likelihood=likelihood,
        text=_text(column.get("text")),
        right=None if right is None else bool(right),
        ended=None if ended is None else bool(ended),
        length=None if length is None else _whole(length),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value
