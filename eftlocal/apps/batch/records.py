"""What a line of the input asks for: its fields, checked, as a prompt with settings of its own."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.emulator import Prompt, Raw
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message

__all__ = ["MAX_SAMPLES", "SETTINGS", "Form", "LineError", "Record", "carried", "line_of"]

MAX_SAMPLES: Final = 10_000

# The output's own fields. One of the input's that has such a name is carried as `input_NAME`.
OWN: Final = frozenset(
    {
        *("index", "sample", "digest"),
        *("text", "finish_reason", "usage", "complete", "logprobs", "score", "scores", "error"),
        *("settings", "emulator", "models"),
    }
)
PREFIX: Final = "input_"


class LineError(EftError):
    """A line of the input that cannot be worked on; `problem` is the error without the file and the line."""

    def __init__(
        self, where: str, line: int, problem: str, *, digest: str, fields: Mapping[str, object], hint: str | None = None
    ) -> None:
        super().__init__(f"{where}:{line}: {problem}", hint)
        self.line = line
        self.problem = problem
        self.digest = digest
        self.fields = fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the input.

    line         its number in the file, from 1: where it starts, if it is a CSV record of several lines
    fields       all its fields as they came, also those that mean nothing here: they go to the output
    digest       tells whether the fields are the same as in an earlier run
    prompt       what the emulator is asked, the system text in it
    dials        the line's own settings
    samples      how many answers are wanted
    completions  what is to be scored; `several` where the line gave a list
    """

    line: int
    fields: Mapping[str, object]
    digest: str
    prompt: Prompt
    dials: Dials = field(default_factory=lambda: Dials())
    samples: int = 1
    completions: tuple[str, ...] = ()
    several: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How fields become a record: what stands for those that a line leaves out, and whether completions are due."""

    where: str  # the input's name, for errors
    system: str | None = None
    raw: bool = False
    samples: int = 1
    scored: bool = False

    def record(self, line: int, fields: Mapping[str, object]) -> Record | LineError:
        """The record of a line's fields, or what is wrong with them."""
        try:
            digest = _digest(fields)
        except (ValueError, RecursionError):  # a number beyond the floats, which JSON can write and not hold
            bare = hashlib.sha256(repr(fields).encode("utf-8", "surrogatepass")).hexdigest()[:16]
            return LineError(self.where, line, "a number is out of range", digest=bare, fields={})
        try:
            if taken := [name for name in OWN if name in fields and f"{PREFIX}{name}" in fields]:
                raise EftError(f"has both {taken[0]} and {PREFIX}{taken[0]}; the first would be written as the second")
            dials = _dials(fields)
            Settings().turned(**dials)  # for the ranges
            completions, several = _completions(fields) if self.scored else ((), False)
            return Record(
                line=line,
                fields=fields,
                digest=digest,
                prompt=self._prompt(fields),
                dials=dials,
                samples=1 if self.scored else _samples(fields, self.samples),
                completions=completions,
                several=several,
            )
        except EftError as error:
            return LineError(self.where, line, error.message, digest=digest, fields=fields, hint=error.hint)

    def _prompt(self, fields: Mapping[str, object]) -> Prompt:
        system = _text(fields, "system")
        if fields.get("messages") is None:
            if fields.get("prompt") is None:
                raise EftError("has no prompt", 'A line needs "prompt" (a string) or "messages".')
            text = _text(fields, "prompt") or ""
            if self.raw and system is not None:
                raise EftError("a raw prompt has no system text")
            if self.raw:
                return Raw(text)
            messages = [Message("user", text)]
        elif fields.get("prompt") is not None:
            raise EftError("has both a prompt and messages")
        elif self.raw:
            raise EftError("a raw prompt has no messages")
        else:
            messages = _messages(fields["messages"])
        if any(message.role == "system" for message in messages):
            if system is not None:
                raise EftError("has a system text and a system message")
            return messages
        system = self.system if system is None else system
        return messages if system is None else [Message("system", system), *messages]


def _digest(fields: Mapping[str, object]) -> str:
    """64 bits of the fields' SHA-256, whatever their order. ValueError for a number that is none in JSON."""
    text = json.dumps(fields, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- lines of the output ----------------------------------------------------------------------------------------------


def line_of(record: Record | LineError, sample: int | None, own: Mapping[str, object]) -> bytes:
    """A line of the output: its place, the input's fields, and what the run has to say. Begins with `{"index": `."""
    place = {"index": record.line, **({} if sample is None else {"sample": sample}), "digest": record.digest}
    fields = {f"{PREFIX}{name}" if name in OWN else name: value for name, value in record.fields.items()}
    whole = {**place, **fields, **own}
    try:
        return json.dumps(whole, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only write escaped
        return json.dumps(whole).encode() + b"\n"


def carried(line: Mapping[str, object]) -> dict[str, object]:
    """The input's fields in a line of the output."""
    own_name = {f"{PREFIX}{name}": name for name in OWN}
    return {own_name.get(name, name): value for name, value in line.items() if name not in OWN}


# --- fields -----------------------------------------------------------------------------------------------------------


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else _string(name, value)


def _messages(value: object) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise EftError(f"messages is {_kind(value)}; it must be a list of messages", "Each has a role and a content.")
    found = []
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise EftError(f"messages[{i}] is {_kind(message)}; it must be an object with role and content")
        role, content = (_string(f"messages[{i}].{key}", message.get(key)) for key in ("role", "content"))
        found.append(Message(role, content))
    return found


def _completions(fields: Mapping[str, object]) -> tuple[tuple[str, ...], bool]:
    one, many = fields.get("completion"), fields.get("completions")
    if one is not None and many is not None:
        raise EftError("has both a completion and completions")
    if many is None:
        if one is None:
            raise EftError("has no completion", 'A line needs "completion" (a string) or "completions" (a list).')
        many = [one]
    if not isinstance(many, list) or not many:
        raise EftError(f"completions is {_kind(many)}; it must be a list of strings")
    texts = tuple(_string("a completion", text) for text in many)
    if "" in texts:
        raise EftError("a completion is empty")
    return texts, one is None


def _samples(fields: Mapping[str, object], default: int) -> int:
    value = fields.get("n")
    n = default if value is None else _whole("n", value)
    if not 1 <= n <= MAX_SAMPLES:
        raise EftError(f"n is {n}; it must be between 1 and {MAX_SAMPLES}")
    return n


def _dials(fields: Mapping[str, object]) -> Dials:
    """The settings among the fields. A null is the same as none."""
    given = {name: read(name, fields[name]) for name, read in SETTINGS.items() if fields.get(name) is not None}
    return cast(Dials, given)


def _kind(value: object) -> str:
    """A JSON value as an error calls it: itself where that is short."""
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 30 else value[:27] + "...")
    if not value:
        return "empty"
    return "a list" if isinstance(value, list) else "an object"


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise EftError(f"{name} is {_kind(value)}; it must be a string")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise EftError(f"{name} is {_kind(value)}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise EftError(f"{name} is out of range") from None


def _whole(name: str, value: object) -> int:
    """A whole number; also 5.0, as tables with a gap in the column write 5."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1:
        raise EftError(f"{name} is {_kind(value)}; it must be a whole number")
    return int(value)


def _draft(name: str, value: object) -> int | str:
    return value if value == "auto" and isinstance(value, str) else _whole(name, value)


def _strings(name: str, value: object) -> Sequence[str]:
    return [_string(name, text) for text in (value if isinstance(value, list) else [value])]


def _weights(name: str, value: object) -> Mapping[str, float]:
    if not isinstance(value, dict):
        raise EftError(f"{name} is {_kind(value)}; it must be an object of numbers")
    return {key: _number(f"{name} of {key}", weight) for key, weight in value.items()}


def _bias(name: str, value: object) -> Mapping[int, float]:
    """Token ids are strings in JSON, and so is "-inf", which bans a token."""
    if not isinstance(value, dict):
        raise EftError(f"{name} is {_kind(value)}; it must be an object of numbers")
    never = {key for key, bias in value.items() if bias == "-inf"}
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise EftError(f"{name} has {_kind(key)}; its keys must be token ids")
    return {
        int(key): float("-inf") if key in never else _number(f"{name} of {key}", bias) for key, bias in value.items()
    }


# What a line may set, and how each value is read: EftError where it is of another kind. `Settings` has the ranges.
SETTINGS: Final[Mapping[str, Callable[[str, object], object]]] = {
    **dict.fromkeys(("beta", "reward_top_p", "temperature", "top_p", "min_p", "typical_p"), _number),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), _number),
    **dict.fromkeys(("seed", "max_tokens", "top_k", "repeat_last_n", "logprobs"), _whole),
    "mix": _weights,
    "alone": _string,
    "draft": _draft,
    "stop": _strings,
    "logit_bias": _bias,
}
