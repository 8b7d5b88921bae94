"""Records: turns the fields of an input line into a checked prompt with settings, and writes output lines."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eftlocal.catalog.templates import Filled
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation import from_json
from eftlocal.emulation.emulator import Prompt, Raw
from eftlocal.errors import EftError
from eftlocal.runs import formats
from eftlocal.runs.lines import LineError, json_value
from eftlocal.runs.output import encoded
from eftlocal.runtime.views import Message

__all__ = ["MAX_SAMPLES", "Form", "Record", "carried", "line_of"]

MAX_SAMPLES: Final = 10_000

OTHER_SETTINGS: Final = ("n", "system", "constraint")
TEXTS: Final = frozenset({"alone", "system", "grammar", "regex", "json_schema"})  # settings that are texts

# Fields that a run writes itself. An input field with such a name becomes `input_NAME` in the output.
OWN: Final = frozenset(
    {
        *("index", "sample", "digest"),
        *("text", "parts", "finish_reason", "usage", "complete", "logprobs", "unknown", "score", "scores", "error"),
        *("settings", "emulator", "models"),
    }
)
PREFIX: Final = "input_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the input.

    line         its number in the file, from 1; a CSV record of several lines has the number of its first
    fields       all its fields, also unknown ones; they are copied to the output
    digest       a hash of the fields, to see whether they changed since an earlier run
    prompt       what the emulator answers, with the system text
    dials        the line's own settings
    samples      how many answers to make
    completions  the texts to score
    several      whether the line gave a list of completions
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
    """How fields become a record.

    where    the input's name, for errors
    system   the system text for lines without one
    raw      whether prompts go to the models unchanged
    template wraps each prompt
    samples  the number of answers for lines without `n`
    scored   whether lines have completions to score
    """

    where: str
    system: str | None = None
    raw: bool = False
    template: Filled | None = None
    samples: int = 1
    scored: bool = False

    def record(self, line: int, fields: Mapping[str, object]) -> Record | LineError:
        """The record for a line's fields, or an error that says what is wrong with them."""
        try:
            digest = _digest(fields)
        except (ValueError, RecursionError):  # for example 1e999: Python reads it as infinity, which is not JSON
            bare = hashlib.sha256(repr(fields).encode("utf-8", "surrogatepass")).hexdigest()[:16]
            return LineError(self.where, line, "a number is out of range", digest=bare, fields={})
        try:
            if taken := [name for name in OWN if name in fields and f"{PREFIX}{name}" in fields]:
                raise EftError(f"has both {taken[0]} and {PREFIX}{taken[0]}; the first would be written as the second")
            given = formats.ours(fields, scored=self.scored)
            dials = _dials(given, scored=self.scored)
            completions, several = _completions(given) if self.scored else ((), False)
            return Record(
                line=line,
                fields=fields,
                digest=digest,
                prompt=self._prompt(given),
                dials=dials,
                samples=1 if self.scored else _samples(given, self.samples),
                completions=completions,
                several=several,
            )
        except EftError as error:
            return LineError(self.where, line, error.message, digest=digest, fields=fields, hint=error.hint)

    def must_suffice(self, columns: Sequence[str]) -> None:
        """Raises EftError where a CSV file has no column of prompts, or of the completions to score."""
        for name in ("prompt", "completion") if self.scored else ("prompt",):
            if name not in columns and not (name == "prompt" and formats.is_gsm8k(columns)):
                found = ", ".join(columns)
                raise EftError(
                    f"the header has no column {name!r}; it has {found if len(found) < 80 else found[:77] + '...'}",
                    f"Name the column of the {name}s {name}.",
                )

    def cell(self, column: str, text: str) -> object:
        """A cell's value. In the column of a setting it is read as JSON if possible; an empty cell there is None."""
        if column not in from_json.SETTINGS and column not in from_json.SHAPES and column not in OTHER_SETTINGS:
            return text
        if not text.strip():
            return None
        if column in TEXTS or (column in ("stop", "choice") and not text.lstrip().startswith("[")):
            return text
        try:
            return json_value(text)
        except (ValueError, RecursionError):
            return text

    def _prompt(self, fields: Mapping[str, object]) -> Prompt:
        system = _text(fields, "system")
        if fields.get("messages") is None:
            if fields.get("prompt") is None:
                raise EftError("has no prompt", formats.hint(fields))
            text = _text(fields, "prompt") or ""
            if self.template is not None:
                text = self.template.message(text)
            if self.raw and system is not None:
                raise EftError("a raw prompt has no system text")
            if self.raw:
                return Raw(text)
            messages = [Message("user", text)]
        elif fields.get("prompt") is not None:
            raise EftError("has both a prompt and messages")
        elif self.raw:
            raise EftError("a raw prompt has no messages")
        elif self.template is not None:
            raise EftError("has messages, and a template wraps prompts")
        else:
            messages = from_json.messages(fields["messages"])
        if any(message.role == "system" for message in messages):
            if system is not None:
                raise EftError("has a system text and a system message")
            return messages
        system = self.system if system is None else system
        return messages if system is None else [Message("system", system), *messages]


def _digest(fields: Mapping[str, object]) -> str:
    """64 bits of the SHA-256 of the fields, in any order. ValueError for infinity and NaN, which are not JSON."""
    text = json.dumps(fields, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- lines of the output ----------------------------------------------------------------------------------------------


def line_of(record: Record | LineError, sample: int | None, own: Mapping[str, object]) -> bytes:
    """A line of the output: the line number, the input's fields, and the run's `own`. It begins with `{"index": `."""
    place = {"index": record.line, **({} if sample is None else {"sample": sample}), "digest": record.digest}
    fields = {f"{PREFIX}{name}" if name in OWN else name: value for name, value in record.fields.items()}
    return encoded({**place, **fields, **own})


def carried(line: Mapping[str, object]) -> dict[str, object]:
    """The input's fields, read back from a line of the output."""
    own_name = {f"{PREFIX}{name}": name for name in OWN}
    return {own_name.get(name, name): value for name, value in line.items() if name not in OWN}


# --- fields -----------------------------------------------------------------------------------------------------------


def _text(fields: Mapping[str, object], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else from_json.string(name, value)


def _dials(fields: Mapping[str, object], *, scored: bool) -> Dials:
    """A line's own settings, with the shape of its answer; scores have none. Raises EftError."""
    dials = from_json.dials(fields)
    if not scored and (shape := from_json.constraint(fields)) is not None:
        dials["constraint"] = shape
    for name, value in dials.items():
        with from_json.setting(name):
            Settings().turned(**{name: value})  # type: ignore[arg-type]  # checks its range
    return dials


def _completions(fields: Mapping[str, object]) -> tuple[tuple[str, ...], bool]:
    one, many = fields.get("completion"), fields.get("completions")
    if one is not None and many is not None:
        raise EftError("has both a completion and completions")
    if many is None:
        if one is None:
            raise EftError("has no completion", 'A line needs "completion" (a string) or "completions" (a list).')
        many = [one]
    if not isinstance(many, list) or not many:
        raise EftError(f"completions is {from_json.kind(many)}; it must be a list of strings")
    texts = tuple(from_json.string("a completion", text) for text in many)
    if "" in texts:
        raise EftError("a completion is empty")
    return texts, one is None


def _samples(fields: Mapping[str, object], default: int) -> int:
    value = fields.get("n")
    with from_json.setting("n"):
        n = default if value is None else from_json.whole("n", value)
        if not 1 <= n <= MAX_SAMPLES:
            raise EftError(f"n is {n}; it must be between 1 and {MAX_SAMPLES}")
    return n
