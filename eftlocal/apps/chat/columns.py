"""Draws several answers that decode together: side by side where the width allows it, else one below the other."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from eftlocal.apps.chat.live import Live, Pace
from eftlocal.apps.chat.markdown import MarkdownStream
from eftlocal.apps.chat.rows import Row, clean

__all__ = ["NARROW", "Below", "Beside", "Column", "Columns", "fits_beside", "whole"]

NARROW = 34  # columns of the terminal that an answer needs to stand beside another
GAP = 2  # columns between two answers
LEAST = 3  # rows of each answer that are shown while they grow, also on the lowest terminal
DIM, TITLE = Style(dim=True), Style(bold=True)


@dataclass(slots=True, eq=False)
class Column:
    """One answer under its title.

    text     what it says so far, without its thoughts
    tokens   how many it has so far
    thought  how many of them are thoughts
    end      a remark on how it ended ("" for none); None while it is not ended
    """

    title: str
    text: str = ""
    tokens: int = 0
    thought: int = 0
    end: str | None = None

    @property
    def thoughts(self) -> str:
        """A remark on its thoughts; "" if it has none."""
        if not self.thought:
            return ""
        return f"(thought: {self.thought} tokens)" if self.text or self.end is not None else "thinking …"


class Columns(Protocol):
    """Shows columns while they grow."""

    def draw(self, columns: Sequence[Column]) -> None:
        """Show their texts now, if it is time."""

    def tell(self, line: str) -> None:
        """Show a remark below them, from any thread; "" takes it away where it can be taken away."""

    def end(self, columns: Sequence[Column]) -> None:
        """Show all of them whole, for good."""


def fits_beside(n: int, width: int) -> bool:
    """Whether `n` answers can stand side by side in so many columns of the terminal."""
    return width >= NARROW * n


def whole(columns: Sequence[Column], console: Console, width: int) -> list[Row]:
    """All rows of the answers that ended, side by side if they fit."""
    if not fits_beside(len(columns), width):
        return [row for column in columns for row in _section(column, console, width)]
    own = _own(len(columns), width)
    bodies = []
    for column in columns:
        body = _Body(console, own)
        body.grow(column.text)
        bodies.append(_remarked(body.all(), column, console, own))
    return _beside([column.title for column in columns], bodies, own)


class _Growing:
    """Draws columns, and a remark below them."""

    def __init__(self, live: Live, console: Console) -> None:
        self._live, self._console = live, console
        self._pace, self._began = Pace(), time.monotonic()
        self._lock = threading.Lock()  # a member's thread may tell of its server
        self._open: Sequence[Row] = ()  # rows that are drawn again

    def tell(self, line: str) -> None:
        """As Columns.tell."""
        with self._lock:
            self._live.draw([], [*self._open, ((clean(line), DIM),)] if line else self._open)

    def _draw(self, finished: Sequence[Row], growing: Sequence[Row]) -> None:
        with self._lock:
            self._open = growing
            self._live.draw(finished, growing)


class Beside(_Growing):
    """Draws the answers side by side. While they grow, each shows its last rows, so that all fit on the screen."""

    def __init__(self, live: Live, console: Console) -> None:
        super().__init__(live, console)
        self._bodies: list[_Body] = []

    def draw(self, columns: Sequence[Column]) -> None:
        """As Columns.draw."""
        if not self._pace.due():
            return
        width, lines = self._live.size
        if not self._bodies:
            self._own = _own(len(columns), width)
            self._bodies = [_Body(self._console, self._own) for _ in columns]
        room = max(LEAST, lines - 4)  # titles, rule, status, and the row that the cursor may need
        for column, body in zip(columns, self._bodies, strict=True):
            body.grow(column.text)
        bodies = [
            _remarked(body.last(room), column, self._console, self._own)[-room:]
            for column, body in zip(columns, self._bodies, strict=True)
        ]
        rows = _beside([column.title for column in columns], bodies, self._own)
        self._draw([], [*rows, _status(columns, time.monotonic() - self._began, width)])
        self._pace.drawn()

    def end(self, columns: Sequence[Column]) -> None:
        """As Columns.end."""
        self._draw(whole(columns, self._console, self._live.size[0]), [])


class Below(_Growing):
    """Draws each answer when it has ended, one below the other, and a row for each that is still growing."""

    def __init__(self, live: Live, console: Console) -> None:
        super().__init__(live, console)
        self._done: set[Column] = set()

    def draw(self, columns: Sequence[Column]) -> None:
        """As Columns.draw."""
        ended = [column for column in columns if column.end is not None and column not in self._done]
        if not ended and not self._pace.due():
            return
        width, _ = self._live.size
        self._done.update(ended)
        running = [_progress(column, width) for column in columns if column not in self._done]
        status = [_status(columns, time.monotonic() - self._began, width)] if running else []
        self._draw([row for c in ended for row in _section(c, self._console, width)], [*running, *status])
        self._pace.drawn()

    def end(self, columns: Sequence[Column]) -> None:
        """As Columns.end."""
        rest = [column for column in columns if column not in self._done]
        width, _ = self._live.size
        self._draw([row for column in rest for row in _section(column, self._console, width)], [])


class _Body:
    """The rows of one growing text, which are at most `width` wide."""

    def __init__(self, console: Console, width: int) -> None:
        self._stream, self._width = MarkdownStream(console, lambda: width), width
        self._length = 0  # characters that were laid out
        self._done: list[Row] = []
        self._open: list[Row] = []

    def grow(self, text: str) -> None:
        """Lay out what the text has more than before."""
        if len(text) > self._length:
            finished, self._open = self._stream.push(text[self._length :])
            self._done += finished
            self._length = len(text)

    def last(self, n: int) -> list[Row]:
        """The last `n` rows, or fewer."""
        rows = [part for row in [*self._done[-n:], *self._open] for part in _folded(row, self._width)]
        return rows[-n:]

    def all(self) -> list[Row]:
        """All rows. The text does not grow any more."""
        return [part for row in [*self._done, *self._stream.finish()] for part in _folded(row, self._width)]


def _own(n: int, width: int) -> int:
    """The width of each of `n` answers side by side. The terminal's last column stays free."""
    return (width - 1 - GAP * (n - 1)) // n


def _beside(titles: Sequence[str], bodies: Sequence[Sequence[Row]], own: int) -> list[Row]:
    heads: list[Row] = [((set_cell_size(clean(title), min(own, cell_len(title))), TITLE),) for title in titles]
    rule: Row = (("─" * own, DIM),)
    rows: list[tuple[Row, ...]] = [tuple(heads), (rule,) * len(titles), *zip_longest(*bodies, fillvalue=())]
    return [_joined(cells, own) for cells in rows]


def _joined(cells: Sequence[Row], own: int) -> Row:
    """Cells of one row, filled up to their width; nothing is filled behind the last text."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    parts: list[tuple[str, Style | None]] = []
    for i, cell in enumerate(cells):
        parts += cell
        if i < len(cells) - 1:
            parts.append((" " * (own + GAP - _width(cell)), None))
    return tuple(parts)


def _section(column: Column, console: Console, width: int) -> list[Row]:
    """One answer in the whole width, with its title in a rule above it and an empty row below it."""
    title = f"{clean(column.title)} "
    rule = "─" * max(0, width - 4 - cell_len(title))
    body = _Body(console, max(20, width - 1))
    body.grow(column.text)
    return [(("── ", DIM), (title, TITLE), (rule, DIM)), *_remarked(body.all(), column, console, width - 1), ()]


def _remarked(rows: Sequence[Row], column: Column, console: Console, width: int) -> list[Row]:
    """The rows with what is to be said about the thoughts above them, and about the end behind or below the last."""
    above: list[Row] = [((column.thoughts, DIM),)] if column.thoughts else []
    if not column.end:
        return [*above, *rows]
    if rows and _width(rows[-1]) + 1 + cell_len(column.end) <= width:
        return [*above, *rows[:-1], (*rows[-1], (f" {column.end}", DIM))]
    words = Text(column.end, DIM).wrap(console, width)
    return [*above, *rows, *(((line.plain.rstrip(), DIM),) for line in words)]


def _progress(column: Column, width: int) -> Row:
    """A row on an answer that has not ended: its title, its tokens and its last words."""
    title = f"{clean(column.title)}  "
    count = f"{column.tokens} tokens  " if column.tokens else "…"
    words = " ".join(clean(column.text[-width:]).split()) or column.thoughts
    room = width - 1 - cell_len(title + count)
    while words and cell_len(words) > room:
        words = words[1:]
    return ((title, TITLE), (count, DIM), (words, DIM)) if words else ((title, TITLE), (count, DIM))


def _status(columns: Sequence[Column], seconds: float, width: int) -> Row:
    ended, tokens = sum(column.end is not None for column in columns), sum(column.tokens for column in columns)
    doing = f"{tokens} tokens" if tokens else "reading the prompt"
    text = f"{ended} of {len(columns)} ended · {doing} · {seconds:.0f} s · Ctrl-C stops them"
    return ((set_cell_size(text, min(width - 1, cell_len(text))), DIM),)


def _width(row: Row) -> int:
    return sum(cell_len(text) for text, _ in row)


def _folded(row: Row, width: int) -> list[Row]:
    """The row as several rows of at most this width: code is not wrapped when it is laid out."""
    if _width(row) <= width:
        return [row]
    rows: list[Row] = []
    line: list[tuple[str, Style | None]] = []
    for text, style in row:
        while text:
            left = width - _width(tuple(line))
            head = text if cell_len(text) <= left else chop_cells(text, left)[0] if left else ""
            if line and (not head or cell_len(head) > left):  # it has no room on this line
                rows.append(tuple(line))
                line = []
                continue
            line.append((head, style))
            text = text[len(head) :]
    return [*rows, tuple(line)]
