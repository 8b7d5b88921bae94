"""Reads and shows the values of dials: text that was typed -> the value that `Settings.turned` takes.

How a text is read follows from the type that `Dials` declares for the dial.
"""

import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Union, get_args, get_origin, get_type_hints

from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.errors import SettingError

__all__ = ["NAMES", "known", "number", "parse", "shown", "value_of"]

_HINTS = get_type_hints(Dials) | {"stop": Sequence[str]}  # `stop` may be a single text, which is a list of one here
NAMES = tuple(_HINTS)
_OFF = ("off", "none", "null")


def known(name: str) -> None:
    """Raise SettingError, with the nearest name, if there is no dial `name`."""
    if name not in _HINTS:
        near = get_close_matches(name, NAMES, 1)
        raise SettingError(
            f"There is no setting named {name!r}.", f"Did you mean {near[0]!r}?" if near else "/set lists all settings."
        )


def number(text: str) -> int | None:
    """The whole number above 0 that a text is, or None. One of ten digits or more is only large: none means it."""
    if not text.isdecimal():
        return None
    return (int(text) if len(text) < 10 else 10**9) or None


def parse(name: str, text: str) -> Any:
    """The value that `text` gives to the dial `name`. Raises SettingError."""
    known(name)
    text = text.strip()
    try:
        return _value(_HINTS[name], text)
    except SettingError:  # a constraint's own words
        raise
    except ValueError:
        raise SettingError(f"{name} is {text!r}; it must be {_form(_HINTS[name])}.") from None


def value_of(settings: Settings, name: str) -> Any:
    """The value of the dial `name` in these settings."""
    return getattr(settings, name) if hasattr(settings, name) else getattr(settings.sampling, name)


def shown(value: Any) -> str:
    """A dial's value as a user would type it; "off" for None and "-" for an empty one."""
    if value is None:
        return "off"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={shown(each)}" for key, each in value.items()) or "-"
    if isinstance(value, Constraint):
        return f"{value.kind} {value.text}"
    if isinstance(value, tuple | list):
        return " ".join(repr(each) for each in value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(hint: Any, text: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if text.lower() in _OFF:
            return None
        return _value(next(each for each in get_args(hint) if each is not type(None)), text)
    if get_origin(hint) is Mapping:
        key, value = get_args(hint)
        return {_value(key, k): _value(value, v) for k, v in _pairs(text)}
    if get_origin(hint) is Sequence:
        return [] if text.lower() in (*_OFF, "-", "") else [text.replace("\\n", "\n")]
    if not text:
        raise ValueError("empty")
    return _constraint(text) if hint is Constraint else hint(text)


def _constraint(text: str) -> Constraint:
    """`regex PATTERN`, `choice A|B`, `grammar GBNF` or `json_schema JSON`."""
    kind, _, rest = text.partition(" ")
    if kind not in get_args(get_type_hints(Constraint)["kind"]) or not rest.strip():
        raise ValueError("not a constraint")
    return Constraint.choice(rest.split("|")) if kind == "choice" else getattr(Constraint, kind)(rest)


def _pairs(text: str) -> list[tuple[str, str]]:
    """The pairs of `A=1 B=0.5` or `A=1,B=0.5`; none for "-" or "off". Raises ValueError."""
    if text.lower() in (*_OFF, "-"):
        return []
    parts = text.replace(",", " ").split()
    if not parts or not all("=" in part[1:] for part in parts):
        raise ValueError("not NAME=VALUE")
    return [(key, value) for key, _, value in (part.rpartition("=") for part in parts)]


def _form(hint: Any) -> str:
    """What a dial of this type takes, in words."""
    if get_origin(hint) in (Union, types.UnionType):
        return f"{_form(get_args(hint)[0])}, or off"
    if get_origin(hint) is Mapping:
        return "NAME=VALUE, or several separated by spaces, or off"
    if hint is Constraint:
        return "regex PATTERN, choice A|B, grammar GBNF or json_schema JSON"
    return {float: "a number", int: "a whole number", str: "a name"}.get(hint, "a text, or off")
