"""The command line: options and their help; every command imports its work only when it runs."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper

from eftlocal.cli import run, store  # noqa: F401 - they add their commands
from eftlocal.cli.app import app
from eftlocal.errors import EftError

__all__ = ["app", "main"]


def main() -> None:
    """The program: errors of the user's are one or two lines on stderr, with the exit code they carry."""
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal or pipe without UTF-8 shows `?` for what it cannot
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where an error can still be told
    except EftError as error:
        if "--debug" in sys.argv:
            raise
        print(f"eftlocal: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, SystemExit) as error:
        if _reader_left(error):  # of a pipe, and has what it wanted
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in its buffer
            sys.exit(0)
        if isinstance(error, SystemExit) or "--debug" in sys.argv:
            raise
        print(f"eftlocal: {error}", file=sys.stderr)  # of the system's: a full disk under stdout, for one
        with suppress(OSError):
            sys.stdout.close()  # else what is left in its buffer is tried once more at the end
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _reader_left(error: BaseException) -> bool:
    """Whether nobody reads our output any more. Typer and rich make an exit with code 1 of that."""
    return isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError)
