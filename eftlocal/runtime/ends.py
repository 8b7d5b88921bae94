"""Which token ends an answer of a model that is asked through a view."""

from itertools import takewhile
from typing import Final, Protocol

from eftlocal.errors import ViewError
from eftlocal.runtime.views import Message, Tokenizer, View

__all__ = ["PROBE", "Vocabulary", "answered", "end_of"]

PROBE: Final = "xyz"


class Vocabulary(Tokenizer, Protocol):
    """What is needed of a model: its tokenizer, and which tokens end an answer."""

    @property
    def end(self) -> int | None: ...
    def is_eog(self, token: int) -> bool: ...


def answered(answer: str) -> list[Message]:
    """A conversation that goes on after an answer."""
    return [Message("user", "Why?"), Message("assistant", answer), Message("user", "How?")]


def end_of(view: View, vocabulary: Vocabulary) -> int | None:
    """The end-of-generation token that the view writes after an answer, or else the vocabulary's; None without one."""
    try:
        asked, goes_on = (view.prompt(vocabulary, answered(PROBE)[:n]) for n in (1, 3))
    except ViewError:  # the template refuses a second question
        asked, goes_on = [], []
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, goes_on, strict=False)))
    text = b""
    for token in goes_on[same:]:
        if text.strip() == PROBE.encode() and vocabulary.is_eog(token):
            return token
        text += vocabulary.piece(token)
        if not PROBE.encode().startswith(text.strip()):
            break
    return vocabulary.end
