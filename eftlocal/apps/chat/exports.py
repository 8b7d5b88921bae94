"""A conversation as a file for other programs and people: Markdown or JSON."""

import os
import re
from pathlib import Path

from eftlocal.apps.chat.session import Saved, as_json
from eftlocal.decoding.thinking import spoken
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message

__all__ = ["differs", "markdown", "text"]


def text(saved: Saved, path: Path, command: str) -> str:
    """The conversation in the form that the file's name asks for. Raises EftError that names `command` otherwise."""
    if path.suffix.lower() == ".json":
        return as_json(saved)
    if path.suffix.lower() == ".md":
        return markdown(saved)
    raise EftError(f"{command} needs the name of a file that ends in .md or .json.", f"Example: {command} chat.md")


def markdown(saved: Saved) -> str:
    """The conversation as Markdown, with a heading for each message."""
    system = [m for m in saved.messages if m.role == "system"]
    return "\n\n".join(f"## {m.role.capitalize()}\n\n{_said(m)}" for m in (*system, *saved.said)) + "\n"


def _said(message: Message) -> str:
    """A message without its thoughts."""
    return spoken(message.content) if message.role == "assistant" else message.content


def differs(path: Path, text: str) -> bool:
    """Whether there is a file with another content, so that writing would lose something. The time does not count."""
    try:
        if path.is_file():
            return _without_time(path.read_text(encoding="utf-8", errors="surrogatepass")) != _without_time(text)
    except (OSError, UnicodeDecodeError):
        pass
    return os.path.lexists(path)


def _without_time(text: str) -> str:
    return re.sub(r'^  "saved": "[^"]*",$', "", text, count=1, flags=re.MULTILINE)
