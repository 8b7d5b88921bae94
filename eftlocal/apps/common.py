"""What several apps share: the console, JSON, sizes, durations, yes-or-no questions."""

import errno
import shutil
import sys
from typing import TYPE_CHECKING

from eftlocal.errors import EftError
from eftlocal.interrupt import INTERRUPTED, before_leaving
from eftlocal.text import json_text, printable, wrapped

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "ENDLESS",
    "INTERRUPTED",
    "agreed",
    "as_wide_as_it_is",
    "can_ask",
    "console",
    "not_opened",
    "print_json",
    "size",
    "span",
]

PORTS = {  # what to do about a port that cannot be opened
    errno.EADDRNOTAVAIL: "No network of this machine has that address; --host takes one of its own.",
    errno.EACCES: "Ports below 1024 are the system's; give a higher one: --port N.",
}
ENDLESS = 10_000  # columns of a pipe, so that its reader gets one unwrapped line for each entry


def console(*, stderr: bool = False) -> "Console":
    """A console for stdout or stderr that prints texts without markup, and wraps them only on a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = ENDLESS
    return as_wide_as_it_is(made)


def as_wide_as_it_is(out: "Console") -> "Console":
    """Give `out` the size of its terminal if that is a dumb one: rich takes 80 columns for it, whatever it has."""
    if out.is_dumb_terminal:
        out.width, out.height = shutil.get_terminal_size()
    return out


def print_json(value: object) -> None:
    """Print `value` to stdout as one line of JSON, which escapes what stdout cannot encode."""
    print(json_text(value, getattr(sys.stdout, "encoding", None) or "utf-8"))


def size(n: int) -> str:
    """`n` bytes as text, in decimal units as file managers and the Hub show them: "1.82 GB"."""
    for unit, bytes_ in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= bytes_ * 0.9995:
            return f"{n / bytes_:.{2 if n < 10 * bytes_ else 1 if n < 100 * bytes_ else 0}f} {unit}"
    return f"{n} bytes"


def span(seconds: float) -> str:
    """A duration as text: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def not_opened(host: str, port: int, error: OSError) -> EftError:
    """The error for an address at which this machine cannot listen."""
    hint = PORTS.get(error.errno or 0, "Give another one: --port N.")
    return EftError(f"Port {port} of {host} cannot be opened: {error.strerror}.", hint)


def can_ask() -> bool:
    """Whether a question can be asked: stdin and stderr are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def agreed(question: str, *, default: bool) -> bool:
    """Ask a yes-or-no question on the terminal. Enter alone is `default`; the end of the input is no."""
    asked = f"{printable(question)} [{'Y/n' if default else 'y/N'}]"
    print(wrapped(asked, sys.stderr), end=" ", file=sys.stderr, flush=True)

    def end_line() -> None:  # so that the shell's prompt starts on a new line
        print(file=sys.stderr, flush=True)

    try:
        with before_leaving(end_line):
            line = sys.stdin.readline()
    except KeyboardInterrupt:
        end_line()
        raise
    if not line:
        end_line()
        return False
    answer = line.strip().lower()
    return default if not answer else answer in ("y", "yes")
