"""`eftlocal chat`: a conversation in the terminal, streamed; Ctrl-C stops an answer, Ctrl-D leaves."""

import sys

from eftlocal.apps.common import interruptible
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message

ENDS = {"length": "max_tokens reached", "cancelled": "stopped"}


def chat(emulator: Emulator, *, system: str | None) -> int:
    """Read a line, answer it, until the input ends. Prompts and notes go to stderr, answers alone to stdout."""
    conversation = [Message("system", system)] if system is not None else []
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{emulator.name}: Ctrl-C stops an answer, Ctrl-D leaves.", file=sys.stderr)
    while (line := _ask(interactive)) is not None:
        if not line.strip():
            continue
        turn = [*conversation, Message("user", line)]
        try:
            answer = _answer(emulator, turn)
        except EftError as error:  # the question is dropped, the conversation before it stays
            print(f"error: {error}", file=sys.stderr)
        else:
            conversation = [*turn, answer] if answer.content else conversation
    return 0


def _ask(interactive: bool) -> str | None:
    """The next line; None at the end of the input. Ctrl-C at the prompt begins a new line."""
    while True:
        try:
            if interactive:
                sys.stderr.write("> ")
                sys.stderr.flush()
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _answer(emulator: Emulator, turn: list[Message]) -> Message:
    with interruptible() as stop:
        stream = emulator.stream(turn, cancelled=stop.is_set)
        for delta in stream:
            sys.stdout.write(delta)
            sys.stdout.flush()
    print()
    reply = stream.reply
    if note := ENDS.get(reply.finish_reason) or (
        reply.finish_reason == "context" and f"the context of {emulator.context} tokens is full"
    ):
        print(f"({note})", file=sys.stderr)
    return reply.message
