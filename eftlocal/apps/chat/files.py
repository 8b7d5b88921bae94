"""Text files in a message: which files it names, what they hold, and how they stand in it.

A message names a file by `@path` or `@"path with spaces"`. The model reads the file's text as a fenced block under its
name. It is the same for any prompt; nothing here knows the chat.
"""

import codecs
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eftlocal.apps.common import size
from eftlocal.catalog.tables import expanded
from eftlocal.errors import EftError
from eftlocal.text import path_of

__all__ = ["Mentions", "TextFile", "message", "path_and_rest", "read", "scan"]

LIMIT = 4_000_000  # bytes of a file; about a million tokens, which take seconds to count
ENDS = ".,;:!?)]}'\""  # what may follow a path in a sentence
MENTION = re.compile(r'(?:(?<=\s)|^)@(?:"([^"\n]+)"|(\S+))')
PATH = re.compile(r"[\w.~+\-/\\]*[./\\][\w.~+\-/\\]*")  # a word that could hardly be anything else
NUMBER = re.compile(r"[\d.]+")
MARKS = (  # a file's first bytes that name its encoding; UTF-32's begin with those of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CONTROLS = bytes(set(range(32)) - set(b"\a\b\t\n\v\f\r\x1b"))  # no text has them; so says file(1), too


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that was read, under the name that the user gave it. Its lines end in \\n."""

    name: str
    text: str

    @property
    def lines(self) -> int:
        return self.text.count("\n") + (not self.text.endswith("\n"))

    @property
    def fenced(self) -> str:
        """The text in a block under its name. The fence is longer than any in the text."""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", self.text)), default=0))
        return f"{self.name}:\n{fence}\n{self.text.removesuffix(chr(10))}\n{fence}"


@dataclass(frozen=True, slots=True)
class Mentions:
    """A message whose mentions of files were found.

    text     the message, with each file's name in place of its mention; empty if there was nothing else
    names    the files that it names, each once
    missing  what is quoted or looks like a path after an `@`, where there is no file
    """

    text: str
    names: tuple[str, ...]
    missing: tuple[str, ...]


def scan(text: str) -> Mentions:
    """Find the mentions of files in a message. A word after an `@` that is neither a file nor a path is text.

    What is missing stays text, too. `@@` begins a word with an `@`, whatever follows.
    """
    names: list[str] = []
    missing: list[str] = []
    lines = "\n" in text  # it may be a program, where @app is no folder
    left = MENTION.sub("", text).strip()  # what is no mention

    def named(found: re.Match[str]) -> str:
        nonlocal left
        quoted, word = found[1], found[2]
        path = _existing(word) if quoted is None else quoted
        if path is not None and _is_there(path) and not (lines and _path(path).is_dir()):
            names.append(path)
            return quoted or word
        left += found[0]
        if quoted is not None:
            missing.append(quoted)
        elif word.startswith("@"):
            return word
        elif PATH.fullmatch(bare := word.rstrip(ENDS)) and not NUMBER.fullmatch(bare):
            missing.append(bare)
        return found[0]

    replaced = MENTION.sub(named, text)
    return Mentions(replaced if left else "", tuple(dict.fromkeys(names)), tuple(missing))


def _existing(word: str) -> str | None:
    """The path that the word begins with, if there is such a file or folder; the rest may only be punctuation."""
    for end in range(len(word), len(word.rstrip(ENDS)) - 1, -1):
        if end and _is_there(word[:end]):
            return word[:end]
    return None


def path_and_rest(argument: str) -> tuple[str, str]:
    """Split `FILE question` or `"path with spaces" question`. A path with spaces is found without quotes if alone."""
    argument = argument.removeprefix("@")
    if found := re.fullmatch(r'"([^"]+)"\s*(.*)', argument, re.DOTALL):
        return found[1], found[2]
    if "\n" not in argument and _is_there(argument):
        return argument, ""
    name, *rest = argument.split(maxsplit=1)
    return name, "".join(rest)


def message(files: Sequence[TextFile], text: str) -> str:
    """The message that holds the files, and then the text."""
    return "\n\n".join([*(file.fenced for file in files), *([text] if text else [])])


def read(name: str) -> TextFile:
    """Read the text file that `name` names. Raises EftError if there is no such file or it is no text."""
    path = _path(name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            what = "a folder; name its files" if path.is_dir() else "not a regular file"
            raise EftError(f"{name} is {what}.")
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
            held = max(len(data), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise EftError(f"There is no file {name}.") from None
    except (OSError, ValueError) as error:
        raise EftError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if len(data) > LIMIT:
        raise EftError(
            f"{name} has {size(held)}; a message takes files of at most {size(LIMIT)}.", "Read a part of it."
        )
    text = _decoded(name, data).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise EftError(f"{name} is empty.")
    return TextFile(name, text)


def _decoded(name: str, data: bytes) -> str:
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    if encoding in ("utf-8", "utf-8-sig") and len(data.translate(None, CONTROLS)) < len(data):
        raise _binary(name)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise _binary(name) from None
        raise EftError(
            f"{name} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}.",
            f"If it is Latin-1, this converts it: iconv -f latin1 -t utf-8 {name} > new.txt",
        ) from None
    if "\0" in text:
        raise _binary(name)
    return text


def _binary(name: str) -> EftError:
    pdf = "`pdftotext` makes text of a PDF." if name.lower().endswith(".pdf") else None
    return EftError(f"{name} is a binary file; a message takes text files.", pdf)


def _is_there(name: str) -> bool:
    try:
        return _path(name).stat() is not None
    except PermissionError:
        return True  # reading it says so
    except (OSError, ValueError):  # also for a text that can be no name
        return False


def _path(name: str) -> Path:
    return expanded(path_of(name))
