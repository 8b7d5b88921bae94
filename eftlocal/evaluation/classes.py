"""What kind of token a piece of text is, and where in its answer it stands."""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

__all__ = ["CLASSES", "POSITIONS", "TokenClass", "position", "token_classes"]

TokenClass = Literal["content word", "function word", "digit", "punctuation", "layout", "first token", "end of answer"]
CLASSES: Final[tuple[TokenClass, ...]] = (
    *("content word", "function word", "digit", "punctuation", "layout"),
    *("first token", "end of answer"),
)

# English words that carry grammar rather than meaning. Words of other languages are content words.
_WORDS: Final = (
    "a an the this that these those some any no every each all both either neither another such other same own "
    "i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself "
    "we us our ours ourselves they them their theirs themselves one ones "
    "who whom whose which what where when why how whoever whatever whichever "
    "somebody someone something anybody anyone anything nobody none nothing everybody everyone everything there here "
    "and or but nor so yet if unless because since although though while whereas whether as than that then else "
    "of in on at by for with about against between into through during before after above below to from up down out "
    "off over under near without within along across behind beyond among around toward towards upon per via until till "
    "am is are was were be been being have has had having do does did doing done "
    "will would shall should can could may might must ought wo ca sha "
    "not only very too also just even more most much many few less least several enough quite rather still again ever "
    "never always often"
)
FUNCTION_WORDS: Final = frozenset(_WORDS.split())
SHORTENED: Final = re.compile(r"(n't|'(s|re|ve|ll|d|m|t))$")  # what a shortened word ends with: isn't, we'll
TEXTS: Final = str.maketrans({"▁": " ", "’": "'"})  # ▁ stands for a space in sentencepiece vocabularies
MARKS: Final = frozenset("*#`|_~")  # Markdown's; a piece of nothing else is layout
BULLETS: Final = frozenset("-+•·–")  # layout where a line begins

POSITIONS: Final = (0, 1, 4, 8, 16, 32, 64)  # where each range of positions begins


class _Word(NamedTuple):
    start: int
    end: int
    text: str


def token_classes(pieces: Sequence[str], *, answer: bool = True) -> list[TokenClass]:
    """The class of each piece. "" is the end of an answer. `answer`: whether the first piece begins an answer.

    The pieces are looked at in their text: " the" is a function word, but not in " the" + "ory". A piece of a character
    that is not complete (U+FFFD) is part of a word, as most such characters are letters of other scripts.
    """
    texts = [piece.translate(TEXTS) for piece in pieces]
    whole = "".join(texts)
    words, found, start = list(_words(whole)), list[TokenClass](), 0
    at = 0  # the first word that does not end before the piece
    for i, text in enumerate(texts):
        end = start + len(text)
        while at < len(words) and words[at].end <= start:
            at += 1
        if not text:
            found.append("end of answer")
        elif i == 0 and answer:
            found.append("first token")
        else:
            found.append(_class(text, whole[:start], words[at] if at < len(words) else None, end))
        start = end
    return found


def position(index: int) -> str:
    """The range of positions that this one belongs to: "0", "1-3" ... "64 on"."""
    for first, after in itertools.pairwise(POSITIONS):
        if index < after:
            return str(first) if after == first + 1 else f"{first}-{after - 1}"
    return f"{POSITIONS[-1]} on"


def _class(text: str, before: str, word: _Word | None, end: int) -> TokenClass:
    """The class of a piece that ends at `end` of the whole text. `word`: the first one that ends within it or later."""
    if word is not None and word.start < end:
        return "function word" if _is_function(word.text) else "content word"
    shown = text.strip()
    if any(unicodedata.category(c).startswith("N") for c in shown):
        return "digit"
    begins = not before.rpartition("\n")[2].strip() or "\n" in text[: len(text) - len(text.lstrip())]
    if set(shown) <= MARKS or (begins and set(shown) <= BULLETS):
        return "layout"
    return "punctuation"


def _is_function(word: str) -> bool:
    lower = word.lower()
    return lower in FUNCTION_WORDS or SHORTENED.sub("", lower) in FUNCTION_WORDS


def _words(text: str) -> Iterator[_Word]:
    """Runs of letters with what is written on them. An apostrophe within a word belongs to it."""
    start: int | None = None
    for i, character in enumerate(text):
        inside = _is_letter(character) or (
            character == "'" and start is not None and i + 1 < len(text) and _is_letter(text[i + 1])
        )
        if inside and start is None:
            start = i
        elif not inside and start is not None:
            yield _Word(start, i, text[start:i])
            start = None
    if start is not None:
        yield _Word(start, len(text), text[start:])


def _is_letter(character: str) -> bool:
    return character.isalpha() or character == "\ufffd" or unicodedata.category(character).startswith("M")
