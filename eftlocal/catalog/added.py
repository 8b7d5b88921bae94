"""The parts of a models.toml that `eftlocal init` adds, and `eftlocal rm` takes out again. All other bytes stay.

A part stands between two comments, `# added by eftlocal init: NAME` and `# end of NAME`.
"""

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eftlocal.catalog.entries import ROLES
from eftlocal.catalog.tables import document, expanded
from eftlocal.errors import CatalogError

__all__ = ["Added", "added", "replace", "text_of", "with_part"]


def text_of(file: Path) -> str:
    """Returns the text of a models.toml, or "" when there is no such file. Raises CatalogError when it is not TOML."""
    with suppress(OSError):  # then `document` says what is wrong
        if not expanded(file).exists():
            return ""
    document(file)
    return expanded(file).read_bytes().decode()


def with_part(file: Path, text: str, name: str, lines: Iterable[str]) -> str:
    """Returns the text of `file` with a part for the emulator `name` at its end.

    Raises CatalogError when a TOML reader would then not find everything as before, and the part besides.
    """
    part = "\n".join([f"# added by eftlocal init: {name}", *lines, f"# end of {name}", ""])
    gap = "" if not text.lstrip("\ufeff") else "\n" if text.endswith("\n") else "\n\n"
    joined = text + gap + part
    try:
        right = _merged(_parsed(text), _parsed(part)) == _parsed(joined)
    except (ValueError, TypeError):
        right = False
    if not right:
        hint = "Write its entries as [models.NAME] and [emulators.NAME] tables first."
        raise CatalogError(f"{file}: entries that are added at its end would not be read", hint)
    return joined


@dataclass(frozen=True, slots=True)
class Added:
    """The part of a models.toml that init added for the emulator `name`: from `start` to `end` in the file's text."""

    file: Path
    name: str
    text: str
    start: int
    end: int

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that the part defines."""
        try:
            return frozenset(_parsed(self.text[self.start : self.end])["models"])
        except (KeyError, ValueError, TypeError):
            return frozenset()

    def rest(self) -> str:
        """Returns the file's text without the part.

        Raises CatalogError when more than init's entries would be lost, as when somebody wrote into it.
        """
        rest = self.text[: self.start] + self.text[self.end :]
        mine = {"models": {f"{self.name}-{role}" for role in ROLES}, "emulators": {self.name}}
        try:
            part = _parsed(self.text[self.start : self.end])
            own = all(set(part[table]) <= mine[table] for table in part)
            own = own and _merged(_parsed(rest), part) == _parsed(self.text)
        except (KeyError, ValueError, TypeError):
            own = False
        if not own:
            problem = f"{self.file}: the part that init added for {self.name} now holds other entries too"
            raise CatalogError(problem, "Remove its entries there by hand.")
        return rest


def added(file: Path, name: str) -> Added | None:
    """Returns the part of `file` that init added for the emulator `name`; None when there is none.

    Raises CatalogError when the file cannot be read.
    """
    text = text_of(file)
    quoted = re.escape(name)
    begin, end = rf"(?:^|(?<=\A\ufeff))# added by eftlocal init: {quoted}", rf"# end of {quoted}"
    part = rf"{begin}[ \t]*\r?\n(?:.*\n)*?{end}[ \t]*(?:\r?\n|\Z)"
    found = re.search(rf"(?:(?<=\n)\r?\n)?{part}", text, re.MULTILINE)
    return None if found is None else Added(file, name, text, *found.span())


def replace(file: Path, before: str, after: str) -> None:
    """Writes `after` into a file of which the text is `before`: all of it or nothing. A link stays a link.

    An empty file is removed. Raises CatalogError when the file has changed meanwhile, or cannot be written.
    """
    target = expanded(file).resolve()
    new = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as stream:
            stream.write(after.encode())
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            shutil.copymode(target, new)
        with _alone(target.parent):
            if (target.read_bytes().decode() if target.exists() else "") != before:
                raise CatalogError(f"{file}: another program changed it just now", "Try again.")
            new.replace(target)
            if not after and not expanded(file).is_symlink():
                target.unlink()
    except OSError as error:
        raise CatalogError(f"{file}: cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # the file is not UTF-8, or a path to write into it is not
        raise CatalogError(f"{file}: cannot be written as UTF-8 text") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within this context, no other eftlocal changes a models.toml of the folder. On Windows, and where a file system
    has no locks, one may."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _parsed(text: str) -> dict[str, Any]:
    return tomllib.loads(text.removeprefix("\ufeff"))


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Returns what both define. Raises ValueError for an entry that both have, and TypeError for one without a name."""
    tables = dict(one)
    for table, entries in other.items():
        if set(entries) & set(tables.get(table, {})):
            raise ValueError(f"{table} has an entry twice")
        tables[table] = {**tables.get(table, {}), **entries}
    return tables
