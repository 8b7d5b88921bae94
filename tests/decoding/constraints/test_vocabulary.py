"""A vocabulary as llguidance needs it: texts that must follow become the members' own tokens."""

import pytest

from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars
from eftlocal.errors import SettingError


def test_a_tokenizer_that_puts_a_blank_first_forces_the_right_bytes() -> None:
    pieces = [bytes([byte]) for byte in range(256)] + [b" a", b"ab", b""]

    def tokenize(text: str) -> list[int]:  # adds a blank, like SentencePiece
        return list(f" {text}".encode())

    matcher = Grammars(pieces, [258], tokenize).matcher(Constraint.choice(["hello"]))
    assert matcher.forced([]) == list(b"hello")


def test_a_vocabulary_without_ends_cannot_be_constrained() -> None:
    with pytest.raises(SettingError, match="no token that ends an answer"):
        Grammars([b"a"], [], lambda text: [])
