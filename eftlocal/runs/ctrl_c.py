"""Ctrl-C while something runs: a request to stop, and a terminal that shows its cursor again."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eftlocal.interrupt import Asked, asked, before_leaving
from eftlocal.runtime.llama.interrupt import may_decode, stop_decoding

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["cursor_comes_back", "interruptible"]


@contextmanager
def interruptible(wake: Callable[[], None] = lambda: None) -> Iterator[Asked]:
    """Yield what tells whether Ctrl-C came: decoding looks at it between two steps, and a step ends early.

    A second Ctrl-C does not wait. `wake` is called for a thread that waits for something else.
    """

    told = False

    def tell() -> None:
        nonlocal told
        told = True
        stop_decoding()
        wake()

    try:
        with asked(tell) as task:
            yield task
    finally:
        if told:
            may_decode()


@contextmanager
def cursor_comes_back(out: "Console") -> Iterator[None]:
    """Within this context rich may hide the cursor: Ctrl-C shows it again before it ends the program."""

    def show() -> None:  # past rich: Ctrl-C may have come in the middle of its own writing
        if out.is_terminal:
            os.write(out.file.fileno(), b"\x1b[?25h\n")

    with before_leaving(show):
        yield
