"""From what the user typed to the message that the models read: files are read and counted before anything is sent."""

from collections.abc import Sequence
from contextlib import nullcontext

from eftlocal.apps.chat import files, templating
from eftlocal.apps.chat.files import Mentions
from eftlocal.apps.chat.room import larger, most
from eftlocal.apps.chat.state import Chat
from eftlocal.emulation.emulator import Raw
from eftlocal.errors import ContextError, EftError
from eftlocal.runtime.views import Message
from eftlocal.text import printable

__all__ = ["ask", "message", "read"]


SLOW = 200_000  # characters; more take a noticeable time to count


def ask(chat: Chat, text: str) -> None:
    """Answer a message, with the files that it names. Raises EftError, and then nothing was sent."""
    _send(chat, message(chat, text, chat.messages))


def read(chat: Chat, argument: str) -> None:
    """Ask about a file: `FILE [question]`."""
    if not argument.strip('@" '):
        raise EftError("/read needs a file.", "Example: /read notes.txt What is this about?")
    name, question = files.path_and_rest(argument)
    _send(chat, _with_files(chat, f'@"{name}" {question}'.rstrip(), _scan(chat, question), chat.messages, name))


def _send(chat: Chat, asked: Message) -> None:
    before = list(chat.messages)
    chat.answer([*before, asked], before)


def message(chat: Chat, text: str, before: Sequence[Message]) -> Message:
    """The user's message after the conversation `before`: the files that it names, and then its text.

    Shows a note about the files. Raises EftError if a file cannot be read or does not fit in the context.
    """
    return _with_files(chat, text, _scan(chat, text), before)


def _scan(chat: Chat, text: str) -> Mentions:
    """The files that a text names. Raises EftError if it seems to name one that is missing.

    A text of several lines may be a program, whose lines begin with an @, so there a missing file is only noted.
    """
    found = files.scan(text)
    if found.missing:
        word = found.missing[0]
        if "\n" not in text:
            raise EftError(f"There is no file {word}.", "To send it as text, write @@ for its @.")
        chat.screen.note(f"there is no file {printable(word)}, so its @ is sent as text")
    return found


def _with_files(chat: Chat, typed: str, found: Mentions, before: Sequence[Message], *first: str) -> Message:
    """The message of the files `first`, those that were found, and the text. `typed` gives it again."""
    names = list(dict.fromkeys((*first, *found.names)))
    with chat.interrupts.raising():  # a file of another machine, or of /proc, may make one wait
        read = [files.read(name) for name in names]
    asked = Message("user", templating.message(chat, files.message(read, found.text)))
    if asked.content != typed:
        chat.typed[asked.content] = f"/{typed}" if typed.startswith("/") else typed  # `//` is a message, not a command
    if not read:
        return asked
    emulator = chat.emulator
    slow = sum(len(file.text) for file in read) > SLOW
    with chat.interrupts.raising(), chat.screen.waiting("counting tokens") if slow else nullcontext():
        tokens = [most(emulator.count(Raw(file.fenced))) for file in read]
        _must_fit(chat, names, asked, Message("user", templating.message(chat, found.text or "-")), before)
    counts = (
        f"{file.name}: {_several(file.lines, 'line')}, {_several(n, 'token')}"
        for file, n in zip(read, tokens, strict=True)
    )
    chat.screen.note(f"read {printable('; '.join(counts))}")
    return asked


def _must_fit(chat: Chat, names: Sequence[str], asked: Message, bare: Message, before: Sequence[Message]) -> None:
    """Raise ContextError if a message with files does not fit. `bare` is the message without them.

    A rolling context drops the old turns for it, so that there only the system text counts.
    """
    emulator = chat.emulator
    system = [m for m in before if m.role == "system"]
    kept = system if chat.rolling else before
    whole, used = most(emulator.count([*kept, asked])), most(emulator.count([*kept, bare]))
    if whole < emulator.context:
        return
    alone = most(emulator.count([*system, asked]))
    subject = f"{names[0]} has" if len(names) == 1 else f"{', '.join(names)} have"
    free = max(0, emulator.context - 1 - used)  # one token is left for the answer
    raise ContextError(
        f"{subject} {whole - used:,} tokens; {free:,} are free in this context of {emulator.context:,}.",
        "/drop drops the oldest turn, /reset starts over."
        if alone < emulator.context
        else f"Read a part of it, or start the chat with a larger context: {larger(alone)}",
    )


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
