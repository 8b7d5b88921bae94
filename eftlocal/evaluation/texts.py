"""Files without field names: texts, HellaSwag in six lines, and tables without a header."""

import csv
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from eftlocal.errors import EftError
from eftlocal.evaluation.formats import Form
from eftlocal.evaluation.items import Item, Text
from eftlocal.evaluation.public import Marks, hellaswag
from eftlocal.runs import table
from eftlocal.runs.lines import Line, LineError, lines_of, unreadable
from eftlocal.runs.whole import text_of, wrong

__all__ = ["table_items", "text_items"]

TASK: Final = 6  # lines of a HellaSwag task: context, label, four endings
LABELS: Final = ("0", "1", "2", "3")
WINOGRANDE: Final = b"index,sentence,option1,option2,answer\n"
MMLU: Final = b"question,A,B,C,D,answer\n"


def text_items(path: Path, source: str) -> Iterator[tuple[Item, ...] | LineError]:
    """The one text of a file, or its HellaSwag tasks of six lines, as llama-perplexity reads them."""
    try:
        text = text_of(path)
    except LineError as error:
        yield error
        return
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if _is_tasks(lines):
        yield from _tasks(path, source, lines)
    elif text.strip():
        yield (Text(where=f"{path}:1", source=source, text=text),)
    else:
        yield wrong(path, 1, "the text is empty")


def _is_tasks(lines: Sequence[str]) -> bool:
    """Whether the second line is a label, and half of the labels are there that so many lines would have."""
    labels = [line.strip() in LABELS for line in lines]
    return len(lines) > 1 and labels[1] and 2 * TASK * sum(labels) >= len(lines)


def _tasks(path: Path, source: str, lines: Sequence[str]) -> Iterator[tuple[Item, ...] | LineError]:
    for start in range(0, len(lines), TASK):
        context, *rest = lines[start : start + TASK]
        if len(rest) < TASK - 1:
            yield wrong(path, start + 1, f"the task has {len(rest) + 1} of its {TASK} lines")
            return
        label, *endings = rest
        if label.strip() not in LABELS:  # after a line too many or too few, all tasks would be wrong
            yield wrong(path, start + 2, f"is no label from 0 to 3; the second of each {TASK} lines must be one")
            return
        if empty := [i for i, line in enumerate((context, *rest)) if not line.strip()]:
            yield wrong(path, start + 1 + empty[0], "is empty, and a line of a task")
            continue
        marks = Marks(where=f"{path}:{start + 1}", source=source, kind=None)
        yield (hellaswag(marks, context, endings, label.strip()),)


def table_items(path: Path, form: Form) -> Iterator[tuple[Item, ...] | LineError]:
    """The items of a CSV file. Winogrande's for llama-perplexity and MMLU's have no header: they get theirs here."""
    try:
        with path.open("rb") as file:
            lines = lines_of(file, str(path))
            first = next((line for line in lines if not line.blank), None)
            if first is None:
                return
            header = [Line(first.number - 1, given)] if (given := _header(first)) else []
            yield from table.records(chain(header, [first], lines), form)
    except LineError as error:  # a header that cannot be used
        yield error
    except OSError as error:
        raise unreadable(str(path), error) from None


def _header(first: Line) -> bytes | None:
    """The header of a table that has none; None where the first line is one, or nothing that is known."""
    try:
        row = next(csv.reader([first.text()], strict=True))
    except (EftError, csv.Error, StopIteration):
        return None
    if len(row) == 5 and row[0].isdigit() and "_" in row[1] and row[4].strip() in ("1", "2"):
        return WINOGRANDE
    if len(row) == 6 and row[5].strip() in ("A", "B", "C", "D") and row[1:] != ["A", "B", "C", "D", "answer"]:
        return MMLU
    return None
