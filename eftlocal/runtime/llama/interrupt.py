"""Ctrl-C while llama.cpp's own code runs: it is remembered, and raised when that code has returned."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C came. If it came, raises KeyboardInterrupt at the end.

    Python's own handler raises in whatever Python code runs next. While C code runs, that is a callback, and ctypes
    prints and forgets what a callback raises. Elsewhere than in the main thread, and where Ctrl-C has another handler,
    nothing raises, and this changes nothing.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    came = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came.is_set():
            raise KeyboardInterrupt
