"""Draws the last rows on the terminal, and draws them again when they change. It also says when to draw."""

import os
import time
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console

from eftlocal.apps.chat.rows import Row

__all__ = ["Live", "Pace"]

SHARE = 0.03  # part of the time since the last drawing that drawing may take: less than 5 % of decoding
FRAME_S = 1 / 30  # seconds between two drawings, at least


class Pace:
    """Says when to draw again: at most every FRAME_S seconds, and not so often that drawing slows decoding down."""

    def __init__(self) -> None:
        self._began = self._next = 0.0

    def due(self) -> bool:
        """Whether to draw now. If so, call `drawn` after it."""
        self._began = time.perf_counter()
        return self._began >= self._next

    def drawn(self) -> None:
        """Take the time that drawing took into account."""
        done = time.perf_counter()
        self._next = max(self._began + FRAME_S, done + (done - self._began) / SHARE)


class Live:
    """The last rows on the terminal: finished rows are written once, open rows again when they change.

    Only changes are written. If the new rows continue the old ones, nothing is erased, so that this cannot go wrong on
    a terminal that was resized meanwhile.
    """

    def __init__(self, out: TextIO, console: Console) -> None:
        self._out = out
        self._console = console
        self._drawn: list[Row] = []  # the open rows on the screen; the cursor is at the end of the last one

    @property
    def size(self) -> os.terminal_size:
        """The terminal's columns and lines."""
        return os.get_terminal_size(self._out.fileno())

    def draw(self, finished: Sequence[Row], live: Sequence[Row]) -> None:
        """Draw the `finished` rows, which stay, and as many of the last `live` rows as fit on the screen."""
        columns, lines = self.size
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
