"""Finds the files of data in what a user names: files as they are, and folders, which are searched."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from eftlocal.runs.reader import SUFFIXES
from eftlocal.runs.whole import is_one_object

__all__ = ["ENDINGS", "TEXTS", "files", "told"]

TEXTS: Final = (".txt", ".md")  # each file is one text
ENDINGS: Final = (*(suffix for suffix, format in SUFFIXES.items() if format != "text"), ".json", *TEXTS)
SHOWN: Final = 5  # files that are told by name


def files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The files to read, each once, and the other files of the folders: of another ending, or one JSON object.

    Hidden files are not searched. Whether a named file can be read is not asked. Raises EftError.
    """
    found: dict[Path, Path] = {}
    ignored = []
    for path in paths:
        if not path.is_dir():
            found.setdefault(path.resolve(), path)
            continue
        for file in sorted(path.rglob("*")):
            if any(part.startswith(".") for part in file.relative_to(path).parts) or file.is_dir():
                continue
            suffix = file.suffix.lower()
            if suffix not in ENDINGS or (suffix == ".json" and is_one_object(file)):  # settings of some program
                ignored.append(file)
            else:
                found.setdefault(file.resolve(), file)
    return list(found.values()), ignored


def told(ignored: Sequence[Path]) -> str:
    """The files that are not read, as a line for people."""
    more = len(ignored) - SHOWN
    names = ", ".join(path.name for path in ignored[:SHOWN])
    return f"not read: {names}{f', and {more:,} more' if more > 0 else ''}"
