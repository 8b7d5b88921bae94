"""What several apps need: Ctrl-C as a request that decoding looks at between two steps, the console, sizes."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
ENDLESS = 10_000  # columns of a pipe: what reads it finds one line for each thing


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that decoding stops between two steps; a second Ctrl-C interrupts at once."""
    event = threading.Event()

    def ask(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def console(*, stderr: bool = False) -> "Console":
    """The console of stdout or stderr, for texts that are no markup, wrapped for a terminal alone."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = ENDLESS
    return made


def size(n: int) -> str:
    """Bytes as people read them, in decimal units as file managers and the Hub give them."""
    for unit, bytes_ in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= bytes_ * 0.9995:
            return f"{n / bytes_:.{2 if n < 10 * bytes_ else 1 if n < 100 * bytes_ else 0}f} {unit}"
    return f"{n} bytes"


def can_ask() -> bool:
    """Whether somebody sits there who could answer."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str, *, default: bool) -> bool:
    """What somebody at the terminal answers to a yes-or-no question; no answer at all is no."""
    print(f"{question} [{'Y/n' if default else 'y/N'}] ", end="", file=sys.stderr, flush=True)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the shell's prompt gets a line of its own
        raise
    if not line:
        print(file=sys.stderr)
        return False
    answer = line.strip().lower()
    return default if not answer else answer in ("y", "yes")
