"""Reads a CSV file (RFC 4180) whose header names the fields of its records."""

import csv
from collections.abc import Iterator
from typing import Final

from eftlocal.errors import EftError
from eftlocal.runs import lines as limits
from eftlocal.runs.lines import BadError, Form, Line, LineError, Record

__all__ = ["records"]

BROKEN: Final = {*map(chr, range(0xDC80, 0xDD00))}  # what surrogateescape makes of bytes that are not UTF-8


def records(lines: Iterator[Line], form: Form[Record]) -> Iterator[Record | LineError]:
    """A record, or an error, for each row after the header. Raises LineError for a header that cannot be used."""
    reached = [Line(0, b"")]  # the last line that was read

    def decoded(line: Line) -> str:
        reached[0] = line
        if not line.whole:
            line.text()  # raises the error
        # Invalid bytes are reported later, when the CSV reader has found the end of the record.
        return line.data.decode("utf-8", "surrogateescape")

    csv.field_size_limit(limits.LINE_LIMIT)
    rows = csv.reader(map(decoded, lines), strict=True)  # a map, unlike a generator, goes on after an error
    columns: list[str] | None = None
    while True:
        start = reached[0].number + 1
        try:
            row = next(rows)
            if any(BROKEN.intersection(cell) for cell in row):
                raise BadError("is not UTF-8 text")
            if len(row) <= 1 and not "".join(row).strip():
                continue
            if columns is None:
                columns = _header(row, form)
                continue
            if len(row) != len(columns):
                raise BadError(f"has {len(row)} columns, the header {len(columns)}")
        except StopIteration:
            return
        except (csv.Error, BadError) as error:
            hint = error.hint if isinstance(error, BadError) else None
            bad = reached[0]._replace(number=start).bad(form, _problem(error), hint)
            if columns is None:
                raise bad from None
            yield bad
        else:
            yield form.record(start, {name: form.cell(name, cell) for name, cell in zip(columns, row, strict=True)})


def _problem(error: Exception) -> str:
    if isinstance(error, BadError):
        return error.message
    text = str(error)
    if text == "unexpected end of data":
        return "a quote is opened here and never closed"
    return f"is not CSV: {text}"


def _header(names: list[str], form: Form[object]) -> list[str]:
    names = [name.strip() for name in names]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise BadError(f"two columns are named {min(twice)!r}")
    try:
        form.must_suffice(names)
    except EftError as error:
        raise BadError(error.message, error.hint) from None
    return names
