"""Handles Ctrl-C while the chat runs: once stops an answer, twice within a second leaves the chat."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from eftlocal.apps.chat.ending import Ending
from eftlocal.runtime.llama.interrupt import may_decode, stop_decoding

__all__ = ["AGAIN_S", "Interrupts"]

AGAIN_S = 1.0  # seconds in which a second Ctrl-C leaves


class Interrupts:
    """The handler of SIGINT; use it as a context manager.

    While an answer runs, the first Ctrl-C only sets a flag, so that nothing is interrupted halfway. The handler raises
    KeyboardInterrupt for a second Ctrl-C within `AGAIN_S` seconds (`leaving` is then True), and for one that comes
    within `raising()`. SIGTERM and SIGHUP are `ending`'s.

    While llama.cpp decodes, the main thread cannot run a handler. So another thread ends the decode that runs, of an
    answer; then the handler runs.
    """

    def __init__(self, *, escapes: bool = True) -> None:
        self.ending = Ending(interrupted=self._end_decode, escapes=escapes)
        self._lock = threading.Lock()  # never taken in the handler, which could wait for itself
        self.leaving = False
        self.reading = False
        self._answering = False
        self._asked = False
        self._stopped = -AGAIN_S

    def __enter__(self) -> Self:
        self._before: Any = signal.signal(signal.SIGINT, self._handle)
        self.ending.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ending.__exit__(kind, error, trace)
        signal.signal(signal.SIGINT, self._before)

    def answering(self, running: bool) -> None:
        """Say whether an answer is running from now on; this also clears the request to stop."""
        with self._lock:
            self._answering, self._asked = running, False
            may_decode()

    def _end_decode(self) -> None:
        with self._lock:
            if self._answering:
                stop_decoding()

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within this context Ctrl-C raises KeyboardInterrupt at once; for waiting and for reading a line."""
        self.reading = True
        try:
            yield
        finally:
            self.reading = False

    def asked(self) -> bool:
        """Whether Ctrl-C asked the running answer to stop. If not, decodes run (again)."""
        if not self._asked:
            with self._lock:  # the other thread may have acted late, on a Ctrl-C from before the answer
                may_decode()
        return self._asked

    def again(self) -> bool:
        """Whether an answer was stopped less than `AGAIN_S` seconds ago, so that Ctrl-C now leaves."""
        return time.monotonic() - self._stopped < AGAIN_S

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.again():
            self.leaving = True
            raise KeyboardInterrupt
        if self.reading:
            raise KeyboardInterrupt
        if self._answering:
            self._asked, self._stopped = True, time.monotonic()
