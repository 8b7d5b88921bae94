"""Writes the chat's output: answers to stdout (drawn live on a terminal, else as plain text), the rest to stderr."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, TextIO

from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console, RenderableType
from rich.style import Style
from rich.text import Text

from eftlocal.apps.chat.markdown import MarkdownStream, PlainStream, Row, clean
from eftlocal.runtime.views import Message

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]  # a module elsewhere

__all__ = ["Answer", "Screen"]

SHARE = 0.03  # part of the time since the last drawing that drawing may take: less than 5 % of decoding
FRAME_S = 1 / 30  # seconds between two drawings, at least
RECALLED = 400  # characters of a message that `recall` shows


class Answer(Protocol):
    """Shows one answer while it decodes."""

    def write(self, delta: str) -> None:
        """Show more text."""

    def end(self) -> None:
        """Show the rest; later output starts on a new row."""


class Screen:
    """The terminal or pipe that the chat writes to. `plain` means no Markdown, colours or cursor movements."""

    def __init__(self, *, plain: bool = False) -> None:
        dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
        self.plain = plain or dumb or bool(os.environ.get("NO_COLOR"))
        self.on_terminal = sys.stdout.isatty() and not dumb
        system: Literal["auto"] | None = None if self.plain else "auto"
        self.notes = Console(
            stderr=True, highlight=False, soft_wrap=False, no_color=self.plain or None, color_system=system
        )
        self._out = Console(file=sys.stdout, highlight=False, no_color=self.plain or None, color_system=system)

    @property
    def width(self) -> int:
        """The number of columns of the terminal."""
        return os.get_terminal_size(sys.stdout.fileno()).columns if self.on_terminal else self.notes.width

    def note(self, text: str) -> None:
        """Print a remark in parentheses."""
        self.notes.print(f"({clean(text)})", style="dim", markup=False)

    def error(self, error: object) -> None:
        """Print an error, which is one or two lines long."""
        self.notes.print(f"error: {clean(str(error))}", style=None if self.plain else "red", markup=False)

    def recall(self, messages: Sequence[Message]) -> None:
        """Print the last messages of a conversation that is continued, shortened."""
        for message in messages:
            text = clean(message.content)
            shown = text if len(text) < RECALLED else f"{text[:RECALLED]} …"
            self.notes.print(f"{'>>> ' if message.role == 'user' else ''}{shown}", style="dim", markup=False)

    def show(self, *renderables: RenderableType) -> None:
        """Print the result of a command."""
        self.notes.print(*(clean(r) if isinstance(r, str) else r for r in renderables), markup=False)

    @contextmanager
    def answer(self) -> Iterator[Answer]:
        """Yield an answer to write, and end it even after an error. Typing is not echoed on a terminal meanwhile."""
        if not self.on_terminal:
            answer: Answer = _Piped(sys.stdout)
        else:
            answer = _Shown(_Live(sys.stdout, self._out), self._stream())
        with _silent_keyboard():
            try:
                yield answer
            finally:
                answer.end()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show `text` with a spinner (plain: as a remark) until the context ends; on a pipe show nothing."""
        if not self.notes.is_terminal:
            yield
        elif self.plain:
            self.note(text)
            yield
        else:
            with _silent_keyboard(), self.notes.status(Text(clean(text)), spinner="dots"):
                yield

    def _stream(self) -> PlainStream | MarkdownStream:
        if self.plain:
            return PlainStream()
        return MarkdownStream(self._out, lambda: max(20, self.width - 1))


class _Piped:
    """Writes text as it comes, for a reader that is not a terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, delta: str) -> None:
        self._out.write(delta)
        self._out.flush()

    def end(self) -> None:
        self._out.write("\n")
        self._out.flush()


class _Shown:
    """Lays text out into rows and draws them, but not so often that drawing slows decoding down."""

    def __init__(self, live: "_Live", stream: PlainStream | MarkdownStream) -> None:
        self._live = live
        self._stream = stream
        self._pending = ""
        self._next = 0.0  # when it may be drawn again
        live.draw([], [(("…", Style(dim=True)),)])

    def write(self, delta: str) -> None:
        self._pending += delta
        now = time.perf_counter()
        if now >= self._next:
            self._live.draw(*self._stream.push(self._pending))
            self._pending = ""
            done = time.perf_counter()
            self._next = max(now + FRAME_S, done + (done - now) / SHARE)

    def end(self) -> None:
        finished, _ = self._stream.push(self._pending)
        self._pending = ""
        self._live.draw([*finished, *self._stream.finish()], [])


class _Live:
    """The last rows on the terminal: finished rows are written once, open rows again when they change.

    Only changes are written. If the new rows continue the old ones, nothing is erased, so that this cannot go wrong on
    a terminal that was resized meanwhile.
    """

    def __init__(self, out: TextIO, console: Console) -> None:
        self._out = out
        self._console = console
        self._drawn: list[Row] = []  # the open rows on the screen; the cursor is at the end of the last one

    def draw(self, finished: Sequence[Row], live: Sequence[Row]) -> None:
        """Draw the `finished` rows, which stay, and as many of the last `live` rows as fit on the screen."""
        columns, lines = os.get_terminal_size(self._out.fileno())
        shown: list[Row] = []
        room = lines - 1
        for row in reversed(live):
            room -= _height(row, columns)
            if room < 0 and shown:
                break
            shown.insert(0, row)
        rows = [*finished, *shown]
        same = next((i for i, (a, b) in enumerate(zip(self._drawn, rows, strict=False)) if a != b), None)
        if same is None:
            same = min(len(self._drawn), len(rows))
        parts: list[str] = []
        last = len(self._drawn) - 1
        fresh = not self._drawn  # whether the cursor is at the beginning of an empty row
        if self._drawn and same >= last and len(rows) > last and (more := _continuation(self._drawn[last], rows[last])):
            parts.append(self._ansi(more[0]))
            same = last + 1
        elif same <= last:
            same = max(0, min(same, len(rows) - 1))
            up = sum(_height(row, columns) for row in self._drawn[same:]) - 1
            parts.append("\r" + (f"\x1b[{up}A" if up else "") + "\x1b[J")
            fresh = True
        for row in rows[same:]:
            parts.append(self._ansi(row) if fresh else "\r\n" + self._ansi(row))
            fresh = False
        if rows and not shown:
            parts.append("\r\n")
        self._drawn = shown
        if text := "".join(parts):
            self._out.write(text)
            self._out.flush()

    def _ansi(self, row: Row) -> str:
        system = COLOR_SYSTEMS.get(self._console.color_system or "")
        return "".join(style.render(text, color_system=system) if style else text for text, style in row)


def _height(row: Row, columns: int) -> int:
    """The number of screen rows that the row takes when the terminal wraps it."""
    return max(1, -(-sum(cell_len(text) for text, _ in row) // columns))


def _continuation(old: Row, new: Row) -> tuple[Row] | None:
    """What to write after `old` to get `new`, in a tuple of one; None if `new` does not begin with `old`."""
    rest = list(new)
    for text, style in old:
        while text:
            if not rest or rest[0][1] != style:
                return None
            head = rest[0][0]
            n = min(len(head), len(text))
            if head[:n] != text[:n]:
                return None
            text = text[n:]
            rest[0] = (head[n:], style)
            if not rest[0][0]:
                rest.pop(0)
    return (tuple(rest),)


@contextmanager
def _silent_keyboard() -> Iterator[None]:
    """Keep what is typed out of the answer: it is not echoed, and appears at the next prompt. Ctrl-C still works."""
    if termios is None or not sys.stdin.isatty():  # not a terminal, or Windows: nothing to do
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    silent = list(before)
    silent[0] &= ~termios.ICRNL
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(keyboard, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSANOW, before)
