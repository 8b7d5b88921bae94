"""Classes of tokens, on pieces as llama.cpp gives them for byte-level and SentencePiece vocabularies."""

import pytest

from eftlocal.evaluation.classes import CLASSES, POSITIONS, position, token_classes

SHORT = {name[0]: name for name in ("content word", "function word", "digit", "punctuation", "layout")}

# pieces with their classes: c, f, d, p, l
TEXTS = {
    "plain": [(" cat", "c"), (" of", "f"), (" the", "f"), (" house", "c"), (",", "p"), (" 42", "d"), ("%", "p")],
    "a word in pieces": [(" the", "c"), ("ory", "c"), (" of", "f"), (" inf", "c"), ("or", "c"), ("mation", "c")],
    "shortened": [(" isn", "f"), ("'t", "f"), (" we", "f"), ("’ll", "f"), (" dog", "c"), ("'s", "c"), (" '", "p")],
    "capitals": [(" The", "f"), (" END", "c"), (" OF", "f")],
    "SentencePiece": [("▁the", "f"), ("▁dog", "c"), ("s", "c"), ("▁", "l"), ("7", "d"), ("▁", "l"), ("▁(", "p")],
    "other scripts": [(" дом", "c"), (" の", "c"), ("京都", "c"), (" कि", "c"), ("ताब", "c"), ("।", "p"), ("٣", "d")],
    "bytes of a character": [("\ufffd", "c"), ("\ufffd", "c"), (" \ufffd", "c")],
    "layout": [
        ("\n\n", "l"),
        ("  ", "l"),
        ("-", "l"),
        (" **", "l"),
        ("bold", "c"),
        ("**", "l"),
        ("\n", "l"),
        ("#", "l"),
    ],
    "a dash is layout only where a line begins": [
        (" well", "c"),
        ("-", "p"),
        ("known", "c"),
        ("\n-", "l"),
        (" x", "c"),
    ],
    "numbers": [(" 3", "d"), (".", "p"), ("14", "d"), (" x", "c"), ("2", "d"), (" 1st", "c"), ("½", "d")],
    "a word and what follows it": [(" it", "f"), (".\n", "p"), (" I", "f"), ("...", "p"), (" €", "p"), ("🙂", "p")],
}


@pytest.mark.parametrize("name", TEXTS)
def test_each_piece_has_the_class_of_the_word_that_it_is_in(name: str) -> None:
    pieces = [piece for piece, _ in TEXTS[name]]
    found = token_classes(pieces, answer=False)
    assert list(zip(pieces, found, strict=True)) == [(piece, SHORT[short]) for piece, short in TEXTS[name]]


def test_the_first_token_of_an_answer_and_its_end_are_classes_of_their_own() -> None:
    assert token_classes([" The", " end", "."]) == ["first token", "content word", "punctuation"]
    assert token_classes(["The", " end", ""])[-1] == "end of answer"
    assert token_classes([""]) == ["end of answer"]  # an empty answer: its first token is its end
    assert token_classes([" The"], answer=False) == ["function word"]
    assert token_classes([]) == []


def test_every_class_has_its_place_in_the_order_of_tables() -> None:
    assert {*SHORT.values(), "first token", "end of answer"} == set(CLASSES)


def test_positions_fall_into_ranges_that_double() -> None:
    names = [position(i) for i in range(70)]
    assert list(dict.fromkeys(names)) == ["0", "1-3", "4-7", "8-15", "16-31", "32-63", "64 on"]
    assert [names.index(name) for name in dict.fromkeys(names)] == list(POSITIONS)
    assert position(10**6) == "64 on"
