"""Text at the borders of the program: what is safe to show, and what names a path.

A text from a file, a server or a file name may hold anything: escape sequences, characters that turn the direction of
writing, bytes that are not UTF-8. Whatever shows such a text calls `printable` or `json_text`.
"""

import json
import os
import re
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TextIO

__all__ = ["as_unicode", "json_text", "not_a_name", "one_line", "path_of", "printable", "wrapped"]

LONGEST = 200  # bytes of a name that the user gives; a file's name may have 255, with what else stands in it


def printable(text: str) -> str:
    """Returns `text` as one line. What is not printable is escaped, so that a file cannot send it to a terminal.

    A byte of a path that is not text becomes `\\xff`; Python keeps such a byte as half of a surrogate pair.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """Returns `text` as `printable` does, with one blank for each run of white space."""
    return printable(" ".join(text.split()))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def wrapped(text: str, out: TextIO) -> str:
    """Returns `text` with its lines broken between words if `out` is a terminal, which itself breaks words."""
    try:
        columns = os.get_terminal_size(out.fileno()).columns if out.isatty() else 0
    except (OSError, ValueError):
        columns = 0
    if not columns:
        return text
    return "\n".join(
        textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
    )


def json_text(value: object, encoding: str = "utf-8") -> str:
    """Returns `value` as JSON on one line. What is not printable, or not in `encoding`, is escaped as `\\uXXXX`.

    No character is lost: a reader of JSON gets the same texts.
    """
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():  # such characters are in strings only, where JSON allows the escapes
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def as_unicode(text: str) -> str:
    """Returns a text of the command line as Unicode, also where Python takes each byte of it by itself (LC_ALL=C)."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # another half of a surrogate pair, which stands for no byte
        return text


def path_of(text: str) -> Path:
    """Returns the path that `text` names, also where Python's paths are ASCII (LC_ALL=C): its bytes are UTF-8 then."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):  # half of a surrogate pair, which no path has
            return Path(os.fsdecode(text.encode("utf-8", "surrogateescape")))
    return Path(text)


def not_a_name(text: str) -> str | None:
    """Returns what to do about a name for a file of ours that cannot be one, such as a path; None for a good name."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        return "Use letters, digits, '_', '-' and '.'; begin with a letter or digit."
    return None if len(text.encode("utf-8", "surrogatepass")) <= LONGEST else "It is too long; use a shorter one."
