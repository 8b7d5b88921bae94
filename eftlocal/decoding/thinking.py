"""The thinking part of an answer: where it begins and ends, in a text that grows and in one that is whole.

Some models think before they answer: `<think>`, thoughts, `</think>`, the answer. A template may write the opening
marker itself, at the end of the prompt; the answer then begins within the thoughts. The markers here are text. Models
that mark thoughts with control tokens (Mistral's [THINK], Cohere's <|START_THINKING|>, the channels of gpt-oss) show no
markers in their text, so nothing can be told apart there; no family of the catalogue does so.
"""

import re
from typing import Final, NamedTuple

__all__ = ["ANSWER", "MARKERS", "START", "Part", "Splitter", "opened_by", "split", "spoken", "thoughts_in"]

# Qwen3, DeepSeek-R1 and its distillations, SmolLM3, Phi-4-reasoning, Granite, GLM: <think>. EXAONE Deep: <thought>.
MARKERS: Final = (("<think>", "</think>"), ("<thought>", "</thought>"))

START: Final = "start"  # nothing has come yet but white space, so thoughts may follow
ANSWER: Final = "answer"  # no thoughts can follow


class Part(NamedTuple):
    """A piece of an answer's text: thoughts, or what it says."""

    text: str
    thinking: bool


class Splitter:
    """Splits a text that comes in deltas into thoughts and answer. Neither has the markers nor the white space at them.

    `place` is where the text begins: START, ANSWER, or the marker that will close the thoughts it begins in. Thoughts
    stand only before the answer: a marker further on is text, as in code or in an answer about markers.
    """

    def __init__(self, place: str = START) -> None:
        self._place = place
        self._held = ""  # a marker may begin here, or it is white space that may be dropped
        self._bare = place != ANSWER  # whether white space that comes now stands at a marker

    @property
    def place(self) -> str:
        """Where the text has come to, in the same words as where it began."""
        return self._place

    def push(self, delta: str) -> list[Part]:
        """The parts that can be told now."""
        self._held += delta
        parts: list[Part] = []
        if self._place == START:
            self._start()
        if self._place not in (START, ANSWER):
            parts += self._think()
        if self._place == ANSWER:
            if self._bare:
                self._held = self._held.lstrip()
            if self._held:
                parts.append(Part(self._held, False))
                self._held, self._bare = "", False
        return parts

    def finish(self) -> list[Part]:
        """The rest, when the text has ended: what looked like the beginning of a marker was none."""
        rest, self._held = self._held, ""
        if self._place == START:  # an answer of white space, or of half a marker
            return [Part(rest, False)] if rest else []
        return [Part(rest.rstrip(), True)] if rest.strip() else []

    def _start(self) -> None:
        """Decide whether thoughts begin, unless it is too early."""
        text = self._held.lstrip()
        for opening, closing in MARKERS:
            if text.startswith(opening):
                self._place, self._held = closing, text[len(opening) :]
                return
        if not any(opening.startswith(text) for opening, _ in MARKERS):
            self._place, self._bare = ANSWER, False

    def _think(self) -> list[Part]:
        """The thoughts that can be told, up to the closing marker."""
        if self._bare:
            self._held = self._held.lstrip()
            self._bare = not self._held
        closing = self._place
        thoughts, found, rest = self._held.partition(closing)
        if found:
            self._place, self._held, self._bare = ANSWER, rest, True
        else:
            n = next(n for n in range(len(closing) - 1, -1, -1) if thoughts.endswith(closing[:n]))
            whole = thoughts[: len(thoughts) - n].rstrip()  # white space belongs to the marker, if that comes now
            thoughts, self._held = whole, thoughts[len(whole) :]
        thoughts = thoughts.rstrip()
        return [Part(thoughts, True)] if thoughts else []


def opened_by(prompt: str) -> str:
    """Where an answer begins after this end of a prompt: within thoughts, if it ends with their opening marker."""
    end = prompt.rstrip()
    return next((closing for opening, closing in MARKERS if end.endswith(opening)), START)


def spoken(content: str) -> str:
    """An assistant's message without its thoughts, as templates leave them out of earlier turns. It is a tail of it.

    The opening marker may be missing, since a template may have written it. Then the closing one must be a line.
    """
    return _split(content)[1]


def thoughts_in(content: str) -> str:
    """The thoughts of an assistant's message; "" if it has none."""
    return _split(content)[0]


def _split(content: str) -> tuple[str, str]:
    """The thoughts and the answer of a whole message."""
    place = START
    for opening, closing in MARKERS:
        line = re.search(rf"^{closing}\s*$", content, re.MULTILINE)
        if line is not None and opening not in content[: line.start()]:
            place = closing
    return split(content, place)


def split(text: str, place: str) -> tuple[str, str]:
    """The thoughts and the answer of a whole text that begins at `place` (see Splitter)."""
    splitter = Splitter(place)
    parts = [*splitter.push(text), *splitter.finish()]
    thoughts = "".join(part.text for part in parts if part.thinking)
    return thoughts, "".join(part.text for part in parts if not part.thinking)
