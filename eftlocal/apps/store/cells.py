"""Cells of the tables. Names and descriptions come from files, so their control characters are made harmless."""

from rich.text import Text

from eftlocal.text import one_line, printable

__all__ = ["cell", "cut"]


def cell(text: str) -> Text:
    """A cell that is wrapped if it is too long, so that all of it can be read and copied."""
    return Text(printable(text), overflow="fold")


def cut(text: str) -> Text:
    """A cell of one line that ends in an ellipsis if it is too long."""
    return Text(one_line(text), no_wrap=True, overflow="ellipsis")
