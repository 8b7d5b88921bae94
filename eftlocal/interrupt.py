"""Ctrl-C in the program: it ends the process at once, or it asks the task that runs to stop.

Python's own handler raises KeyboardInterrupt. While C code runs it waits for its end; and where Python cannot raise (in
a callback from C, while an object is freed) it prints the exception and goes on. So the program has handlers of its own
that raise nothing, and a thread that acts while C code keeps the main thread busy.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

__all__ = ["INTERRUPTED", "Asked", "asked", "before_leaving", "leave_at_ctrl_c", "raising"]

INTERRUPTED: Final = 130  # exit code
PATIENCE_S: Final = 0.03  # after this time without its handler, the main thread is in C code
DEAF_S: Final = 0.5  # for C code to come back after it was told to stop; making a KV cache cannot hear it
GRACE_S: Final = 1.0  # for a task to stop after it was asked

_last: list[Callable[[], None]] = []  # what is called before the process ends
_handled = 0.0  # when the main thread handled a Ctrl-C last
_watching = False


def leave_at_ctrl_c() -> None:
    """Let Ctrl-C end the process at once from now on, with exit code 130. A process that ignores Ctrl-C still does."""
    global _watching
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, _leave)
    if _watching or sys.platform == "win32":  # there, Python would need a socket to wake the thread
        return
    _watching = True
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reads,), name="eftlocal-ctrl-c", daemon=True).start()


@contextmanager
def before_leaving(call: Callable[[], None]) -> Iterator[None]:
    """Within this context, call `call` before Ctrl-C ends the process."""
    _last.append(call)
    try:
        yield
    finally:
        _last.remove(call)


@contextmanager
def raising() -> Iterator[None]:
    """Within this context, Ctrl-C raises KeyboardInterrupt, as in any Python program."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Asked:
    """Whether Ctrl-C asked a task to stop. Set `writing` while the task may wait for whoever reads its output."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.writing = False
        self.before: Any = _leave  # the handler for a second Ctrl-C
        self._tell = tell
        self._set = self._told = False

    def is_set(self) -> bool:
        """Whether the task should stop."""
        return self._set

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of Ctrl-C: the first one asks, a second one does what the handler before did."""
        global _handled
        _handled = time.monotonic()
        if self._set or self.writing:
            self.before(number, frame)
        self._set = True
        self.tell()

    def tell(self) -> bool:
        """Tell whatever the task waits for; also from another thread. Returns False if that was done before."""
        told, self._told = self._told, True
        if not told:
            self._tell()
        return not told


@contextmanager
def asked(tell: Callable[[], None]) -> Iterator[Asked]:
    """Within this context Ctrl-C asks the task to stop; a second one does what Ctrl-C did before.

    In a program of `leave_at_ctrl_c`, that ends the process, and so does a task that does not stop within a second.
    `tell` is called once, in the handler or in another thread, for what keeps the task from looking.
    """
    task = Asked(tell)
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield task
        return
    task.before = signal.signal(signal.SIGINT, task.handle)
    try:
        yield task
    finally:
        signal.signal(signal.SIGINT, task.before)


def _leave(*_: object) -> NoReturn:
    """End the process. What was written so far stays; what Python still holds in a buffer is lost."""
    for call in reversed(_last):
        with suppress(Exception):
            call()
    os._exit(INTERRUPTED)


def _watch(reads: int) -> None:
    """Act on each Ctrl-C that the main thread does not see, since C code runs there. Runs in a thread of its own."""
    stopping: Asked | None = None  # the task that was asked to stop
    came = 0.0  # when it was asked
    while True:
        if select.select([reads], [], [], None if stopping is None else 0.05)[0]:
            before = signal.getsignal(signal.SIGINT)
            time.sleep(PATIENCE_S)
            n, after = os.read(reads, 64).count(signal.SIGINT), signal.getsignal(signal.SIGINT)
            task, busy = _task(), time.monotonic() - _handled > 3 * PATIENCE_S
            if n and busy and before is after is _leave:  # a task that has just ended was asked by this Ctrl-C
                _leave()
            if n and busy and task is not None and (n > 1 or not task.tell()):
                _leave()
            if n and task is not stopping:
                stopping, came = task, time.monotonic() - PATIENCE_S
        elif stopping is not None and stopping is not _task():
            stopping = None
        elif time.monotonic() - came > (GRACE_S if _handled >= came - PATIENCE_S else DEAF_S):
            _leave()


def _task() -> Asked | None:
    """The task that Ctrl-C asks to stop; None if it does something else."""
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, Asked) else None
