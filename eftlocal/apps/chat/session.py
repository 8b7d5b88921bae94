"""Saves and loads sessions: conversations as readable JSON files in the user's data folder.

A file is written completely or not at all, and every mistake in it is an error when it is read.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.settings import Settings
from eftlocal.emulation import from_json
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message
from eftlocal.text import as_unicode, path_of

__all__ = ["Saved", "data_folder", "load", "names", "save", "session_path", "write_whole"]

FORMAT = "eftlocal-session-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A saved conversation, with the name of its emulator and its settings.

    vocabulary  the fingerprint of the vocabulary that the messages' token ids belong to; None in older sessions
    """

    emulator: str
    settings: Settings
    messages: tuple[Message, ...]
    vocabulary: str | None = None


def data_folder() -> Path:
    """The user's data folder for eftlocal (in XDG_DATA_HOME on Linux)."""
    return platformdirs.user_data_path("eftlocal")


def session_path(name: str) -> Path:
    """The file of the session `name`. Raises EftError for a name that could be a path to another folder."""
    name = as_unicode(name)
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise EftError(
            f"{name!r} is not a name for a session.",
            "Use letters, digits, '_', '-' and '.'; begin with a letter or digit.",
        )
    return data_folder() / "sessions" / path_of(f"{name}.json")


def names() -> list[str]:
    """The names of the saved sessions, the latest first."""
    found = (data_folder() / "sessions").glob("*.json")
    return [as_unicode(path.stem) for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def save(name: str, saved: Saved) -> Path:
    """Save the session, and return its file. An old file is replaced only by a complete one. Raises EftError."""
    path = session_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EftError(f"The folder {path.parent} cannot be created: {error.strerror}.") from error
    write_whole(path, as_json(saved))
    return path


def as_json(saved: Saved) -> str:
    """The session as JSON text, with each message's token ids on one line."""
    document = {
        "format": FORMAT,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        "emulator": saved.emulator,
        "vocabulary": saved.vocabulary,
        "settings": saved.settings.dials(),
        "messages": [
            {"role": m.role, "content": m.content, **({"tokens": list(m.tokens)} if m.tokens else {})}
            for m in saved.messages
        ],
    }
    text = json.dumps(document, ensure_ascii=False, indent=2, default=asdict)  # asdict is for a constraint
    # Line breaks within strings are escaped, so this joins only lists of numbers.
    return re.sub(r"\[\n[\d,\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file next to `path` and move it there, so that a crash leaves the old file. Raises EftError."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="surrogatepass", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise EftError(f"{path} cannot be written: {error.strerror}.") from error


def load(name: str) -> Saved:
    """Load the session `name`. Raises EftError if it is missing or damaged; a damaged file is not changed."""
    path = session_path(name)
    try:
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
    except FileNotFoundError:
        known = ", ".join(names()[:8])
        hint = f"Saved sessions: {known}." if known else "No session is saved yet; /save NAME saves one."
        raise EftError(f"No session is named {name!r}.", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EftError(f"{path} cannot be read: {error}.") from error
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError, EftError) as error:
        what = error.message if isinstance(error, EftError) else str(error) or type(error).__name__
        raise EftError(
            f"{path} is not a valid session: {what}", "The file was not changed; repair it, or use another name."
        ) from error


def _parsed(document: object) -> Saved:
    top = _table(document, "the file")
    if top.get("format") != FORMAT:
        raise ValueError(f'"format" is {top.get("format")!r}, not {FORMAT!r}')
    messages = top.get("messages")
    if not isinstance(messages, list):
        raise TypeError('"messages" is not an array')
    vocabulary = top.get("vocabulary")
    return Saved(
        emulator=from_json.string("emulator", top.get("emulator")),
        settings=_settings(_table(top.get("settings"), '"settings"')),
        messages=tuple(_message(f"message {i}", m) for i, m in enumerate(messages, start=1)),
        vocabulary=None if vocabulary is None else from_json.string("vocabulary", vocabulary),
    )


def _settings(table: Mapping[str, object]) -> Settings:
    if unknown := table.keys() - from_json.SETTINGS.keys() - {"constraint"}:
        raise ValueError(f"there is no setting named {min(unknown)}")
    dials = from_json.dials(table)
    if table.get("constraint") is not None:
        dials["constraint"] = Constraint(**_table(table["constraint"], '"constraint"'))
    return Settings().turned(**dials)


def _message(name: str, value: object) -> Message:
    message, tokens = from_json.message(name, value), _table(value, name).get("tokens", [])
    if not isinstance(tokens, Sequence) or not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
        raise TypeError(f"{name} has tokens that are not token ids")
    return Message(message.role, message.content, tuple(tokens))


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is not a JSON object")
    return value
