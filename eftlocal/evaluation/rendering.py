"""From an item to the texts whose likelihood is taken: each as every member's prompt and the tokens after it."""

from typing import Final, NamedTuple

from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.forced import Forced
from eftlocal.emulation.prompts import Ids, Prompt, Raw
from eftlocal.errors import SettingError
from eftlocal.evaluation.items import Choices, Item, Preference, Question, Text

__all__ = ["FACTS", "Scored", "scored"]

FACTS: Final = 256  # tokens of a text that are told one by one


class Scored(NamedTuple):
    """A text to score.

    forced  the members' prompts, and its tokens
    bytes   of the text that its tokens stand for
    facts   how many of its first tokens are told one by one; where there are none, only its likelihood counts
    ends    whether its last token is the end of an answer
    """

    forced: Forced
    bytes: int
    facts: int = 0
    ends: bool = False


def scored(emulator: Emulator, item: Item) -> list[Scored]:
    """The texts of an item: a question's first answer, all choices, both answers of a preference, a text's windows.

    Raises ContextError where one does not fit, ViewError, and SettingError where one is empty.
    """
    match item:
        case Question():
            return [_answer(emulator, item.prompt, answer, told=True) for answer in item.answers[:1]]
        case Choices():
            first = min(item.right, default=-1)
            return [_choice(emulator, *pair, told=i == first) for i, pair in enumerate(item.pairs)]
        case Preference():
            texts = (item.chosen, item.rejected)
            return [_answer(emulator, item.prompt, text, told=not i) for i, text in enumerate(texts)]
        case Text():
            return _windows(emulator, item.text)
    raise AssertionError(item)


def _answer(emulator: Emulator, prompt: Prompt, text: str, *, told: bool) -> Scored:
    """An answer with the token that ends it; after a raw prompt, without."""
    forced = emulator.forced(prompt, text, ends=not isinstance(prompt, Raw))
    ends = len(forced.tokens) > len(emulator.tokenizer.encode(text))
    return Scored(forced, _size(text), len(forced.tokens) if told else 0, ends)


def _choice(emulator: Emulator, prompt: Prompt, text: str, *, told: bool) -> Scored:
    forced = emulator.forced(prompt, text)
    return Scored(forced, _size(text), len(forced.tokens) if told else 0)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _windows(emulator: Emulator, text: str) -> list[Scored]:
    """A text in windows as long as the context, each half a window after the one before it.

    The first window scores all its tokens, but for the first one where no BOS token stands before it; the others score
    their second half. So the tokens that llama.cpp's `perplexity` scores are scored after the same tokens here: it
    leaves out the first half of each window, and moves on by whole windows.
    """
    tokenizer, context = emulator.tokenizer, emulator.context
    tokens = tokenizer.encode(text, bos=True)
    bos = tokens[: len(tokens) - len(tokenizer.encode(text))]
    if len(tokens) < 2:
        raise SettingError("The text has no token to score.", "Give at least two tokens.")
    half, found, left = max(1, context // 2), list[Scored](), FACTS
    for start in range(0, max(1, len(tokens) - context + half), half):
        window = tokens[start : start + context]
        window[: len(bos)] = bos  # llama.cpp puts BOS in the place of the window's first token
        at = half if start else 1
        size = sum(len(tokenizer.bytes_of(token)) for token in window[at:])
        facts = min(left, len(window) - at)
        left -= facts
        found.append(Scored(emulator.forced(Ids(window[:at]), window[at:]), size, facts))
    return found
