"""Reads the input of a run line by line: JSON Lines, CSV or plain text. A large file needs no more memory."""

import csv
import hashlib
import itertools
import json
import os
import stat
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, NoReturn, get_args

from eftlocal.apps.batch import formats
from eftlocal.apps.batch.records import Form, LineError, Record
from eftlocal.emulation.from_json import SETTINGS, SHAPES
from eftlocal.errors import EftError, SettingError

__all__ = ["STDIN", "Format", "Source", "name_of"]

Format = Literal["jsonl", "csv", "text"]

STDIN: Final = "-"
LINE_LIMIT = 64 << 20  # bytes; a longer line is not a prompt, and its copies would not fit in memory
SUFFIXES: Final[dict[str, Format]] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "text"}
TEXTS: Final = frozenset({"alone", "system", "grammar", "regex", "json_schema"})  # settings that are texts
BOM: Final = b"\xef\xbb\xbf"
BROKEN: Final = {*map(chr, range(0xDC80, 0xDD00))}  # what surrogateescape makes of bytes that are not UTF-8


LIST: Final = "Each line must be one object, and not a list of them: jq -c '.[]' FILE > FILE.jsonl"
ONE_EACH: Final = "Each line must be one whole JSON object: jq -c . FILE > FILE.jsonl (of a list: jq -c '.[]' FILE)"


class _BadError(EftError):
    """One line is wrong. The lines after it can still be read."""


class _Line(NamedTuple):
    number: int  # from 1
    data: bytes  # with its line end; only the beginning if the line is longer than LINE_LIMIT
    whole: bool = True  # False if `data` is only the beginning

    @property
    def blank(self) -> bool:
        return not self.data.strip()

    def bad(self, form: Form, problem: str, hint: str | None = None) -> LineError:
        digest = hashlib.sha256(self.data.rstrip(b"\r\n")).hexdigest()[:16]
        return LineError(form.where, self.number, problem, digest=digest, fields={}, hint=hint)

    def text(self) -> str:
        """The line without its line end. _BadError if it is too long or not UTF-8."""
        if not self.whole:
            raise _BadError(f"is longer than {LINE_LIMIT >> 20} MB")
        try:
            return self.data.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise _BadError(f"is not UTF-8 text (byte {error.start})") from None


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
    def of(cls, path: str, format: str | None = None) -> "Source":
        """The source for a path. `format` is jsonl, csv, text or None.

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
            raise _unreadable(path, error) from None
        if stat.S_ISDIR(mode):
            raise EftError(f"{path} cannot be read: it is a folder.")
        regular = stat.S_ISREG(mode)
        chosen = chosen or SUFFIXES.get(Path(path).suffix.lower())
        if chosen is None and regular:
            hint = "Name it .jsonl, .csv or .txt, or give --format."
            if Path(path).suffix.lower() == ".json":
                hint = "It must be JSON Lines, one object on each line: jq -c '.[]' FILE.json > FILE.jsonl"
            raise SettingError(f"{path}: the format cannot be told from the file's name.", hint)
        return cls(path, chosen, rereadable=regular, waits=not regular)

    @property
    def name(self) -> str:
        """The input's name, as errors show it."""
        return name_of(self.path)

    def records(self, form: Form) -> Generator[Record | LineError, None, None]:
        """Yields a record, or an error, for each line that is not empty, in order.

        Raises EftError if nothing can be read at all, for example if a CSV header has no prompt.
        """
        with self._open() as file:
            lines, format = _sniffed(_lines(file, self.name), self.format)
            read = {"jsonl": _json_lines, "csv": _csv, "text": _text}[format]
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
                raise _unreadable(self.path, error) from None
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


def _unreadable(path: str, error: OSError | ValueError) -> EftError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return EftError(f"{path} cannot be read: {reason}.")


def _lines(file: BinaryIO, name: str) -> Iterator[_Line]:
    """The lines of a file, without a byte order mark. Only `\\n` ends a line."""
    for number in itertools.count(1):
        try:
            data = file.readline(LINE_LIMIT + 1)
            whole = len(data) <= LINE_LIMIT or data.endswith(b"\n")
            rest = data
            while not whole and rest and not rest.endswith(b"\n"):
                rest = file.readline(1 << 20)
        except OSError as error:
            raise _unreadable(name, error) from None
        if not data:
            return
        if number == 1:
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise EftError(f"{name} is UTF-16 text; it must be UTF-8.", "Save it as UTF-8.")
            data = data.removeprefix(BOM)
        yield _Line(number, data, whole)


def _sniffed(lines: Iterator[_Line], format: Format | None) -> tuple[Iterator[_Line], Format]:
    """The lines and their format. An unknown format is JSON Lines if the first line begins with a brace, else text."""
    if format is not None:
        return lines, format
    first = next((line for line in lines if not line.blank), None)
    if first is None:
        return iter(()), "text"
    return itertools.chain([first], lines), "jsonl" if first.data.lstrip().startswith(b"{") else "text"


# --- the formats ------------------------------------------------------------------------------------------------------


def _text(lines: Iterator[_Line], form: Form) -> Iterator[Record | LineError]:
    for line in lines:
        if line.blank:
            continue
        try:
            yield form.record(line.number, {"prompt": line.text()})
        except _BadError as error:
            yield line.bad(form, error.message)


def _json_lines(lines: Iterator[_Line], form: Form) -> Iterator[Record | LineError]:
    for line in lines:
        if line.blank:
            continue
        try:
            fields = json.loads(line.text(), parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            yield line.bad(form, f"is not JSON: {error.msg} (column {error.colno})", ONE_EACH)
        except (ValueError, RecursionError) as error:  # NaN, thousands of digits, deep nesting
            yield line.bad(form, f"is not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}")
        except _BadError as error:
            yield line.bad(form, error.message)
        else:
            if isinstance(fields, dict):
                yield form.record(line.number, fields)
            else:
                hint = 'Each line must be one, for example {"prompt": "..."}.'
                yield line.bad(form, "is no JSON object", LIST if isinstance(fields, list) else hint)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _csv(lines: Iterator[_Line], form: Form) -> Iterator[Record | LineError]:
    """Reads the records of a CSV file (RFC 4180). The header names the columns; one of them is `prompt`."""
    reached = [_Line(0, b"")]  # the last line that was read

    def decoded(line: _Line) -> str:
        reached[0] = line
        if not line.whole:
            line.text()  # raises the error
        # Invalid bytes are reported later, when the CSV reader has found the end of the record.
        return line.data.decode("utf-8", "surrogateescape")

    csv.field_size_limit(LINE_LIMIT)
    rows = csv.reader(map(decoded, lines), strict=True)  # a map, unlike a generator, goes on after an error
    columns: list[str] | None = None
    while True:
        start = reached[0].number + 1
        try:
            row = next(rows)
            if any(BROKEN.intersection(cell) for cell in row):
                raise _BadError("is not UTF-8 text")
            if len(row) <= 1 and not "".join(row).strip():
                continue
            if columns is None:
                columns = _header(row, form)
                continue
            if len(row) != len(columns):
                raise _BadError(f"has {len(row)} columns, the header {len(columns)}")
        except StopIteration:
            return
        except (csv.Error, _BadError) as error:
            hint = error.hint if isinstance(error, _BadError) else None
            bad = reached[0]._replace(number=start).bad(form, _problem(error), hint)
            if columns is None:
                raise bad from None
            yield bad
        else:
            yield form.record(start, {name: _cell(name, cell) for name, cell in zip(columns, row, strict=True)})


def _problem(error: Exception) -> str:
    if isinstance(error, _BadError):
        return error.message
    text = str(error)
    if text == "unexpected end of data":
        return "a quote is opened here and never closed"
    return f"is not CSV: {text}"


def _header(names: list[str], form: Form) -> list[str]:
    names = [name.strip() for name in names]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise _BadError(f"two columns are named {min(twice)!r}")
    for name in ("prompt", "completion") if form.scored else ("prompt",):
        if name not in names and not (name == "prompt" and formats.is_gsm8k(names)):
            found = ", ".join(names)
            raise _BadError(
                f"the header has no column {name!r}; it has {found if len(found) < 80 else found[:77] + '...'}",
                f"Name the column of the {name}s {name}.",
            )
    return names


def _cell(name: str, cell: str) -> Any:
    """The value of a cell. In the column of a setting it is read as JSON if possible; an empty cell there is None."""
    if name not in SETTINGS and name not in SHAPES and name not in ("n", "system", "constraint"):
        return cell
    if not cell.strip():
        return None
    if name in TEXTS or (name in ("stop", "choice") and not cell.lstrip().startswith("[")):
        return cell
    try:
        return json.loads(cell, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return cell
