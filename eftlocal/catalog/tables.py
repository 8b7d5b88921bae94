"""Reads TOML files: parses a file, and checks the values of its tables so that each error names its place."""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TypeVar, cast

from eftlocal.errors import CatalogError

__all__ = ["Table", "document", "expanded", "kind_of", "nearest", "parsed", "text_of"]

T = TypeVar("T")

KINDS: Final = (
    *((bool, "true or false"), (int, "an integer"), (float, "a number")),
    *((str, "a string"), (list, "an array"), (dict, "a table")),
)

_COMMA: Final = "', '"  # between the names of a table in Python's messages
_ESCAPES: Final = ("Unescaped '\\'", "Invalid hex value")  # what Python says of a path like "C:\models"


def document(file: Path) -> dict[str, object]:
    """Parses a TOML file.

    Raises CatalogError, which says why the file cannot be read, or at which line and column it is not TOML.
    """
    return parsed(file, text_of(file))


def parsed(file: Path, text: str) -> dict[str, object]:
    """Parses the text of a TOML file. Raises CatalogError, which says at which line and column it is not TOML."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise CatalogError(f"{file}: is not valid TOML: nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        last = text.split("\n")
        end = f"at line {len(last)}, column {len(last[-1]) + 1}"
        problem = str(error).replace("at end of document", end)
        problem = re.sub(r"\('(.+?)',?\)", lambda table: f"[{table[1].replace(_COMMA, '.')}]", problem)
        if problem.startswith(_ESCAPES):
            problem += "; a path with \\ needs 'single quotes'"
        raise CatalogError(f"{file}: is not valid TOML: {problem}") from error


def text_of(file: Path) -> str:
    """The text of a file, which is UTF-8. Raises CatalogError, which says why it cannot be read."""
    try:
        return expanded(file).read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark in front
    except FileNotFoundError as error:
        raise CatalogError(f"{file}: no such file") from error
    except IsADirectoryError as error:
        raise CatalogError(f"{file}: is a folder", "give the models.toml file itself") from error
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start} is {error.object[error.start]:#04x}"
        raise CatalogError(f"{file}: is not UTF-8 text: {wrong}") from error
    except ValueError as error:  # a NUL in the path
        raise CatalogError(f"{str(file)!r}: cannot be read: {error}") from error


def expanded(path: Path) -> Path:
    """Returns `path` with `~` or `~user` replaced by the home folder, or unchanged when there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns how an error goes on after a wrong name: with the nearest right name, or else with all of a few names."""
    by_folded = {option.casefold(): option for option in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    if close:
        return f'; did you mean "{by_folded[close[0]]}"?'
    if not by_folded:
        return "; none is defined"
    return f"; expected one of: {', '.join(sorted(by_folded.values()))}" if len(by_folded) <= 13 else ""


def kind_of(value: object) -> str:
    """Returns the type of a TOML value in the words of an error: "a string", "an array"."""
    return next((name for kind, name in KINDS if type(value) is kind), "a date or time")


class Table:
    """One TOML table. It returns checked values, and its errors name the file, the table and the key."""

    def __init__(self, file: Path, where: str, value: object, known: Iterable[str] | None, inner: str = "") -> None:
        """Raises CatalogError when `value` is not a table or has an unknown key.

        `known` are the keys that it may have (None: any). `inner` is the path to it inside the table `where`.
        """
        self.file, self.where, self.inner = file, where, inner
        if not isinstance(value, dict):
            raise self.error("", f"must be a table, not {kind_of(value)}")
        self.values: dict[str, object] = value
        if known is not None:
            names = tuple(known)
            for key in value:
                if key not in names:
                    first = where and key == "default"  # what stands below [a table] belongs to it
                    near = "; it belongs above the first [table] of the file" if first else nearest(key, names)
                    raise self.error(key, f"unknown key{near}")

    def error(self, key: str, problem: str, hint: str | None = None) -> CatalogError:
        table = f" [{self.where}]" if self.where else ""
        path = ".".join(part for part in (self.inner, key) if part)
        return CatalogError(f"{self.file}:{table}{' ' + path if path else ''}: {problem}", hint)

    def table(self, key: str, known: Iterable[str] | None) -> "Table":
        inner = f"{self.inner}.{key}" if self.inner else key
        return Table(self.file, self.where, self.values.get(key, {}), known, inner)

    def get(self, key: str, kind: type[T], expected: str) -> T | None:
        """Returns the value, or None when the key is missing. The type must be exactly `kind`: `true` is not an int."""
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise self.error(key, f"must be {expected}, not {kind_of(value)}")
        return value

    def text(self, key: str) -> str | None:
        return self.get(key, str, "a string")

    def name(self, key: str) -> str:
        """Returns a string that must be there and must not be empty."""
        value = self.text(key)
        if not value:
            raise self.error(key, "is missing" if value is None else "is empty")
        return value

    def integer(self, key: str, least: int | None = None) -> int | None:
        value = self.get(key, int, "an integer")
        if value is not None and least is not None and value < least:
            raise self.error(key, f"must be {least} or more, not {value}")
        return value

    def number(self, key: str, default: float) -> float:
        """Returns a finite number, given as a number or an integer; `default` when the key is missing."""
        value = self.values.get(key, default)
        if type(value) not in (int, float):
            raise self.error(key, f"must be a number, not {kind_of(value)}")
        try:
            number = float(cast(float, value))
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, f"must be a finite number, not {number}")
        return number

    def array(self, key: str) -> list[object]:
        return self.get(key, list, "an array") or []
