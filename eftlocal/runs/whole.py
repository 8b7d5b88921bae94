"""Reads files that are not lines of records: one text, or one JSON list of objects. A .json file may be either."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from eftlocal.errors import EftError
from eftlocal.runs.lines import LINE_LIMIT, Form, LineError, Record, decoder, lines_of, unreadable

__all__ = ["is_list", "is_one_object", "objects", "text_of", "wrong"]

UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


def text_of(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises LineError, with the line, for what is not text, and EftError for a file that cannot be read.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= LINE_LIMIT else None
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from None
    if data is None:
        raise EftError(f"{path} is longer than {LINE_LIMIT >> 20} MB.", "Give it as several files.")
    if data.startswith(UTF16):
        raise EftError(f"{path} is UTF-16 text; it must be UTF-8.", "Save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise wrong(path, line, f"is not UTF-8 text (byte {error.start} of the file)") from None
    if "\0" in text:
        raise wrong(path, text.count("\n", 0, text.index("\0")) + 1, "is not text: it has a zero byte")
    return text


def is_list(path: Path) -> bool:
    """Whether a file begins as a JSON list, and not as an object on a line. Raises EftError."""
    return _first_line(path).startswith(b"[")


def is_one_object(path: Path) -> bool:
    """Whether a file begins as one JSON object over several lines, as settings of a program. Raises EftError."""
    return _first_line(path) == b"{"


def _first_line(path: Path) -> bytes:
    """The first line that is not blank, without white space around it."""
    try:
        with path.open("rb") as file:
            return next((line.data.strip() for line in lines_of(file, str(path)) if not line.blank), b"")
    except OSError as error:
        raise unreadable(str(path), error) from None


def objects(path: Path, form: Form[Record]) -> Iterator[Record | LineError]:
    """The records of a JSON list of objects, each with the line that it begins in. A mistake in the JSON ends it."""
    try:
        text = text_of(path)
    except LineError as error:
        yield error
        return
    at = _skip(text, 0)
    line, counted = 1, 0
    try:
        if text[at : at + 1] != "[":
            raise json.JSONDecodeError("it must be a list of objects", text, at)
        at = _skip(text, at + 1)
        while text[at : at + 1] != "]":
            line, counted = line + text.count("\n", counted, at), at
            value, end = decoder.raw_decode(text, at)
            if isinstance(value, dict):
                yield form.record(line, value)
            else:
                yield wrong(path, line, "is not a JSON object")
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
                if text[at : at + 1] == "]":
                    raise json.JSONDecodeError("expecting an object after ','", text, at)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("expecting ',' or ']'", text, at)
        if (rest := _skip(text, at + 1)) < len(text):
            raise json.JSONDecodeError("extra data after the list", text, rest)
    except json.JSONDecodeError as error:
        yield wrong(path, error.lineno, f"is not JSON: {error.msg} (column {error.colno})")
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        yield wrong(path, line, f"is not JSON: {problem}")


def wrong(path: Path, line: int, problem: str, fields: Mapping[str, object] | None = None) -> LineError:
    """The error of a line that is no record."""
    return LineError(str(path), line, problem, digest="", fields=fields or {})


def _skip(text: str, at: int) -> int:
    """The place of the first character from `at` on that is not white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
