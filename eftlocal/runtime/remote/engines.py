"""What an engine on a server must be able to do, and which one answers at an address."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import RemoteError
from eftlocal.runtime.remote.connection import Connection, RefusedError

__all__ = [
    "Asked",
    "Engine",
    "Facts",
    "Row",
    "array_of",
    "mass",
    "must_be_own",
    "must_have",
    "no_row",
    "number_in",
    "one_of",
    "same",
    "tokens_in",
]

SURE: Final = 0.5  # nats: rounding in bfloat16 moves a log-probability by up to 0.1, what is asked about by more than 1

MOST: Final = 1.05  # the probability of all tokens together, with rounding

T = TypeVar("T")


class Row(NamedTuple):
    """The likeliest tokens at one position, and their log-probabilities under the model: (n,) each."""

    ids: NDArray[np.intp]
    logprobs: NDArray[np.float64]


class Asked(NamedTuple):
    """Asks for `1 + len(forced)` rows: after `tokens`, and after each of the tokens `forced` that follow them.

    sequence  whose tokens they are; an engine may keep a cache for it
    top       how many of the likeliest tokens; the size of the vocabulary or more asks for all
    """

    sequence: int
    tokens: Sequence[int]
    forced: Sequence[int]
    top: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an engine says of itself and of its model.

    engine, version  which it is
    model            what it calls its model, by which another one is noticed
    n_vocab          token ids with a logit, padding included; None where it does not say
    n_ctx            the most tokens of a sequence; None where it does not say
    parallel         how many sequences it computes at a time
    most             the largest `top`; None: the whole vocabulary
    template         the model's chat template; None where it does not say
    weights          what tells models of one name apart, its size or its source; "" where it does not say
    """

    engine: str
    version: str
    model: str
    n_vocab: int | None
    n_ctx: int | None
    parallel: int
    most: int | None
    template: str | None
    weights: str = ""


class Engine(Protocol):
    """One engine's dialect. All calls may come from several threads, each with a connection of its own.

    idle  a path that answers without computing anything
    """

    idle: ClassVar[str]

    @property
    def facts(self) -> Facts: ...

    def rows(self, connection: Connection, asked: Asked) -> list[Row]:
        """The rows, in order. Raises RemoteError."""
        ...

    def runs(self, connection: Connection) -> tuple[str, str]:
        """The model that runs there now, and its weights, as `Facts` has them. Raises RemoteError."""
        ...

    def check(self, connection: Connection) -> None:
        """Raises RemoteError where log-probabilities are not the model's own, with what to change on the server."""
        ...

    def pieces(self, connection: Connection) -> dict[int, bytes] | None:
        """The bytes of all tokens, by id; a control token may have none. None where the engine does not tell them."""
        ...

    def tokenize(self, connection: Connection, text: str) -> list[int]:
        """The ids of a text, without special tokens at its ends. Texts of control tokens in it are these tokens."""
        ...


def array_of(found: Sequence[tuple[int, float]], where: str) -> Row:
    """A row of pairs (id, log-probability), the likeliest first. Raises RemoteError for what cannot be one."""
    try:
        ids = np.array([i for i, _ in found], np.intp)
        logprobs = np.array([p for _, p in found], np.float64)
    except OverflowError:  # of a number with hundreds of digits
        ids, logprobs = np.empty(0, np.intp), np.empty(0)
    good = len(ids) > 0 and bool(np.isfinite(logprobs).any()) and not np.isnan(logprobs).any()
    if not good or logprobs.max() > 1e-3 or ids.min() < 0 or len(np.unique(ids)) != len(ids) or mass(logprobs) > MOST:
        raise no_row(where)
    order = np.argsort(-logprobs, kind="stable")
    return Row(ids[order], np.minimum(logprobs[order], 0.0))


def no_row(where: str) -> RemoteError:
    """The error of a row that cannot be one."""
    hint = "Is a draft model on there, or --logprobs-mode raw_logits? Turn it off."
    return RemoteError(f"{where} sent log-probabilities that cannot be any.", hint)


def mass(logprobs: NDArray[np.float64]) -> float:
    """The probability of these tokens together."""
    return float(np.exp(np.minimum(logprobs, 1.0)).sum())


def same(one: Row, other: Row) -> bool:
    """Whether two answers to the same question agree, as far as another batch lets them: a server may be in use."""
    there = dict(zip(other.ids.tolist(), other.logprobs.tolist(), strict=True))
    off = [abs(p - there[i]) for i, p in zip(one.ids.tolist(), one.logprobs.tolist(), strict=True) if i in there]
    return int(one.ids[0]) in there and max(off) <= SURE


def must_be_own(plain: Row, changed: Iterable[Row], where: str, hint: str) -> None:
    """Raises RemoteError where a row is another one with another temperature or with a bias. `hint`: what to change."""
    for row in changed:
        if not same(plain, row):
            raise RemoteError(f"{where}: its log-probabilities change with the temperature or with a bias.", hint)


def tokens_in(answer: object, where: str) -> list[int]:
    """The ids of an answer of /tokenize. Raises RemoteError where it has none."""
    tokens: list[object] = one_of(answer, "tokens", list, where)
    return [token for token in tokens if isinstance(token, int)]


def number_in(values: object, name: str) -> int | None:
    """A whole number above 0 of a JSON object; None where it has none of that name."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def must_have(connection: Connection, *names: str) -> None:
    """Raises RemoteError if models.toml names a model that the server does not have. names: also its model's."""
    if (wanted := connection.server.model) is None:
        return
    known, models = list(names), list[object]()
    with suppress(RefusedError):
        models = one_of(connection.get("/v1/models"), "data", list, connection.server.url)
    for model in models:
        if isinstance(model, dict):
            aliases = model.get("aliases")  # of a llama-server
            known += map(str, [model.get("id"), *(aliases if isinstance(aliases, list) else ())])
    if wanted not in known:
        has = ", ".join(dict.fromkeys(filter(None, known)))
        hint = "Name one of these (model = ... in models.toml), or leave `model` out."
        raise RemoteError(f"{connection.server.url} has no model {wanted}; it has {has}.", hint)


def one_of(found: object, name: str, kind: type[T], where: str) -> T:
    """The field of a JSON answer. Raises RemoteError where it is missing, or of another type."""
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, kind):
        raise RemoteError(f"{where} sent an answer without {name}.", "Another program may be listening there.")
    return value
