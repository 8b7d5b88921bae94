"""What fits in the context: how much a conversation takes, and what to do when it is too long."""

from collections.abc import Mapping, Sequence

from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import ContextError, EftError
from eftlocal.runtime.views import Message

__all__ = ["FULL", "ROOM", "WAYS_OUT", "larger", "most", "too_long", "turns_were"]

FULL = 0.8  # from this share of the context on, the user is warned
ROOM = 4  # a rolling context keeps max_tokens free for the answer, but at most a quarter of the context
WAYS_OUT = "/drop drops the oldest turn, /reset starts over, /context rolling drops the oldest turns by itself"
STEP = 1024  # a proposed context is a multiple of this


def most(tokens: Mapping[str, int]) -> int:
    """The tokens of the role that needs most."""
    return max(tokens.values(), default=0)


def turns_were(n: int) -> str:
    """The beginning of a sentence about `n` turns."""
    return "turn was" if n == 1 else f"{n} turns were"


def larger(tokens: int) -> str:
    """The option that makes a context in which so many tokens and an answer fit."""
    return f"--ctx {-(-(tokens + STEP // 2) // STEP) * STEP}"


def too_long(emulator: Emulator, messages: Sequence[Message]) -> ContextError | None:
    """The error for a last message that does not fit even alone, with only the system text before it; else None."""
    asked = messages[-1]
    before = [m for m in messages[:1] if m.role == "system"]
    alone = emulator.count([*before, asked])
    role = max(alone, key=lambda role: alone[role], default=None)
    if asked.role != "user" or role is None or alone[role] < emulator.context:
        return None
    try:
        frame = emulator.count([*before, Message("user", "")])[role]
    except EftError:  # a template may refuse an empty message
        frame = 0
    room = emulator.context - 1 - frame  # one token is left for the answer
    if room < 1:
        return ContextError(
            f"The system text takes {frame} tokens, and the context holds {emulator.context}.",
            f"Shorten it with /system, or start the chat with a larger context: {larger(alone[role])}",
        )
    return ContextError(
        f"Your message has {alone[role] - frame} tokens, and at most {room} fit in the context"
        f" of {emulator.context} tokens.",
        f"Shorten it, or start the chat with a larger context: {larger(alone[role])}",
    )
