"""Conversations and texts as what a model is trained on: the tokens that it is fed, and what must follow each of them.

A conversation is rendered by the view that will ask the model later. Each answer is trained after exactly the tokens
that the view gives for the conversation before it, since nothing else will come before it at run time. So the places to
train are known from the rendering itself. Answers whose context is the same are trained in one row.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import TrainingError, ViewError
from eftlocal.runtime.ends import PROBE, Vocabulary, answered, end_of
from eftlocal.runtime.views import Message, View

__all__ = ["NOTHING", "Asked", "Example", "Turn", "joined"]

NOTHING: Final = -1  # the target of a position at which nothing is trained

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: the tokens of the conversation before it, and its own with the one that ends it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """How many tokens the model is fed: the last one is only predicted."""
        return len(self.prompt) + len(self.answer) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A row to train on. tokens (n,) are fed; targets (n,): what must follow each of them, or NOTHING."""

    tokens: Ids
    targets: Ids

    @property
    def trained(self) -> int:
        """How many tokens are trained."""
        return int((self.targets != NOTHING).sum())


class Asked:
    """How a model is asked: a view with the model's own tokenizer.

    end    the token that ends an answer: the one that the template writes after it, or else the vocabulary's
    trims  whether the template removes white space around an answer; it is trained without it then
    """

    def __init__(self, view: View, vocabulary: Vocabulary) -> None:
        """Raises TrainingError if neither the template nor the vocabulary has a token that ends an answer."""
        self._view = view
        self._vocabulary = vocabulary
        end = end_of(view, vocabulary)
        if end is None:
            raise TrainingError("The reference's vocabulary has no token that ends an answer.")
        self.end = end
        self.trims = self._trims()

    @property
    def template(self) -> str:
        """The view's template."""
        return self._view.template

    def turns(self, messages: Sequence[Message], left_out: Collection[int] = ()) -> list[Turn]:
        """The answers of a conversation, in order, but for the messages of the indices `left_out`.

        Raises ViewError where the view cannot render it, and TrainingError for an answer without a token.
        """
        found: list[Turn] = []
        so_far: list[Message] = []
        for i, message in enumerate(messages):
            if message.role != "assistant":
                so_far.append(message)
                continue
            *ids, _ = answer = self.answer(message.content)
            if i not in left_out:
                found.append(Turn(tuple(self.prompt(so_far)), answer))
            so_far.append(Message("assistant", self._said(ids), tuple(ids)))
        return found

    def _said(self, ids: Sequence[int]) -> str:
        """The text of an answer that was generated as these tokens: some tokenizers begin it with a space."""
        return b"".join(map(self._vocabulary.piece, ids)).decode("utf-8", "replace")

    def answer(self, text: str) -> tuple[int, ...]:
        """The tokens of an answer, with the one that ends it. Raises TrainingError for an answer without a token."""
        ids = self._vocabulary.tokenize(text.strip() if self.trims else text)
        if not ids:
            raise TrainingError("an answer is empty")
        return (*ids, self.end)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, up to where the next answer starts. Raises ViewError."""
        return self._view.prompt(self._vocabulary, messages)

    def text(self, text: str, length: int) -> list[Example]:
        """A text in pieces of at most `length` tokens, each of them trained, and its end after the last piece.

        Each piece starts as a raw prompt does, with BOS where the tokenizer adds one.
        """
        start = [self._vocabulary.bos] if self._vocabulary.add_bos and self._vocabulary.bos is not None else []
        ids = [*self._vocabulary.tokenize(text), self.end]
        examples, room = [], length - len(start)
        for at in range(0, len(ids) - 1, room):
            fed, following = ids[:-1][at : at + room], ids[at + 1 : at + room + 1]
            examples.append(_example([*start, *fed], [*(fed[:1] if start else []), *following]))
        return examples

    # --- what the template does with an answer ------------------------------------------------------------------------

    def _trims(self) -> bool:
        padded = f"  {PROBE}  "
        try:
            written = self._view.text(answered(padded))
        except ViewError:
            return False
        return PROBE in written and padded not in written


def joined(turns: Sequence[Turn], length: int) -> list[Example]:
    """Rows of at most `length` tokens for the answers of one conversation, in order. Longer answers are left out.

    An answer joins the row before it if its prompt goes on from there: its tokens begin with all that the row is fed.
    """
    rows: list[tuple[list[int], list[int]]] = []
    for turn in turns:
        if turn.length > length:
            continue
        fed, quiet = [*turn.prompt, *turn.answer[:-1]], len(turn.prompt) - 1  # `quiet` positions before the answer
        if not (rows and quiet >= len(rows[-1][0]) and fed[: len(rows[-1][0])] == rows[-1][0]):
            rows.append(([], []))
        tokens, targets = rows[-1]
        targets += [NOTHING] * (quiet - len(targets))
        targets += turn.answer
        tokens[:] = fed
    return [_example(tokens, targets) for tokens, targets in rows]


def _example(tokens: Sequence[int], targets: Sequence[int]) -> Example:
    return Example(np.array(tokens, np.int32), np.array(targets, np.int32))
