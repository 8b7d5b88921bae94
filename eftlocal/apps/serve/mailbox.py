"""The mailbox of a request: the owner's thread puts news of its answers in, and the request's coroutine takes them.

News that nobody has taken yet are merged, so a client that reads slowly costs at most the memory of its answers.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from eftlocal.decoding.generation import Reply
from eftlocal.errors import EftError

__all__ = ["Began", "Entry", "Failed", "Left", "Letter", "Mailbox", "News", "Top", "deliver"]


class Top(NamedTuple):
    """A token that could have come at a place."""

    id: int
    data: bytes
    logprob: float


class Entry(NamedTuple):
    """A token and its log-probability. `logprob` is None for a prompt's first token, which nothing predicts."""

    id: int
    data: bytes  # what the token stands for; a control token's name
    logprob: float | None
    top: tuple[Top, ...]


@dataclass(frozen=True, slots=True)
class Began:
    """An answer begins.

    prompt  the token ids of its prompt
    text    the prompt's text
    hidden  the text of a token before it that the tokenizer adds (BOS)
    """

    index: int
    prompt: Sequence[int]
    text: str = ""
    hidden: str = ""


@dataclass(slots=True)
class News:
    """What is new of one answer. `reply` is set when it has ended, and `end` if a token ended it.

    The entries are those of the prompt's tokens, if they are scored, and then those of the answer's.
    """

    index: int
    text: str = ""
    entries: list[Entry] = field(default_factory=list)
    end: Entry | None = None
    reply: Reply | None = None


class Failed(NamedTuple):
    """The request ended with an error; no more news come."""

    error: EftError


class Left(NamedTuple):
    """The client has left."""


Letter = Began | News | Failed | Left


class Mailbox:
    """Letters for one request. All methods belong to the event loop's thread; `deliver` brings letters there."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._letters: list[Letter] = []
        self._latest: dict[int, News] = {}  # index -> the news of that answer that are not taken yet
        self._some = asyncio.Event()

    def put(self, letter: Letter) -> None:
        """Put a letter in. News of the same answer become one letter."""
        if isinstance(letter, News) and (before := self._latest.get(letter.index)) is not None:
            before.text += letter.text
            before.entries += letter.entries
            before.end, before.reply = letter.end, letter.reply
        else:
            self._letters.append(letter)
            if isinstance(letter, News):
                self._latest[letter.index] = letter
        self._some.set()

    async def take(self) -> list[Letter]:
        """Wait until there are letters, and take all of them."""
        await self._some.wait()
        self._some.clear()
        letters, self._letters = self._letters, []
        self._latest = {}
        return letters


def deliver(letters: Sequence[tuple[Mailbox, Letter]]) -> None:
    """Bring letters from the owner's thread to mailboxes, all in one call of their event loop."""

    def put() -> None:
        for mailbox, letter in letters:
            mailbox.put(letter)

    if letters:
        with suppress(RuntimeError):  # the loop has ended: nobody waits for them
            letters[0][0].loop.call_soon_threadsafe(put)
