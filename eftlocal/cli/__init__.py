"""The command line. `main` imports everything else when it runs, so that Ctrl-C ends the program from the start."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the program. An EftError becomes one or two lines on stderr and its exit code; Ctrl-C exits with 130."""
    _leave_until_imported()
    from eftlocal.interrupt import INTERRUPTED, leave_at_ctrl_c

    leave_at_ctrl_c()
    from contextlib import suppress
    from io import TextIOWrapper

    from eftlocal.errors import EftError
    from eftlocal.text import printable, wrapped

    _open_closed()
    if isinstance(sys.stdin, TextIOWrapper):  # what is read is UTF-8 on each system
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    if isinstance(sys.stdout, TextIOWrapper):  # an output without UTF-8 gets `?` for a character that it cannot show
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            from eftlocal.cli.commands import app

            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # flush here, where an error can still be reported
    except EftError as error:
        if "--debug" in sys.argv:
            raise
        print(wrapped(f"eftlocal: {error}", sys.stderr), file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, SystemExit) as error:
        if _reader_left(error):  # as `head` does: it has what it wanted
            with suppress(OSError, ValueError):  # what is left in the buffer goes to the null device
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        if isinstance(error, SystemExit) or "--debug" in sys.argv:
            raise
        # an error of the system: what we write to without a name is standard output
        what = "standard output cannot be written" if error.filename is None else error.filename
        print(wrapped(printable(f"eftlocal: {what}: {error.strerror or error}"), sys.stderr), file=sys.stderr)
        with suppress(OSError):
            sys.stdout.close()  # otherwise Python tries to write the rest of the buffer again at exit
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _leave_until_imported() -> None:
    """Let Ctrl-C end the process from here on. `signal` itself imports much; `_signal` is the part that is built in."""
    import _signal  # type: ignore[import-not-found]

    try:
        if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, lambda *_: os._exit(130))
    except ValueError:  # not the main thread, which alone has handlers
        pass


def _open_closed() -> None:
    """Stand the null device in for standard files that are closed (`>&-`), so that no other file gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  # pathlib is slow


def _reader_left(error: BaseException) -> bool:
    """Whether the reader of our output has closed its pipe. Typer and rich turn that into an exit with code 1."""
    return isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError)
