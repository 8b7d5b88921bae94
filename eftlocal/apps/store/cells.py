"""Texts of a table: whatever names and descriptions hold, they write no control code to a terminal."""

from rich.text import Text

from eftlocal.catalog.tables import printable

__all__ = ["cell", "cut", "one_line"]


def one_line(text: str) -> str:
    """A text of several lines as one."""
    return printable(" ".join(text.split()))


def cell(text: str) -> Text:
    """A cell that goes on in the next row where it is too long, so that all of it can be read and copied."""
    return Text(printable(text), overflow="fold")


def cut(text: str) -> Text:
    """A cell that ends in an ellipsis where it is too long."""
    return Text(one_line(text), no_wrap=True, overflow="ellipsis")
