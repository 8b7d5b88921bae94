"""What the tests of constraints share: the vocabulary of the tiny test models, as a constraint needs it."""

import pytest

from eftlocal.decoding.constraints.matcher import Grammars
from tests.decoding.constraints.made import ENDS
from tests.families import SPECIALS, VOCAB


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    """Grammars for the vocabulary of the tiny test models."""
    alphabet = {character: byte for byte, character in enumerate(VOCAB.tokens[:256])}
    pieces = [b"" if t in SPECIALS else bytes(alphabet[character] for character in t) for t in VOCAB.tokens]
    return Grammars(pieces, ENDS, lambda text: list(text.encode()))
