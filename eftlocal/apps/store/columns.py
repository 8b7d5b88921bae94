"""A table of which only the last column gives way on a narrow terminal; the columns before it are never cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from eftlocal.text import one_line

__all__ = ["Row", "rows_as_lines", "shortened"]

GAP = "  "
LEAST = 30  # columns in which a text that is cut still says something
MORE = "…"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the short cells, and the text of the last column."""

    cells: Sequence[str]
    text: str


def rows_as_lines(header: Row, rows: Sequence[Row], width: int, *, cut: bool) -> Iterator[str]:
    """The lines of the table for a terminal of `width` columns. A text without room beside the cells goes below them.

    cut   a text that is too long is cut to one line; without it, the text is kept whole, so that it can be copied
    """
    table = [Row([one_line(cell) for cell in row.cells], one_line(row.text)) for row in (header, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*(row.cells for row in table), strict=True)]
    before = sum(widths) + len(GAP) * len(widths)
    longest = max(cell_len(row.text) for row in table)
    below = width < before + (min(longest, LEAST) if cut else longest)
    room = max(width - (len(GAP) if below else before), LEAST)
    for row in table:
        start = GAP.join(set_cell_size(cell, n) for cell, n in zip(row.cells, widths, strict=True))
        text = shortened(row.text, room) if cut else row.text
        if not below:
            yield f"{start}{GAP}{text}".rstrip()
            continue
        yield start.rstrip()
        if text and row is not table[0]:
            yield f"{GAP}{text}"


def shortened(text: str, width: int) -> str:
    """The text if it fits; else its first clauses that fit, or else its first words; `…` stands for the rest."""
    if cell_len(text) <= width:
        return text
    clauses, words = ([i + 1 for i, c in enumerate(text) if c == mark] for mark in "; ")
    ends = [end for end in (*words, *clauses) if cell_len(text[:end].rstrip()) + 2 <= width]
    best = max((end for end in clauses if end in ends), default=None) or max(ends, default=0)
    return f"{text[:best].rstrip()} {MORE}" if best else f"{set_cell_size(text, width - 1).rstrip()}{MORE}"
