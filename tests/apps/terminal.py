"""Runs a program in a pseudo-terminal with a terminal emulator, to see what a user sees on the screen and above it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pexpect
import pyte

ROOT = Path(__file__).parents[2]
PASTE = ("\x1b[200~", "\x1b[201~")
CTRL_C, CTRL_D, ENTER, ALT_ENTER = "\x03", "\x04", "\r", "\x1b\r"


class Terminal:
    """A program that runs in a terminal of `columns` x `lines`. `text` is the scrollback and the screen."""

    def __init__(
        self, *command: str, data: Path, columns: int = 80, lines: int = 24, term: str = "xterm-256color", **more: str
    ) -> None:
        env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        env |= {"TERM": term, "XDG_DATA_HOME": str(data), "PYTHONPATH": str(ROOT), **more}
        self.screen = pyte.HistoryScreen(columns, lines, history=20_000, ratio=0.5)
        self.screen.write_process_input = self._answer  # type: ignore[method-assign]  # pyte's own way
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(
            sys.executable, list(command), env=env, dimensions=(lines, columns), timeout=20, cwd=str(ROOT)
        )
        self.child.delaybeforesend = None

    def _answer(self, data: str) -> None:
        """Send the terminal's own answers to the program, such as the position of the cursor."""
        if self.child.isalive():
            self.child.send(data)

    def send(self, text: str) -> None:
        self.child.send(text)

    def enter(self, text: str) -> None:
        """Type a line, wait for its echo, and press Enter. A pause before Enter is what a user makes."""
        self.send(text)
        self.until(lambda: text.rstrip()[-20:] in self.text.replace("\n", ""), f"the echo of {text!r}")
        self.send(ENTER)

    def pump(self, seconds: float = 0.05) -> None:
        """Read what the program writes in this time, and show it on the screen."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                data: Any = self.child.read_nonblocking(65536, timeout=min(left, 0.05))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                return
            self.raw += data
            self._stream.feed(data)

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 20) -> None:
        """Wait until `holds()` is true. Fails after `seconds`, and says that `what` did not come."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"{what} did not come:\n{self.text}"
            self.pump(0.03)

    def wait(self, text: str, seconds: float = 20) -> None:
        """Wait until the text is on the screen or above it."""
        self.until(lambda: text in self.text, repr(text), seconds)

    def prompt(self, number: int, seconds: float = 20) -> None:
        """Wait until the `number`-th prompt is empty on the cursor's row."""
        self.until(lambda: self.at_prompt(number), f"prompt {number}", seconds)

    def at_prompt(self, number: int) -> bool:
        """Whether the `number`-th prompt or a later one waits for input."""
        row = self.screen.display[self.screen.cursor.y].rstrip()
        return row == ">>>" and self.text.count("\n>>>") + self.text.startswith(">>>") >= number

    def resize(self, columns: int, lines: int) -> None:
        self.child.setwinsize(lines, columns)
        self.screen.resize(lines, columns)

    @property
    def above(self) -> list[str]:
        """The rows that have scrolled off the top of the screen."""
        width = self.screen.columns
        return [
            "".join(row[x].data for x in range(max(width, *row, 0) if row else width)).rstrip()
            for row in self.screen.history.top
        ]

    @property
    def text(self) -> str:
        return "\n".join([*self.above, *(row.rstrip() for row in self.screen.display)])

    def close(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        end = time.monotonic() + 10
        while self.child.isalive() and time.monotonic() < end:
            self.pump(0.02)
        self.pump(0.02)
        self.child.close()
        assert self.child.exitstatus is not None, f"ended by signal {self.child.signalstatus}:\n{self.text}"
        return int(self.child.exitstatus)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
        self.child.close(force=True)


def fake(data: Path, *arguments: str, **options: Any) -> Terminal:
    """The chat over the scripted emulator, in a terminal."""
    return Terminal("-m", "tests.apps.fake", *arguments, data=data, **options)
