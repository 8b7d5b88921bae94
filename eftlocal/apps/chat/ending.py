"""Ends the chat when its terminal is closed or the system asks for it, whatever the main thread does at that time.

Python runs a signal's handler only in the main thread, between two bytecodes. That thread may be in C code for long: in
llama_decode, while a model loads, or in a write to a terminal that takes nothing. But Python's C code writes a byte to
a socket at once. A thread of its own reads it, saves what is there, puts the terminal back, and ends the process. While
prompt_toolkit reads a line, its event loop has a socket of its own in that place. But then the main thread runs Python,
so the handler runs too, and writes the byte to ours.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Final, Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]  # a module elsewhere

__all__ = ["Ending"]

SIGNALS: Final = ("SIGTERM", "SIGHUP", "SIGBREAK")  # SIGBREAK: a console that is closed on Windows
SAVE_S: Final = 1.5  # for saving; the process ends then
LAST_S: Final = 2  # when the system ends it, if nothing else did
CHILD_S: Final = 0.5  # for a child, such as the editor, to end by itself
# No bracketed paste, no mouse, a cursor, no colour; a new row, and nothing below it.
SANE: Final = "\x1b[?2004l\x1b[?1000l\x1b[?25h\x1b[0m\r\n\x1b[J"


class Ending:
    """The handling of SIGTERM and SIGHUP; use it as a context manager in the main thread.

    save         is called in another thread before the process ends
    interrupted  is called in another thread for each Ctrl-C that came outside of prompt_toolkit
    escapes      whether the terminal understands escape sequences
    """

    def __init__(
        self,
        save: Callable[[], None] = lambda: None,
        interrupted: Callable[[], None] = lambda: None,
        *,
        escapes: bool = True,
    ) -> None:
        self.save = save
        self._interrupted = interrupted
        self._escapes = escapes
        self._child: subprocess.Popen[Any] | None = None
        self._modes: tuple[int, list[Any]] | None = None
        self._began = False

    def __enter__(self) -> Self:
        self._modes = _modes()
        self._reads, self._writes = socket.socketpair()
        self._writes.setblocking(False)
        self._before: dict[int, Any] = {}
        for number in (getattr(signal, name, None) for name in SIGNALS):
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
                self._before[number] = signal.signal(number, self._handle)
        self._wakeup = signal.set_wakeup_fd(self._writes.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="eftlocal-ending", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._began:  # the terminal has gone, which the main thread noticed, too
            time.sleep(LAST_S)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._writes.close()  # which ends the thread

    def arm(self) -> None:
        """Take the signals' bytes again, after an event loop has had them. In the main thread only."""
        signal.set_wakeup_fd(self._writes.fileno(), warn_on_full_buffer=False)

    @contextmanager
    def child(self, process: "subprocess.Popen[Any]") -> Iterator[None]:
        """Within this context the process ends with this one."""
        self._child = process
        try:
            yield
        finally:
            self._child = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._began = True
        with suppress(OSError):
            self._writes.send(bytes([number]))

    def _watch(self) -> None:
        with self._reads:
            while data := self._reads.recv(64):
                for number in data:
                    if number == signal.SIGINT:
                        self._interrupted()
                    if number in self._before:
                        self._end(number)

    def _end(self, number: int) -> None:
        """Save, put the terminal back, and end the process. Returns never."""
        self._began = True
        if hasattr(signal, "alarm"):
            signal.alarm(LAST_S)  # whose default is the end: for the case that no Python code runs any more
        threading.Thread(target=self._leave_after, args=(SAVE_S, 128 + number), daemon=True).start()
        child = self._child
        if child is not None:
            with suppress(OSError):
                child.terminate()
        with suppress(BaseException):
            self.save()
        if child is not None:
            with suppress(OSError, subprocess.TimeoutExpired):
                child.wait(CHILD_S)
            with suppress(OSError):
                child.kill()
        with suppress(BaseException):
            self._restore()
        os._exit(128 + number)

    def _leave_after(self, seconds: float, code: int) -> None:
        time.sleep(seconds)
        if self._child is not None:
            with suppress(OSError):
                self._child.kill()
        os._exit(code)

    def _restore(self) -> None:
        """Give the terminal back as it was. It may be gone, or take nothing, or belong to another program by now."""
        if self._modes is None or termios is None:
            return
        fd, modes = self._modes
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # else a chat in the background would be stopped
        termios.tcsetattr(fd, termios.TCSANOW, modes)
        out = next((file for file in (sys.stdout, sys.stderr) if file is not None and file.isatty()), None)
        if self._escapes and out is not None and select.select([], [out.fileno()], [], 0)[1]:
            os.write(out.fileno(), SANE.encode())


def _modes() -> tuple[int, list[Any]] | None:
    if termios is None or sys.stdin is None or not sys.stdin.isatty():
        return None
    try:
        return sys.stdin.fileno(), termios.tcgetattr(sys.stdin.fileno())
    except (OSError, ValueError, termios.error):
        return None
