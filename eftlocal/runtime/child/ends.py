"""Why a child process ended: what it wrote last, or how."""

import os
import signal
from typing import IO, Final

__all__ = ["how", "last_words"]

TELLING: Final = ("GGML_ASSERT", "what():", ".cpp:", ".c:", ".cu:", "Error")  # what llama.cpp, C++ and Python write
ENOUGH: Final = 1 << 16  # bytes of the end that are read
LONGEST: Final = 300  # characters


def last_words(written: IO[bytes]) -> str | None:
    """The last line of what a process wrote that says what went wrong; None if there is none."""
    size = written.seek(0, os.SEEK_END)
    written.seek(max(0, size - ENOUGH))
    lines = written.read().decode("utf-8", "replace").splitlines()
    said = [line for line in lines if any(word in line for word in TELLING)]
    return said[-1].rpartition("/")[2].strip()[:LONGEST] if said else None


def how(code: int) -> str:
    """In words, the exit code of a process; a negative one is that of a signal."""
    if code == -getattr(signal, "SIGKILL", 9):
        return "it was killed, perhaps since memory ran out"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
