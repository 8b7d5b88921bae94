"""Ctrl-C while llama.cpp's own code runs: a load and a decode stop early, and no callback loses an exception."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = [
    "ABORT",
    "FLAG",
    "Stopped",
    "interruptible",
    "may_decode",
    "raise_from_callback",
    "stop_decoding",
    "survives",
]


class Stopped(KeyboardInterrupt):
    """A decode that `stop_decoding` ended early. Its caches count only what was decoded completely."""


# llama.cpp asks a C function between two operations of a decode whether to go on. A Python function would wait for the
# GIL each time, some hundred times a token. So `strlen` answers: 0 (go on) while FLAG is an empty string, else 1.
ABORT: Final = (ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)).strlen
FLAG: Final = ctypes.create_string_buffer(2)


def stop_decoding() -> None:
    """Let all decodes end early, those that run and those to come, by raising Stopped. Works on the CPU."""
    FLAG[0] = b"1"


def may_decode() -> None:
    """Let decodes run again."""
    FLAG[0] = b"\0"


_raised: list[BaseException] = []  # what Python raised in a callback from C, which cannot let it out


def survives(value: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a callback from C: what it raises is kept for `raise_from_callback`, and C gets `value`."""

    def decorate(callback: Callable[..., Any]) -> Callable[..., Any]:
        def safe(*given: Any) -> Any:
            try:
                return callback(*given)
            except BaseException as error:  # Ctrl-C; ctypes would print it and go on
                _raised.append(error)
                return value

        return safe

    return decorate


def raise_from_callback() -> None:
    """Raise what a callback raised since the last call. Call it where C code has returned."""
    if _raised:
        error = _raised[0]
        _raised.clear()
        raise error


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C came. If it came, raises KeyboardInterrupt at the end.

    Python's own handler raises in whatever Python code runs next. While C code runs, that is a callback. Elsewhere than
    in the main thread, and where Ctrl-C has another handler, this changes nothing.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: bool(_raised)
        raise_from_callback()
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
