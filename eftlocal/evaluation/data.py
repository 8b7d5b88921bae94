"""Reads what an evaluation is about: files in, items out, with an error for each line that cannot be used."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from eftlocal.errors import EftError
from eftlocal.evaluation import demo
from eftlocal.evaluation.formats import KNOWN, Form
from eftlocal.evaluation.items import Item
from eftlocal.evaluation.texts import table_items, text_items
from eftlocal.runs.lines import LineError, unreadable
from eftlocal.runs.reader import STDIN, SUFFIXES, Source
from eftlocal.runs.whole import objects

__all__ = ["Data", "read"]

Written = Literal["jsonl", "csv", "text", "json"]
WRITTEN: Final[dict[str, Written]] = {**SUFFIXES, ".json": "json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What was read.

    items     in the order of the files and their lines
    problems  one for each line that cannot be used
    digest    SHA-256 of the files' contents, in their order; of `demo` its name stands for it
    """

    items: tuple[Item, ...]
    problems: tuple[LineError, ...]
    digest: str


def read(names: Sequence[str | Path]) -> Data:
    """Reads files, or `demo` for the questions that ship; a file of that name is ./demo.

    JSON Lines, CSV and JSON lists are told by the file's ending, or by its first character; any other file is text.
    What a line means is told by its fields (formats.py). Raises EftError for a file that cannot be read at all, or
    where a check needs a package that is missing.
    """
    items: list[Item] = []
    problems: list[LineError] = []
    digest = hashlib.sha256()
    paths = {name: Path(name) for name in dict.fromkeys(names) if name != demo.NAME}
    for name in dict.fromkeys(names):
        if name == demo.NAME:
            items += demo.questions(demo.MEASURED)
            digest.update(demo.NAME.encode())
            continue
        before = len(items) + len(problems)
        for found in _file(paths[name], _source(paths[name], list(paths.values()))):
            if isinstance(found, LineError):
                problems.append(found)
            else:
                items += found
        if len(items) + len(problems) == before:
            raise EftError(f"{name} is empty.", KNOWN)
        digest.update(paths[name].read_bytes())
    return Data(items=tuple(items), problems=tuple(problems), digest=digest.hexdigest())


def _source(path: Path, all_: Sequence[Path]) -> str:
    """A file's name among the results: without its folder, if no other file has it."""
    return path.name if sum(other.name == path.name for other in all_) == 1 else str(path)


def _file(path: Path, source: str) -> Iterator[tuple[Item, ...] | LineError]:
    if str(path) == STDIN:
        raise EftError("Data cannot come from standard input.", "It is read again when a run goes on; name a file.")
    form = Form(str(path), source)
    match _written(path):
        case "text":
            return text_items(path, source)
        case "csv":
            return table_items(path, form)
        case "json":
            return objects(path, form)
        case "jsonl":
            return Source.of(str(path), "jsonl").records(form)


def _written(path: Path) -> Written:
    """How a file is written: by its ending, else by its first character. A .json file may also be JSON Lines."""
    if path.is_dir():
        raise EftError(f"{path} is a folder.", "Name the files of data that are in it.")
    if path.exists() and not path.is_file():
        raise EftError(f"{path} cannot be read: it is not a regular file.", "Data is read again when a run goes on.")
    known = WRITTEN.get(path.suffix.lower())
    if known in ("jsonl", "csv"):
        return known
    try:
        with path.open("rb") as file:
            first = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    except (OSError, ValueError) as error:
        raise unreadable(str(path), error) from None
    if known == "text":
        return known
    return "jsonl" if first == b"{" else "json" if first == b"[" or known == "json" else "text"
