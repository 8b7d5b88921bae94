"""Where the conversation of a running chat is kept: under a name, locked, and never over another chat's turns."""

import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from eftlocal.apps.chat import store
from eftlocal.apps.chat.lock import Held, Lock
from eftlocal.apps.chat.session import Saved
from eftlocal.apps.common import agreed, can_ask
from eftlocal.errors import EftError

__all__ = ["Record", "opened"]

Stamp = tuple[int, int, int]


class Record:
    """The file that a chat's conversation is written to after each turn, and its lock.

    keep   whether a conversation without a name gets one by itself and is kept
    name   the name of the session, or of the kept chat; None as long as nothing is kept
    saved  what the file held when it was opened
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self.name: str | None = None
        self.by_itself = False  # whether the chat got its name by itself
        self.saved: Saved | None = None
        self._like: str | None = None  # the session that this is a copy of
        self._lock: Lock | None = None
        self._last: Saved | None = None  # what was written last
        self._stamp: Stamp | None = None  # the file after it was written or read
        self._one = threading.Lock()  # the end of the process may save from a thread of its own
        self._closed = False

    @property
    def session_name(self) -> str | None:
        """The name that the user gave; None for a kept chat."""
        return None if self.by_itself else self.name

    # --- opening ------------------------------------------------------------------------------------------------------

    def open(self, name: str) -> Saved | None:
        """Go on in the session `name`, which need not exist. Raises Held and EftError; then nothing has changed."""
        if name == self.name:
            return store.load(name)
        lock = store.lock(name)
        try:
            saved = store.load(name) if store.exists(name) else None
        except BaseException:
            lock.release()
            raise
        self.leave()
        self.name, self._lock, self.saved, self._last = name, lock, saved, saved
        self.by_itself = saved is not None and saved.kept
        self._stamp = _stamp(store.path(name))
        return saved

    def copy_of(self, name: str) -> Saved:
        """Go on with a copy of the session `name`, which gets a name of its own. Raises EftError."""
        saved = store.load(name)
        self.leave()
        self.saved, self._like = saved, name
        return saved

    def leave(self) -> None:
        """Let go of the session: its file stays as it is, and the next turn begins another."""
        lock, self._lock = self._lock, None
        self.name = self._last = self._stamp = self._like = None
        self.by_itself = False
        if lock is not None:
            lock.release()

    def close(self) -> None:
        """Let go of the session for good: nothing is written any more."""
        self._closed = True
        self.leave()

    # --- writing ------------------------------------------------------------------------------------------------------

    def save(self, saved: Saved) -> str | None:
        """Write the conversation if it has changed. Returns what the user should know, or None. Raises EftError.

        A kept chat is written as soon as it has an answer, and removed when it has none any more.
        """
        with self._one:
            return None if self._closed else self._save(saved)

    def save_last(self, saved: Saved, patience_s: float) -> None:
        """Write the conversation from another thread, and then nothing any more. Raises EftError.

        Waits `patience_s` seconds for a thread that writes. Does nothing if that one has closed the record.
        """
        mine = self._one.acquire(timeout=patience_s)
        try:
            if not self._closed:
                self._save(saved)
        finally:
            self.close()
            if mine:
                self._one.release()

    def _save(self, saved: Saved) -> str | None:
        told = None
        if self.name is None or self.by_itself:
            if not self.keep and self.name is None:
                return None
            if not saved.answered:
                self._forget()
                return None
        if self.name is None:
            self._begin(saved)
        elif self._last is not None and saved.same(self._last):
            return None
        elif self._stamp != (now := _stamp(store.path(self.name))) and now is not None:
            old = self.name
            self.leave()
            self._like = old
            self._begin(saved)
            told = f"another program has changed {old}, so this conversation is kept as {self.name}"
        assert self.name is not None
        file = store.save(self.name, replace(saved, kept=self.by_itself))
        self._last, self._stamp = saved, _stamp(file)
        return told

    def _begin(self, saved: Saved) -> None:
        """Take a name from the first words of the conversation."""
        self.name, self._lock = store.free_lock(self._like or store.name_for(saved))
        self.by_itself = True
        with suppress(EftError):
            store.prune()

    def _forget(self) -> None:
        """Remove a kept chat from which all turns were taken back."""
        if self.name is not None and self._stamp == _stamp(store.path(self.name)):
            with suppress(OSError):
                store.path(self.name).unlink(missing_ok=True)
        self.leave()

    def rename(self, name: str, saved: Saved) -> None:
        """Give this conversation a name of the user's. Raises EftError if there is such a session, or if it cannot be
        written; then it keeps its name.
        """
        if name == self.name:
            self.by_itself = False
            self._write_again(saved)
            return
        if store.exists(name):
            raise EftError(f"There is a session named {name} already.", "Use another name, or /delete that one first.")
        try:
            lock = store.lock(name)
        except Held as error:
            raise store.open_elsewhere(name, error.pid, "Use another name.") from None
        try:
            file = store.save(name, replace(saved, kept=False))
        except BaseException:
            lock.release()
            raise
        old = None if self.name is None else store.path(self.name)
        self.leave()
        self.name, self._lock, self._last, self._stamp = name, lock, saved, _stamp(file)
        if old is not None:
            with suppress(OSError):
                old.unlink(missing_ok=True)

    def _write_again(self, saved: Saved) -> None:
        assert self.name is not None
        self._last, self._stamp = None, _stamp(store.path(self.name))
        self.save(saved)

    def begin_again(self) -> str | None:
        """Begin a new conversation. Returns the name under which the old one stays, or None if it is not kept.

        Its file stays as it is, and the new turns are kept apart. But where no chat is kept without being asked to, a
        session goes on under its name, and a copy has the old turns.
        """
        if self.name is None or self._last is None or not self._last.answered:
            return None
        if self.keep:
            name = self.name
            self.leave()
            return name
        copy = Record(keep=True)
        copy._like = self.name
        copy.save(self._last)
        name = str(copy.name)
        copy.leave()
        return name


def _stamp(file: Path) -> Stamp | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def opened(name: str | None, *, last: bool = False, keep: bool = True) -> Record:
    """The record of a chat that goes on with the session `name` or, with `last`, with the latest conversation.

    keep  whether anything is written: without it a session is read and stays as it is, and no chat is kept

    Asks whether to go on with a copy if another chat has the session open. Raises EftError, also if there is none.
    """
    record = Record(keep=keep and _typed())
    if last:
        name = next(iter(store.names()), None)
        if name is None:
            raise EftError("No chat is kept on this machine yet.", "Begin one: eftlocal chat")
    if name is None:
        return record
    if not keep:
        record.saved = store.load(name) if store.exists(name) else None
        return record
    try:
        record.open(name)
    except Held as error:
        refused = store.open_elsewhere(name, error.pid, "Leave that chat first, or use another name.")
        if not can_ask() or not store.exists(name):
            raise refused from None
        if not agreed(f"{refused.message} Go on with a copy of it?", default=True):
            raise refused from None
        record.copy_of(name)
    return record


def _typed() -> bool:
    """Whether the user types on a terminal: a piped chat is not kept."""
    return sys.stdin is not None and sys.stdin.isatty()
