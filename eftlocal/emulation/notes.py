"""Lines on what an emulator's members do not do, though its user may expect it."""

from contextlib import suppress

from eftlocal.errors import ViewError
from eftlocal.runtime import adapters, gguf
from eftlocal.runtime.views import Message, View

__all__ = ["adapter", "same"]

PROBE = (Message("user", "Hello"),)  # no system text: the views add their own


def adapter(model: str, header: gguf.Header | None, of: gguf.Header) -> str | None:
    """What llama.cpp does not use of the model's adapter, as a line; None if there is no such thing."""
    if header is None or not (names := adapters.unused(header, of)):
        return None
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"{header.path.name}, the adapter of {model}, works only in part: llama.cpp does not apply what it changes in "
        f"{shown}."
    )


def same(reward: str, tuned: View, reference: View) -> str | None:
    """A line if one model sees the same on both sides of the reward; None if the sides differ."""
    with suppress(ViewError):  # loading or the first prompt tells it
        if tuned.text(PROBE) == reference.text(PROBE):
            return f"The reward {reward} has no effect: its template leaves out system texts. --view sets another one."
    return None
