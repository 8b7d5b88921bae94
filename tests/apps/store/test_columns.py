"""The table of `eftlocal list` at each width: what stands before the last column is whole, and lines fit."""

import random

import pytest
from rich.cells import cell_len

from eftlocal.apps.store.columns import Row, rows_as_lines, shortened

HEADER = Row(("emulator", "here", "size"), "what it is")
LIGHT = "Light chat in English, for a first try; 1.8 GB to download, fits in 8 GB of memory"
ROWS = [
    Row(("smollm2", "no", "1.83 GB"), LIGHT),
    Row(("a-longer-name", "yes", "676 MB"), "One-word-that-is-longer-than-many-terminals-are-wide-and-has-no-blank"),
    Row(("日本", "no", "?"), ""),
]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 160, 10_000])
def test_short_cells_are_whole_at_each_width_and_a_cut_text_takes_one_line(width: int) -> None:
    lines = list(rows_as_lines(HEADER, ROWS, width, cut=True))
    for row in ROWS:
        (line,) = (line for line in lines if line.startswith(row.cells[0]))
        assert line.split()[1:3] == " ".join(row.cells).split()[1:3]
    assert all(cell_len(line) <= max(width, 40) for line in lines)
    assert not any(line.endswith(" ") for line in lines)
    beside = width >= 60
    assert len(lines) == (4 if beside else 6) and ("what it is" in lines[0]) == beside


def test_columns_line_up_and_a_wide_terminal_or_a_pipe_gets_all() -> None:
    assert list(rows_as_lines(HEADER, ROWS[:1] + ROWS[2:], 10_000, cut=True)) == [
        "emulator  here  size     what it is",
        f"smollm2   no    1.83 GB  {LIGHT}",
        "日本      no    ?",
    ]


def test_a_text_that_is_not_cut_goes_below_whole_if_there_is_no_room_beside() -> None:
    below = ["emulator  here  size", "smollm2   no    1.83 GB", f"  {LIGHT}"]
    assert list(rows_as_lines(HEADER, ROWS[:1], 100, cut=False)) == below
    assert len(list(rows_as_lines(HEADER, ROWS[:1], 110, cut=False))) == 2


def test_a_text_is_cut_behind_a_clause_or_else_behind_a_word() -> None:
    assert shortened(LIGHT, 82) == LIGHT
    assert shortened(LIGHT, 81) == shortened(LIGHT, 41) == "Light chat in English, for a first try; …"
    assert shortened(LIGHT, 40) == "Light chat in English, for a first …"
    assert shortened("abcdefgh", 5) == "abcd…"
    draw = random.Random(1)
    for _ in range(2000):
        text = "".join(draw.choices("ab ;日", k=draw.randrange(1, 40))).strip() or "a"
        width = draw.randrange(4, 45)
        short = shortened(text, width)
        assert cell_len(short) <= width and (short == text or text.startswith(short.rstrip("…").rstrip()))
