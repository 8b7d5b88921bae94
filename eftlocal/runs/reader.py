"""Reads the input of a run line by line: JSON Lines, CSV or plain text. A large file needs no more memory.

A `Form` says what a line becomes: a prompt with settings, or an example to train on.
"""

import itertools
import json
import os
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, get_args

from eftlocal.errors import EftError, SettingError
from eftlocal.runs import table
from eftlocal.runs.lines import BadError, Form, Line, LineError, Record, json_value, lines_of, unreadable

__all__ = ["STDIN", "SUFFIXES", "Format", "Source", "name_of"]

Format = Literal["jsonl", "csv", "text"]

STDIN: Final = "-"
SUFFIXES: Final[dict[str, Format]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "text"}


NAMES: Final = "Name it .jsonl, .csv or .txt."
LIST: Final = "Each line must be one object, and not a list of them: jq -c '.[]' FILE > FILE.jsonl"
ONE_EACH: Final = "Each line must be one whole JSON object: jq -c . FILE > FILE.jsonl (of a list: jq -c '.[]' FILE)"


@dataclass(frozen=True, slots=True)
class Source:
    """The source of the lines.

    path        a file; `-` is standard input
    format      None decides by the file's name, or by the first line
    rereadable  whether it is a regular file: it is read once before the run, so that mistakes are reported at the start
    waits       whether lines may still have to come, as from a pipe or a terminal
    """

    path: str
    format: Format | None
    rereadable: bool
    waits: bool

    @classmethod
    def of(cls, path: str, format: str | None = None, *, hint: str = NAMES) -> "Source":
        """The source for a path. `format` is jsonl, csv, text or None; `hint` is for a name that does not tell it.

        Raises EftError if the file is missing or a folder, and SettingError if the format is unknown.
        """
        if format is not None and format not in get_args(Format):
            raise SettingError(f"format is {format!r}; it must be one of {', '.join(get_args(Format))}.")
        chosen: Format | None = next((f for f in get_args(Format) if f == format), None)
        if path == STDIN:
            if sys.stdin is None:
                raise EftError("Standard input is closed.", "Name a file: -i FILE.")
            stdin = _descriptor()
            waits = stdin is not None and not stat.S_ISREG(os.fstat(stdin).st_mode)
            return cls(path, chosen, rereadable=False, waits=waits)
        try:
            mode = Path(path).stat().st_mode
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from None
        if stat.S_ISDIR(mode):
            raise EftError(f"{path} cannot be read: it is a folder.")
        regular = stat.S_ISREG(mode)
        chosen = chosen or SUFFIXES.get(Path(path).suffix.lower())
        if chosen is None and regular:
            if Path(path).suffix.lower() == ".json":
                hint = "It must be JSON Lines, one object on each line: jq -c '.[]' FILE.json > FILE.jsonl"
            raise SettingError(f"{path}: the format cannot be told from the file's name.", hint)
        return cls(path, chosen, rereadable=regular, waits=not regular)

    @property
    def name(self) -> str:
        """The input's name, as errors show it."""
        return name_of(self.path)

    def records(self, form: Form[Record]) -> Generator[Record | LineError, None, None]:
        """Yields a record, or an error, for each line that is not empty, in order.

        Raises EftError if nothing can be read at all, for example if a CSV header has no prompt.
        """
        with self._open() as file:
            lines, format = _sniffed(lines_of(file, self.name), self.format)
            read = {"jsonl": _json_lines, "csv": table.records, "text": _text}[format]
            yield from read(lines, form)

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        if self.path == STDIN:
            if (stdin := _descriptor()) is None:
                yield sys.stdin.buffer
                return
            # Not sys.stdin.buffer: a thread that waits for input holds its lock, and Python needs the lock to exit.
            with open(stdin, "rb", closefd=False) as file:
                yield file
            return
        with ExitStack() as stack:
            try:
                file = stack.enter_context(Path(self.path).open("rb"))
            except OSError as error:
                raise unreadable(self.path, error) from None
            yield file


def _descriptor() -> int | None:
    """The file descriptor of standard input; None if a Python object stands for it, as in tests."""
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError):
        return None


def name_of(path: str) -> str:
    """The input's name, as errors show it."""
    return "<stdin>" if path == STDIN else path


def _sniffed(lines: Iterator[Line], format: Format | None) -> tuple[Iterator[Line], Format]:
    """The lines and their format. An unknown format is JSON Lines if the first line begins with a brace, else text."""
    if format is not None:
        return lines, format
    first = next((line for line in lines if not line.blank), None)
    if first is None:
        return iter(()), "text"
    return itertools.chain([first], lines), "jsonl" if first.data.lstrip().startswith(b"{") else "text"


# --- the formats ------------------------------------------------------------------------------------------------------


def _text(lines: Iterator[Line], form: Form[Record]) -> Iterator[Record | LineError]:
    for line in lines:
        if line.blank:
            continue
        try:
            yield form.record(line.number, {"prompt": line.text()})
        except BadError as error:
            yield line.bad(form, error.message)


def _json_lines(lines: Iterator[Line], form: Form[Record]) -> Iterator[Record | LineError]:
    for line in lines:
        if line.blank:
            continue
        try:
            fields = json_value(line.text())
        except json.JSONDecodeError as error:
            yield line.bad(form, f"is not JSON: {error.msg} (column {error.colno})", ONE_EACH)
        except (ValueError, RecursionError) as error:  # NaN, thousands of digits, deep nesting
            yield line.bad(form, f"is not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}")
        except BadError as error:
            yield line.bad(form, error.message)
        else:
            if isinstance(fields, dict):
                yield form.record(line.number, fields)
            else:
                hint = LIST if isinstance(fields, list) else "Each line must be one: fields in braces."
                yield line.bad(form, "is not a JSON object", hint)
