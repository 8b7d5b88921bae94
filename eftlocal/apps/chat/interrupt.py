"""Ctrl-C, for as long as the chat runs: it stops an answer, and twice within a second it leaves."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["AGAIN_S", "Interrupts"]

AGAIN_S = 1.0


class Interrupts:
    """The handler of SIGINT. While an answer runs the first one is only noted, so that nothing is torn apart.

    Raises KeyboardInterrupt for the second one within `AGAIN_S` (`leaving` is then True), and for one that comes while
    a line is read without an editor.
    """

    def __init__(self) -> None:
        self.leaving = False
        self.reading = False
        self._answering = False
        self._asked = False
        self._stopped = -AGAIN_S

    def __enter__(self) -> Self:
        self._before: dict[int, Any] = {signal.SIGINT: signal.signal(signal.SIGINT, self._handle)}
        for name in ("SIGTERM", "SIGHUP"):  # the terminal is put back, and nothing is lost
            if (number := getattr(signal, name, None)) is not None:
                self._before[number] = signal.signal(number, _end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def answering(self, running: bool) -> None:
        """An answer begins or has ended."""
        self._answering, self._asked = running, False

    @contextmanager
    def raising(self) -> Iterator[None]:
        """A wait that Ctrl-C ends at once, by KeyboardInterrupt."""
        self.reading = True
        try:
            yield
        finally:
            self.reading = False

    def asked(self) -> bool:
        """Whether the answer is to stop."""
        return self._asked

    def again(self) -> bool:
        """Whether an answer was stopped less than a second ago: Ctrl-C now leaves."""
        return time.monotonic() - self._stopped < AGAIN_S

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.again():
            self.leaving = True
            raise KeyboardInterrupt
        if self.reading:
            raise KeyboardInterrupt
        if self._answering:
            self._asked, self._stopped = True, time.monotonic()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
