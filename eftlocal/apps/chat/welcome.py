"""The first line of a chat: what one can do here."""

from eftlocal.catalog.models import Emulator

__all__ = ["first_line"]


def first_line(emulator: Emulator | None, width: int) -> str:
    """One line for a terminal of `width` columns, with the example of the emulator's entry if there is one."""
    ask = (emulator and emulator.example) or "Ask something"
    pair = emulator is not None and bool(emulator.rewards)
    ways = [
        "/help lists commands, /compare shows what the small pair does, Ctrl-D leaves",
        "/help, /compare, Ctrl-D leaves",
        "/help, Ctrl-D leaves",
    ]
    if not pair:
        ways = ["/help lists commands, Ctrl-D leaves"]
    return next((line for way in ways if len(line := f"{ask} · {way}") < width), f"{ask} · {ways[-1]}")
