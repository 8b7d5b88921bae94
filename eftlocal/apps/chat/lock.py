"""Locks a session for one chat, so that two chats cannot write over each other's turns.

The system holds the lock and frees it when the process ends, however it ends. After kill -9 the lock's file stays
behind, and means nothing.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module elsewhere
    import msvcrt

__all__ = ["Held", "Lock"]

FAR = 1 << 20  # on Windows a locked byte cannot be read, so one is locked behind the text
TAKEN = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


class Held(Exception):  # noqa: N818  # it is not an error: another chat has the session
    """Another process has the lock. `pid` is its process id, or None if that is not known."""

    def __init__(self, pid: int | None) -> None:
        super().__init__()
        self.pid = pid


class Lock:
    """A lock that this process holds, until `release` or its end."""

    def __init__(self, path: Path, fd: int | None) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def take(cls, path: Path) -> Self:
        """Lock `path`, a file that is made for this. Raises Held if another process, or this one, has locked it.

        On a file system without locks, or where the file cannot be made, nothing is locked and nothing is raised.
        """
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError:
                return cls(path, None)
            try:
                _lock(fd)
            except OSError as error:
                pid = _pid(fd)
                os.close(fd)
                if error.errno in TAKEN:
                    raise Held(pid) from None
                return cls(path, None)
            if _is(path, fd):
                break
            os.close(fd)  # whoever had it removed the file meanwhile
        with suppress(OSError):
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        return cls(path, fd)

    def release(self) -> None:
        """Free the lock and remove its file."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        with suppress(OSError):
            self._path.unlink()  # while it is locked, so that nobody else's file is removed; Windows refuses
        with suppress(OSError):
            os.close(fd)
        if fcntl is None:
            with suppress(OSError):
                self._path.unlink()


def _lock(fd: int) -> None:
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    os.lseek(fd, FAR, os.SEEK_SET)
    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # only on Windows
    os.lseek(fd, 0, os.SEEK_SET)


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False


def _pid(fd: int) -> int | None:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        return int(os.read(fd, 32))
    except (OSError, ValueError):
        return None
