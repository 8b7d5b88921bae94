"""Where conversations are kept: sessions that the user named, and chats that were kept and named by themselves."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PureWindowsPath
from stat import S_ISREG

from eftlocal.apps.chat import session
from eftlocal.apps.chat.lock import Held, Lock
from eftlocal.apps.chat.session import Saved
from eftlocal.errors import EftError
from eftlocal.text import as_unicode, not_a_name, path_of

__all__ = [
    "KEPT",
    "Entry",
    "delete",
    "entries",
    "exists",
    "folder",
    "free_lock",
    "load",
    "lock",
    "name_for",
    "names",
    "open_elsewhere",
    "path",
    "prune",
    "rename",
    "save",
]

KEPT = 50  # chats that were kept without being asked to: so many of the latest stay
WORDS, LETTERS = 6, 40  # of the first message, at most, in the name of a kept chat
SUFFIX = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A session in the list. `damaged` says what is wrong with its file; then there is nothing else but the time."""

    name: str
    time: datetime
    emulator: str = ""
    turns: int = 0
    first: str = ""
    kept: bool = False
    damaged: str | None = None


def folder() -> Path:
    """The folder of all sessions and kept chats."""
    return session.data_folder() / "sessions"


def path(name: str) -> Path:
    """The file of the session `name`. Raises EftError for a name that could be a path to another folder."""
    name = as_unicode(name)
    if (hint := not_a_name(name)) is not None:
        raise EftError(f"{name!r} is not a name for a session.", hint)
    return folder() / path_of(f"{name}{SUFFIX}")


def exists(name: str) -> bool:
    """Whether there is a session of that name. Raises EftError for what is not a name, and if nobody can tell."""
    file = path(name)
    try:
        return file.exists()
    except OSError as error:
        raise EftError(f"{file} cannot be read: {error.strerror}.") from error


def names() -> list[str]:
    """The names of all sessions and kept chats, the latest first."""
    return [as_unicode(file.stem) for file in _files()]


def _files() -> list[Path]:
    """The files of all sessions, the latest first."""
    times: dict[Path, float] = {}
    for file in folder().glob(f"*{SUFFIX}"):
        with suppress(OSError):  # one that another chat has just removed
            stat = file.stat()
            if not_a_name(as_unicode(file.stem)) is None and S_ISREG(stat.st_mode):  # reading a FIFO would never end
                times[file] = stat.st_mtime
    return sorted(times, key=lambda file: -times[file])


def entries() -> list[Entry]:
    """All sessions and kept chats, the latest first."""
    found = []
    for file in _files():
        name = as_unicode(file.stem)
        try:
            time = datetime.fromtimestamp(file.stat().st_mtime).astimezone()
        except OSError:
            continue
        try:
            saved = load(name)
        except EftError as error:
            found.append(Entry(name=name, time=time, damaged=error.message))
            continue
        first = _first(saved)
        entry = Entry(name=name, time=time, emulator=saved.emulator, turns=saved.turns, first=first, kept=saved.kept)
        found.append(entry)
    return found


def _first(saved: Saved) -> str:
    """The beginning of the first question, on one line. If there is more in it, files do not count: fenced blocks."""
    text = next((m.content for m in saved.said if m.role == "user"), "")
    rest = (
        re.sub(r"^(?:[^\n]*:\n)?(`{3,}|~{3,}).*?^\1[ \t]*$", "", text, flags=re.DOTALL | re.MULTILINE).strip() or text
    )
    return " ".join(rest[:1000].split())


def save(name: str, saved: Saved) -> Path:
    """Save the session, and return its file. An old file is replaced only by a complete one. Raises EftError."""
    file = path(name)
    _make_folder()
    session.write_whole(file, session.as_json(saved))
    return file


def _make_folder() -> None:
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EftError(f"The folder {folder()} cannot be created: {error.strerror}.") from error


def load(name: str) -> Saved:
    """Load the session `name`. Raises EftError if it is missing or damaged; a damaged file is not changed."""
    file = path(name)
    try:
        if not S_ISREG(file.stat().st_mode):
            raise EftError(f"{file} is not a regular file.")
        text = file.read_text(encoding="utf-8", errors="surrogatepass")
    except FileNotFoundError:
        known = ", ".join(names()[:8])
        hint = f"Saved sessions: {known}." if known else "No session is saved yet; /save NAME saves one."
        raise EftError(f"No session is named {name!r}.", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise EftError(f"{file} cannot be read: {getattr(error, 'strerror', error)}.") from error
    try:
        return session.parse(text)
    except (ValueError, TypeError, KeyError, RecursionError, EftError) as error:
        what = error.message if isinstance(error, EftError) else str(error) or type(error).__name__
        raise EftError(
            f"{file} is not a valid session: {what}", "The file was not changed; repair it, or use another name."
        ) from error


# --- names ------------------------------------------------------------------------------------------------------------


def name_for(saved: Saved) -> str:
    """A name from the first words of a conversation: `how-large-is-lyon`."""
    name = ""
    for word in re.findall(r"\w+", _first(saved).lower())[:WORDS]:
        longer = f"{name}-{word}" if name else word[:LETTERS]
        if len(longer) > LETTERS:
            break
        name = longer
    return "chat" if not_a_name(name) or PureWindowsPath(name).is_reserved() else name


def free_lock(name: str) -> tuple[str, Lock]:
    """A name that no session has, `name` or with a number behind it, and its lock."""
    _make_folder()
    number = 1
    while True:
        candidate = name if number == 1 else f"{name}-{number}"
        number += 1
        if exists(candidate):
            continue
        try:
            held = lock(candidate)
        except Held:
            continue
        if not exists(candidate):  # nobody has made it before it was locked
            return candidate, held
        held.release()


# --- one chat at a time -----------------------------------------------------------------------------------------------


def lock(name: str) -> Lock:
    """Lock the session for this chat. Raises Held if another one has it."""
    file = path(name)
    _make_folder()
    return Lock.take(file.with_name(f".{file.stem}.lock"))


def _for_itself(name: str, change: Callable[[], None], what: str) -> None:
    """Call `change` while no chat has the session open. Raises EftError if one has."""
    try:
        held = lock(name)
    except Held as error:
        raise open_elsewhere(name, error.pid, f"Leave that chat before you {what} it.") from None
    try:
        change()
    except OSError as error:
        raise EftError(f"{path(name)} cannot be removed: {error.strerror}.") from error
    finally:
        held.release()


def open_elsewhere(name: str, pid: int | None, hint: str) -> EftError:
    """The error for a session that another chat has open."""
    return EftError(f"{name} is open in another chat{f' (process {pid})' if pid else ''}.", hint)


# --- changes ----------------------------------------------------------------------------------------------------------


def rename(name: str, new: str) -> None:
    """Give a session that no chat has open another name; a kept chat becomes a session. Raises EftError."""
    saved = load(name)
    if exists(new):
        raise EftError(f"There is a session named {new} already.", "Use another name, or delete that one first.")

    def change() -> None:
        save(new, replace(saved, kept=False))
        path(name).unlink(missing_ok=True)

    _for_itself(name, change, "rename")


def delete(name: str) -> None:
    """Delete a session that no chat has open, also a damaged one. Raises EftError."""
    file = path(name)
    if not exists(name):
        load(name)  # raises the error for a name that is missing
    _for_itself(name, lambda: file.unlink(missing_ok=True), "delete")


def prune(keep: int = KEPT) -> None:
    """Remove the oldest chats that were kept by themselves, but the `keep` latest and those that are open."""
    for entry in [entry for entry in entries() if entry.kept][keep:]:
        with suppress(EftError, OSError):
            delete(entry.name)
