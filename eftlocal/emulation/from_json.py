"""Reads messages and settings from JSON values: lines of a batch, saved sessions, requests."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, cast

from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.settings import Dials
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message

__all__ = ["SETTINGS", "SHAPES", "constraint", "dials", "kind", "message", "messages", "setting", "string", "whole"]


def messages(value: object) -> list[Message]:
    """Read a conversation: a list of one or more messages. Raises EftError."""
    if not isinstance(value, list) or not value:
        raise EftError(f"messages is {kind(value)}; it must be a list of messages", "Each has a role and a content.")
    return [message(f"messages[{i}]", each) for i, each in enumerate(value)]


def message(name: str, value: object) -> Message:
    """Read an object with a role and a content; other keys are ignored. Raises EftError, which calls it `name`.

    The role `developer` is OpenAI's name for system. A content may be a list of text parts; each starts a line. That of
    an assistant may be null, as where it called a tool: then it is empty.
    """
    if not isinstance(value, dict):
        raise EftError(f"{name} is {kind(value)}; it must be an object with role and content")
    role, content = string(f"{name}.role", value.get("role")), value.get("content")
    if content is None and role == "assistant":
        content = ""
    if isinstance(content, list) and content:
        content = "\n".join(_part(f"{name}.content[{i}]", part) for i, part in enumerate(content))
    return Message("system" if role == "developer" else role, string(f"{name}.content", content))


def _part(name: str, value: object) -> str:
    if not isinstance(value, dict):
        raise EftError(f"{name} is {kind(value)}; it must be an object with type and text")
    if value.get("type", "text") != "text":
        raise EftError(f"{name}.type is {kind(value['type'])}; only parts of the type 'text' can be read")
    return string(f"{name}.text", value.get("text"))


def dials(fields: Mapping[str, object]) -> Dials:
    """The settings among the fields: those with a name in SETTINGS. A null counts as not given.

    Raises EftError for a value of the wrong type. `Settings` checks the ranges later.
    """
    given: dict[str, object] = {}
    for name, read in SETTINGS.items():
        if (value := fields.get(name)) is not None:
            with setting(name):
                given[name] = read(name, value)
    return cast(Dials, given)


def constraint(fields: Mapping[str, object]) -> Constraint | None:
    """The shape of an answer among the fields: one of SHAPES, or `constraint` with one of them. A null is not given.

    Raises EftError for a value of the wrong type, for two shapes, and for one that cannot be used.
    """
    given = {name: fields[name] for name in (*SHAPES, "constraint") if fields.get(name) is not None}
    if len(given) > 1:
        raise EftError(f"has {' and '.join(given)}; an answer can have only one shape", "Keep one of them.")
    for name, value in given.items():
        with setting(name):
            if name != "constraint":
                return SHAPES[name](name, value)
            if not (isinstance(value, dict) and len(value) == 1 and value.keys() <= SHAPES.keys()):
                raise EftError(f"constraint is {kind(value)}; it must be an object with one of {', '.join(SHAPES)}")
            return constraint(value)
    return None


@contextmanager
def setting(name: str) -> Iterator[None]:
    """Tell with an error of reading the setting `name` what to do with a field of the user's own of that name."""
    try:
        yield
    except EftError as error:
        own = f"{name} is a setting. If it is a field of your own, give it another name, such as my_{name}."
        raise EftError(error.message, error.hint or own) from None


def kind(value: object) -> str:
    """The text that stands for a JSON value in an error: the value itself if it is short, else its type."""
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 30 else value[:27] + "...")
    if not value:
        return "empty"
    return "a list" if isinstance(value, list) else "an object"


def string(name: str, value: object) -> str:
    """Read a string. Raises EftError, which calls the value `name`."""
    if not isinstance(value, str):
        raise EftError(f"{name} is {kind(value)}; it must be a string")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise EftError(f"{name} is {kind(value)}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise EftError(f"{name} is out of range") from None


def whole(name: str, value: object) -> int:
    """Read a whole number, also one like 5.0: a table writes 5 so if its column has gaps. Raises EftError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1:
        raise EftError(f"{name} is {kind(value)}; it must be a whole number")
    return int(value)


def _draft(name: str, value: object) -> int | str:
    return value if value == "auto" and isinstance(value, str) else whole(name, value)


def _strings(name: str, value: object) -> Sequence[str]:
    return [string(name, text) for text in (value if isinstance(value, list) else [value])]


def _weights(name: str, value: object) -> Mapping[str, float]:
    if not isinstance(value, dict):
        raise EftError(f"{name} is {kind(value)}; it must be an object of numbers")
    return {key: _number(f"{name} of {key}", weight) for key, weight in value.items()}


def _bias(name: str, value: object) -> Mapping[int, float]:
    """Read logit biases. In JSON, token ids are strings; the string "-inf" bans a token."""
    if not isinstance(value, dict):
        raise EftError(f"{name} is {kind(value)}; it must be an object of numbers")
    never = {key for key, bias in value.items() if bias == "-inf"}
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise EftError(f"{name} has {kind(key)}; its keys must be token ids")
    return {
        int(key): float("-inf") if key in never else _number(f"{name} of {key}", bias) for key, bias in value.items()
    }


def _schema(name: str, value: object) -> Constraint:
    if not isinstance(value, (dict, str)):
        raise EftError(f"{name} is {kind(value)}; it must be an object, or a string that is its JSON")
    return _made("json_schema", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _choice(name: str, value: object) -> Constraint:
    return _made("choice", *_strings(name, value))


@lru_cache(64)  # thousands of lines may have the same few shapes, and checking one takes milliseconds
def _made(shape: str, *texts: str) -> Constraint:
    if shape == "choice":
        return Constraint.choice(texts)
    make = {"json_schema": Constraint.json_schema, "grammar": Constraint.grammar, "regex": Constraint.regex}[shape]
    return make(*texts)


# Shape of an answer -> the function that reads it, as the options of these names. A grammar is its text, not a file.
SHAPES: Final[Mapping[str, Callable[[str, object], Constraint]]] = {
    "json_schema": _schema,
    "grammar": lambda name, value: _made("grammar", string(name, value)),
    "regex": lambda name, value: _made("regex", string(name, value)),
    "choice": _choice,
}

# Setting -> the function that reads it. Constraints are in SHAPES.
SETTINGS: Final[Mapping[str, Callable[[str, object], object]]] = {
    **dict.fromkeys(("beta", "reward_top_p", "temperature", "top_p", "min_p", "typical_p"), _number),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), _number),
    **dict.fromkeys(("seed", "max_tokens", "top_k", "repeat_last_n", "logprobs"), whole),
    "mix": _weights,
    "alone": string,
    "draft": _draft,
    "stop": _strings,
    "logit_bias": _bias,
}
