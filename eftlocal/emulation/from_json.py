"""Reads messages and settings from JSON values: lines of a batch, saved sessions, requests."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from eftlocal.decoding.settings import Dials
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message

__all__ = ["SETTINGS", "dials", "kind", "message", "messages", "string", "whole"]


def messages(value: object) -> list[Message]:
    """Read a conversation: a list of one or more messages. Raises EftError."""
    if not isinstance(value, list) or not value:
        raise EftError(f"messages is {kind(value)}; it must be a list of messages", "Each has a role and a content.")
    return [message(f"messages[{i}]", each) for i, each in enumerate(value)]


def message(name: str, value: object) -> Message:
    """Read an object with a role and a content; other keys are ignored. Raises EftError, which calls it `name`."""
    if not isinstance(value, dict):
        raise EftError(f"{name} is {kind(value)}; it must be an object with role and content")
    role, content = (string(f"{name}.{key}", value.get(key)) for key in ("role", "content"))
    return Message(role, content)


def dials(fields: Mapping[str, object]) -> Dials:
    """The settings among the fields: those with a name in SETTINGS. A null counts as not given.

    Raises EftError for a value of the wrong type. `Settings` checks the ranges later.
    """
    given = {name: read(name, fields[name]) for name, read in SETTINGS.items() if fields.get(name) is not None}
    return cast(Dials, given)


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


# Setting -> the function that reads it. Constraints are not here: each caller has its own way to write them.
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
