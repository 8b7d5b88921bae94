"""Locks a file for one run, so that two runs do not write over each other. The system frees it when a process ends."""

import sys
from typing import BinaryIO

from eftlocal.errors import EftError

__all__ = ["lock"]


def lock(file: BinaryIO, name: str) -> None:
    """Lock the file until it is closed or the process ends. Nothing happens on a file system without locks."""
    busy = EftError(f"{name} is being written by another run.", "Wait for it, or name another output.")
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 62)  # lock a byte that nobody reads, so that the content stays readable
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise busy from None
    else:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:  # a file system without locks
            return
