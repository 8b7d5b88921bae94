"""Writes the chat's output: answers to stdout (drawn live on a terminal, else as plain text), the rest to stderr."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich.console import Console, RenderableType
from rich.text import Text

from eftlocal.apps.chat.answer import Answer, Mode, Piped, Shown, Source
from eftlocal.apps.chat.columns import Below, Beside, Column, Columns, fits_beside, whole
from eftlocal.apps.chat.live import Live
from eftlocal.apps.chat.markdown import MarkdownStream, PlainStream
from eftlocal.apps.chat.rows import clean
from eftlocal.apps.common import as_wide_as_it_is
from eftlocal.decoding.thinking import ANSWER, Splitter, spoken, thoughts_in
from eftlocal.runtime.remote.troubles import Trouble, told
from eftlocal.runtime.views import Message

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]  # a module elsewhere

__all__ = ["Answer", "Screen", "dumb"]

RECALLED = 400  # characters of a message that `recall` shows


def dumb() -> bool:
    """Whether the terminal cannot move its cursor. A console of Windows can, and has no TERM."""
    return os.environ.get("TERM", "" if os.name == "posix" else "windows") in ("", "dumb", "unknown")


class Screen:
    """The terminal or pipe that the chat writes to. `plain` means no Markdown, colours or cursor movements."""

    def __init__(self, *, plain: bool = False) -> None:
        self.thoughts: Mode = "fold"  # what is shown of an answer's thoughts
        self.plain = plain or dumb() or bool(os.environ.get("NO_COLOR"))
        self.on_terminal = sys.stdout.isatty() and not dumb()
        system: Literal["auto"] | None = None if self.plain else "auto"
        self.notes = as_wide_as_it_is(
            Console(stderr=True, highlight=False, soft_wrap=False, no_color=self.plain or None, color_system=system)
        )
        self._out = as_wide_as_it_is(
            Console(file=sys.stdout, highlight=False, no_color=self.plain or None, color_system=system)
        )

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
            text = clean(spoken(message.content) if message.role == "assistant" else message.content)
            shown = text if len(text) < RECALLED else f"{text[:RECALLED]} …"
            self.notes.print(f"{'>>> ' if message.role == 'user' else ''}{shown}", style="dim", markup=False)

    def retell(self, messages: Sequence[Message]) -> None:
        """Print messages whole, as the chat drew them. On a pipe they go where remarks go."""
        for message in messages:
            if message.role == "user":
                self.notes.print(f"\n>>> {clean(message.content)}", style="bold", markup=False, soft_wrap=True)
                continue
            said, thoughts = spoken(message.content), thoughts_in(message.content)
            if thoughts and self.thoughts == "show":
                self.notes.print(f"{clean(thoughts)}\n", style="dim", markup=False, soft_wrap=True)
            elif thoughts and self.thoughts == "fold":
                self.note(f"thoughts of {len(thoughts.split())} words")
            if self.on_terminal:
                with self.answer(_Told()) as answer:
                    answer.write(said)
            else:
                self.notes.print(clean(said), markup=False, soft_wrap=True)

    def show(self, *renderables: RenderableType) -> None:
        """Print the result of a command."""
        self.notes.print(*(clean(r) if isinstance(r, str) else r for r in renderables), markup=False)

    @contextmanager
    def answer(self, source: Source) -> Iterator[Answer]:
        """Yield an answer to write, and end it even after an error. Typing is not echoed on a terminal meanwhile."""
        if not self.on_terminal:
            answer: Answer = Piped(sys.stdout, source, self.thoughts, self.note)
        else:
            answer = Shown(Live(sys.stdout, self._out), self._stream(), source, self.thoughts, self._out)
        with _silent_keyboard():
            try:
                yield answer
            finally:
                answer.end()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show `text` with a spinner (plain: as a remark) until the context ends; on a pipe show nothing.

        A server that is asked again is told beside it.
        """
        if self.plain or not self.notes.is_terminal:
            if self.notes.is_terminal:
                self.note(text)
            with told(lambda trouble: self.note(str(trouble)) if trouble.reason else None):
                yield
        else:
            with _silent_keyboard(), self.notes.status(Text(clean(text)), spinner="dots") as status:

                def tell(trouble: Trouble) -> None:
                    status.update(Text(clean(str(trouble) if trouble.reason else text)))

                with told(tell):
                    yield

    @contextmanager
    def columns(self, columns: Sequence[Column]) -> Iterator[Columns]:
        """Yield what shows these columns while they grow; at the end, also after an error, all of them stay.

        Off a terminal, and plain, they are shown only at the end.
        """
        shown: Columns
        if self.plain:
            shown = _Blocks(self)
        elif not self.notes.is_terminal:
            shown = _Whole(self)
        else:
            live = Live(sys.stderr, self.notes)
            kind = Beside if fits_beside(len(columns), self.width) else Below
            shown = kind(live, self.notes)
        with _silent_keyboard():
            try:
                with told(lambda trouble: shown.tell(str(trouble) if trouble.reason else "")):
                    yield shown
            finally:
                shown.end(columns)

    def _stream(self) -> PlainStream | MarkdownStream:
        if self.plain:
            return PlainStream()
        return MarkdownStream(self._out, lambda: max(20, self.width - 1))


class _Told:
    """An answer that has been given before, without its thoughts."""

    n_tokens = 0

    def splitter(self) -> Splitter:
        """As Source.splitter."""
        return Splitter(ANSWER)


class _Blocks:
    """Shows columns as blocks of plain text, one below the other."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def draw(self, columns: Sequence[Column]) -> None:
        """Show nothing yet."""

    def tell(self, line: str) -> None:
        if line:
            self._screen.note(line)

    def end(self, columns: Sequence[Column]) -> None:
        for column in columns:
            text = f"{column.thoughts}\n{column.text} {column.end or ''}".strip()
            self._screen.show(f"--- {column.title}\n{text}\n")


class _Whole:
    """Shows columns, laid out for the width, where a terminal cannot draw them while they grow."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def draw(self, columns: Sequence[Column]) -> None:
        """Show nothing yet."""

    def tell(self, line: str) -> None:
        if line:
            self._screen.note(line)

    def end(self, columns: Sequence[Column]) -> None:
        console = self._screen.notes
        for row in whole(columns, console, console.width):
            console.print(Text.assemble(*((text, style or "") for text, style in row)), soft_wrap=True)


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
