"""Streamed Markdown: a text that grows -> rows of the terminal, each either finished or still open.

A piece (a line of a paragraph, a list item, a heading, a table, a fence) is finished when the next one begins. Its
rows never change after that. The text behind the last finished piece is the tail; it is laid out again with every
delta. rows.py does the layout; this module decides what is final before the text has ended.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.syntax import Syntax

from eftlocal.apps.chat.rows import PARSER, Row, clean, layout, plain, row

__all__ = ["MarkdownStream", "PlainStream"]

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*$")
_SPECIAL = re.compile(r" {4}|\s*([-*+>#|`~=_<:]|\d+[.)])")  # begins a line that may not be a paragraph
_MARK = re.compile(r"\\.|`+|\*{1,3}|_{1,3}|~~|!?\[|\]\([^()\s]*\)|\]", re.DOTALL)
_WORD = re.compile(r"\w")
LONG_CODE = 60  # lines of a fence that are highlighted together; a longer fence is finished in parts


class PlainStream:
    """The rows of a text that comes in deltas, without Markdown."""

    def __init__(self) -> None:
        self._tail = ""

    def push(self, delta: str) -> tuple[list[Row], list[Row]]:
        """The rows that `delta` finished, and all rows that are open now."""
        *lines, self._tail = (self._tail + clean(delta)).split("\n")
        return [plain(line) for line in lines], [plain(self._tail)]

    def finish(self) -> list[Row]:
        """The rows that were still open."""
        return [plain(self._tail)] if self._tail else []


class MarkdownStream:
    """The rows of a Markdown text that comes in deltas.

    `width` is called when a piece begins, and the piece keeps this width: rows that are on the screen already must not
    change when the terminal is resized.
    """

    def __init__(self, console: Console, width: Callable[[], int]) -> None:
        self._console = console
        self._ask_width = width
        self._width = width()
        self._tail = ""
        self._opening: str | None = None  # the first line of a long fence, if the tail begins inside of it
        self._given = 0  # rows of the tail's first piece that were returned as finished
        self._begun = False  # whether there are rows above the tail

    def push(self, delta: str) -> tuple[list[Row], list[Row]]:
        """The rows that `delta` finished, and all rows that are open now."""
        self._tail += clean(delta)
        finished: list[Row] = []
        if "\n" in delta:
            finished = self._finish_pieces()
        pieces = self._pieces(self._tail)
        rows = [each for i, piece in enumerate(pieces) for each in self._rows(piece, i, live=i == len(pieces) - 1)]
        if len(pieces) == 1:
            stable = self._stable(pieces[0], rows)
            finished += rows[self._given : stable]
            self._given = max(self._given, stable)
            self._begun = self._begun or bool(self._given)
        return finished, rows[self._given :]

    def finish(self) -> list[Row]:
        """The rows that were still open."""
        return [each for piece in self._pieces(self._tail) for each in self._take(piece)]

    # --- where a piece ends -------------------------------------------------------------------------------------------

    def _finish_pieces(self) -> list[Row]:
        whole = self._tail[: self._tail.rfind("\n") + 1]  # the last line may still change its meaning
        finished: list[Row] = []
        for piece in self._pieces(whole)[:-1]:
            finished += self._take(piece)
        if self._opening is None and _fence(self._tail) and not _is_closed(self._tail.lstrip("\n")):
            opening, _, code = self._tail.lstrip("\n").partition("\n")
            if code.count("\n") > LONG_CODE:
                cut = len(self._tail) - len(code)
                finished += self._take(self._tail[: cut + code.rfind("\n") + 1])
                self._opening = opening
        elif self._opening is not None and self._tail.count("\n") > LONG_CODE:
            finished += self._take(self._tail[: self._tail.rfind("\n") + 1], inside=True)
        return finished

    def _take(self, piece: str, *, inside: bool = False) -> list[Row]:
        """The rows of the first piece that were not returned yet, as finished; the tail now begins behind it."""
        rows = self._rows(piece, 0)[self._given :]
        self._tail = self._tail[len(piece) :]
        self._given, self._width = 0, self._ask_width()
        self._begun = self._begun or bool(rows)
        if not inside:
            self._opening = None
        return rows

    def _pieces(self, source: str) -> list[str]:
        """The source, cut where its pieces begin. Blank lines belong to the piece below them."""
        lines = source.splitlines(keepends=True)
        if self._opening is not None:
            end = _closing(self._opening, lines)
            if end is None:
                return [source] if source else []
            head, rest = "".join(lines[: end + 1]), "".join(lines[end + 1 :])
            opening, self._opening = self._opening, None
            try:
                return [head, *self._pieces(rest)]
            finally:
                self._opening = opening
        starts = sorted(set(_starts(source, lines)))
        cuts = [0]
        for start in starts[1:]:
            while start > 0 and not lines[start - 1].strip():
                start -= 1
            if start > cuts[-1]:
                cuts.append(start)
        pieces = ["".join(lines[a:b]) for a, b in zip(cuts, [*cuts[1:], len(lines)], strict=True)]
        return [piece for piece in pieces if piece]

    # --- layout -------------------------------------------------------------------------------------------------------

    def _rows(self, piece: str, index: int, *, live: bool = False) -> list[Row]:
        """The rows of one piece, the `index`-th of the tail; `live` says that it may still grow."""
        if self._opening is not None and index == 0:
            return self._code(self._opening, piece, header=False)
        body = piece.lstrip("\n")
        if not body.strip():
            return []
        gap: list[Row] = [()] if (self._begun or index) and body != piece else []
        if _fence(body):
            opening, newline, code = body.partition("\n")
            return gap + (self._code(opening, code) if newline or not live else [plain(opening, "dim")])
        if not _SPECIAL.match(body):
            body = body.lstrip(" ")
        return gap + layout(self._console, _closed(body) if live else body, self._width)

    def _code(self, opening: str, code: str, *, header: bool = True) -> list[Row]:
        lines = code.splitlines(keepends=True)
        end = _closing(opening, lines)
        inside = "".join(lines if end is None else lines[:end]).expandtabs(4)
        rows = [plain(opening, "dim")] if header else []
        if inside:
            words = opening.strip().strip("`~").split()
            text = Syntax(inside, words[0] if words else "text", theme="ansi_dark").highlight(inside)
            text.rstrip()
            rows += [row(line.render(self._console)) for line in text.split("\n", allow_blank=False)]
            rows += [()] * (inside.count("\n") - (len(rows) - header)) if inside.endswith("\n") else []
        return rows if end is None else [*rows, plain(lines[end].rstrip("\n"), "dim")]

    def _stable(self, piece: str, rows: Sequence[Row]) -> int:
        """How many rows of the open piece are final."""
        if self._opening is not None or _fence(piece):
            return min(len(rows), len(rows) - (not piece.endswith("\n")))
        if _SPECIAL.match(piece.lstrip("\n")) or "|" in piece or _open_marks(piece):
            return 0
        return max(0, len(rows) - 1)


def _fence(source: str) -> bool:
    return bool(_FENCE.match(source.lstrip("\n").split("\n", 1)[0]))


def _is_closed(body: str) -> bool:
    opening, _, code = body.partition("\n")
    return _closing(opening, code.splitlines(keepends=True)) is not None


def _closing(opening: str, lines: Sequence[str]) -> int | None:
    """The index of the line that closes the fence that `opening` opens, or None."""
    fence = opening.strip()
    marks = fence[: len(fence) - len(fence.lstrip(fence[0]))]
    for i, line in enumerate(lines):
        text = line.strip()
        if text.startswith(marks) and not text.strip(marks[0]):
            return i
    return None


def _starts(source: str, lines: Sequence[str]) -> Iterator[int]:
    """The indices of the lines on which a top-level block, a list item or a line of a paragraph begins."""
    tokens = PARSER.parse(source)
    for token in tokens:
        if token.map is None or token.nesting < 0:
            continue
        first, end = token.map
        if token.level == 0 or (token.type == "list_item_open" and token.level == 1):
            yield first
        if token.type == "paragraph_open" and token.level == 0 and "|" not in source:
            for line in range(first + 1, end):
                if not _open_marks("".join(lines[first:line])):
                    yield line


def _open_marks(source: str) -> list[str]:
    """The inline marks that are not closed yet, in their order."""
    opened: list[tuple[str, int]] = []
    code = ""
    for found in _MARK.finditer(source):
        mark, after = found[0], source[found.end() : found.end() + 1]
        before = source[found.start() - 1 : found.start()]
        if code or mark[0] == "`":
            code = "" if mark == code else code or (mark if mark[0] == "`" else "")
            if code == mark:
                opened.append((mark, found.end()))
            elif not code:
                opened.pop()
        elif mark[0] == "\\":
            continue
        elif mark[0] in "![":
            opened.append((mark, found.end()))
        elif mark[0] == "]":
            opened = opened[: next((i for i, (m, _) in enumerate(opened) if m.endswith("[")), len(opened))]
        elif any(m == mark for m, _ in opened) and before.strip():
            opened = opened[: next(i for i, (m, _) in enumerate(opened) if m == mark)]
        elif not (after and not after.strip()) and not (mark[0] == "_" and _WORD.match(before)):
            opened.append((mark, found.end()))
    return [mark for mark, _ in opened]


def _closed(source: str) -> str:
    """The source with its open marks closed, so that bold text is bold from its first word on."""
    marks = _open_marks(source)
    while marks and source.endswith(marks[-1]):
        source = source[: -len(marks.pop())]
    shut = "".join(mark for mark in reversed(marks) if not mark.endswith("["))
    text = source.rstrip()
    return text + shut + source[len(text) :] if shut else source
