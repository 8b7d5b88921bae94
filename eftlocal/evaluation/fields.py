"""Reads the fields of a line: texts, lists of texts, numbers of choices, prompts. Each error names the field."""

from collections.abc import Mapping, Sequence
from typing import Final

from eftlocal.emulation import from_json
from eftlocal.emulation.from_json import kind
from eftlocal.emulation.prompts import Prompt
from eftlocal.errors import EftError
from eftlocal.runs.examples import with_system
from eftlocal.runtime.views import Message

__all__ = ["LETTERS", "Fields", "listed", "number", "place", "prompt", "text", "texts"]

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # that name choices

Fields = Mapping[str, object]


def text(fields: Fields, name: str) -> str:
    """A field that is a text, and not an empty one."""
    if fields.get(name) is None:
        raise EftError(f"has no {name}")
    value = from_json.string(name, fields[name])
    if not value.strip():
        raise EftError(f"the {name} is empty")
    return value


def texts(fields: Fields, name: str, least: int = 1) -> tuple[str, ...]:
    """A field that is a list of texts, of which none is empty. A number stands for its text."""
    value = fields.get(name)
    if value is None:
        raise EftError(f"has no {name}")
    if not isinstance(value, list):
        raise EftError(f"{name} is {kind(value)}; it must be a list of texts")
    found = tuple(number(f"{name}[{i}]", each) for i, each in enumerate(value))
    if empty := [i for i, each in enumerate(found) if not each.strip()]:
        raise EftError(f"{name}[{empty[0]}] is empty")
    if len(found) < least:
        raise EftError(f"{name} has {len(found)} {'text' if len(found) == 1 else 'texts'}; it needs at least {least}")
    return found


def number(name: str, value: object) -> str:
    """A text; a number is written as one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return kind(value)
    return from_json.string(name, value)


def place(name: str, value: object, choices: Sequence[str]) -> int:
    """The choice that a value names: by its text, by its letter, or by its index from 0, in this order."""
    if isinstance(value, str):
        if len(same := [i for i, choice in enumerate(choices) if choice.strip() == value.strip()]) == 1:
            return same[0]
        if len(value.strip()) == 1 and value.strip().upper() in LETTERS:
            return _within(name, value, LETTERS.index(value.strip().upper()), len(choices))
        if value.strip().isascii() and value.strip().isdigit():
            return _within(name, value, int(value.strip()[:9]), len(choices))
    elif isinstance(value, int) and not isinstance(value, bool):
        return _within(name, value, value, len(choices))
    raise EftError(
        f"{name} is {kind(value)}, which is none of the {len(choices)} choices",
        "It must be the text of a choice, its letter (A is the first), or its index (0 is the first).",
    )


def _within(name: str, value: object, index: int, n: int) -> int:
    if not 0 <= index < n:
        raise EftError(f"{name} is {kind(value)}; there are {n} choices", f"The first is 0 or A, the last is {n - 1}.")
    return index


def prompt(fields: Fields, *names: str) -> Prompt:
    """The prompt under the first of these names that there is: a text, or messages. With the line's system text."""
    name = next((name for name in names if fields.get(name) is not None), names[0])
    value = fields.get(name)
    if value is None:
        raise EftError(f"has no {name}")
    if isinstance(value, list):
        messages = [from_json.message(f"{name}[{i}]", each) for i, each in enumerate(value)]
        if not any(message.content.strip() for message in messages):
            raise EftError(f"the {name} is empty")
    else:
        messages = [Message("user", text(fields, name))]
    whole = with_system(messages, fields)
    return whole[0].content if len(whole) == 1 and whole[0].role == "user" else tuple(whole)


def listed(asked: Prompt, choices: Sequence[str]) -> Prompt:
    """A question with its choices below it, each with a letter, as MMLU is asked (arXiv 2009.03300)."""
    if len(choices) > len(LETTERS):
        raise EftError(f"has {len(choices)} choices; at most {len(LETTERS)} have a letter")
    lines = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)) + "\nAnswer:"
    if isinstance(asked, str):
        return asked.strip() + lines
    *before, last = (message for message in asked if isinstance(message, Message))
    return (*before, Message(last.role, last.content.strip() + lines))
