"""What a session is and how its file looks: a conversation as readable JSON. `store.py` says where the files are.

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

__all__ = ["Origin", "Saved", "as_json", "data_folder", "parse", "write_whole"]

FORMAT = "eftlocal-session-1"
Origin = Mapping[str, str | list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A saved conversation, with its emulator and settings. Sessions of older versions have only the first three.

    vocabulary  the fingerprint of the vocabulary that the messages' token ids belong to
    dropped     the oldest turns, which are not in the context any more
    origin      the options of the command line that made the emulator: its models file, its models; None if not known
    kept        whether the chat was kept and named without being asked to; only the latest such chats stay
    """

    emulator: str
    settings: Settings
    messages: tuple[Message, ...]
    vocabulary: str | None = None
    dropped: tuple[Message, ...] = ()
    origin: Origin | None = None
    kept: bool = False

    @property
    def said(self) -> tuple[Message, ...]:
        """All messages of user and models, without the system text."""
        return tuple(m for m in (*self.dropped, *self.messages) if m.role != "system")

    @property
    def turns(self) -> int:
        """The number of questions."""
        return sum(m.role == "user" for m in self.said)

    @property
    def answered(self) -> bool:
        """Whether there is an answer in it."""
        return any(m.role == "assistant" for m in self.said)

    def same(self, other: "Saved") -> bool:
        """Whether the other one has the same conversation, emulator and settings."""
        return (self.emulator, self.settings, self.said, self.messages) == (
            other.emulator,
            other.settings,
            other.said,
            other.messages,
        )


def data_folder() -> Path:
    """The user's data folder for eftlocal (in XDG_DATA_HOME on Linux)."""
    return platformdirs.user_data_path("eftlocal")


def as_json(saved: Saved) -> str:
    """The session as JSON text, with each message's token ids on one line."""
    document = {
        "format": FORMAT,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        "emulator": saved.emulator,
        "origin": saved.origin,
        "vocabulary": saved.vocabulary,
        "kept": saved.kept,
        "settings": saved.settings.dials(),
        "dropped": [_table_of(m) for m in saved.dropped],
        "messages": [_table_of(m) for m in saved.messages],
    }
    text = json.dumps(document, ensure_ascii=False, indent=2, default=asdict)  # asdict is for a constraint
    # Half a surrogate pair stands for a byte of a path that is not UTF-8: escaped, so that the file is UTF-8.
    text = re.sub(r"[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    # Line breaks within strings are escaped, so this joins only lists of numbers.
    return re.sub(r"\[\n[\d,\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def _table_of(message: Message) -> dict[str, object]:
    tokens = {"tokens": list(message.tokens)} if message.tokens else {}
    return {"role": message.role, "content": message.content, **tokens}


def write_whole(path: Path, text: str, *, private: bool = True) -> None:
    """Write a file next to `path` and move it there, so that a crash leaves the old file. Raises EftError.

    `private`: only the user can read it. Otherwise it is as readable as the old file was, or as any new one is.
    """
    try:
        path = path.resolve()  # a link stays, and its file is replaced
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="surrogatepass", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                if not private:
                    Path(file.name).chmod(_mode(path))
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise EftError(f"{path} cannot be written: {error.strerror}.") from error


def _mode(path: Path) -> int:
    """The permissions of the file, or of a new one."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0o077)  # the only way to read it is to set it
        os.umask(mask)
        return 0o666 & ~mask


def parse(text: str) -> Saved:
    """The session that a file holds. Raises ValueError, TypeError, KeyError, RecursionError or EftError."""
    return _parsed(json.loads(text))


def _parsed(document: object) -> Saved:
    top = _table(document, "the file")
    if top.get("format") != FORMAT:
        raise ValueError(f'"format" is {top.get("format")!r}, not {FORMAT!r}')
    vocabulary = top.get("vocabulary")
    return Saved(
        emulator=from_json.string("emulator", top.get("emulator")),
        settings=_settings(_table(top.get("settings"), '"settings"')),
        messages=_messages("message", top.get("messages")),
        vocabulary=None if vocabulary is None else from_json.string("vocabulary", vocabulary),
        dropped=_messages("dropped message", top.get("dropped", [])),
        origin=None if top.get("origin") is None else _origin(_table(top["origin"], '"origin"')),
        kept=top.get("kept") is True,
    )


def _messages(name: str, values: object) -> tuple[Message, ...]:
    if not isinstance(values, list):
        raise TypeError(f'"{name}s" is not an array')
    return tuple(_message(f"{name} {i}", value) for i, value in enumerate(values, start=1))


def _origin(table: Mapping[str, Any]) -> Origin:
    for name, value in table.items():
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f'"origin" has {name}, which is not a text')
    return table


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
