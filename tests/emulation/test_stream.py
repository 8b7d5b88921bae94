"""The stream of one answer: its deltas are the text, and it may be closed early."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eftlocal import Emulator
from tests.builders import load
from tests.families import Family


@pytest.fixture
def emulator(family: Family, tmp_path: Path) -> Iterator[Emulator]:
    with load(tmp_path, {"base": family.base, "tuned": family.tuned, "reference": family.reference}) as made:
        yield made


def test_a_stream_that_is_closed_early_gives_its_place_back(emulator: Emulator) -> None:
    whole = emulator.generate("Hello")
    for _ in range(3):
        stream = emulator.stream("Hello")
        iterator = iter(stream)
        first = next(iterator)
        iterator.close()  # type: ignore[attr-defined]  # a generator
        assert whole.text.startswith(first) and stream.reply.finish_reason == "cancelled"
    assert emulator.generate("Hello").tokens == whole.tokens


def test_deltas_add_up_to_the_text_and_never_split_a_character(emulator: Emulator) -> None:
    # The two bytes of "é" are forced in turn, so each character takes two tokens.
    stream = emulator.stream("Hello", logit_bias={0xC3: 500.0, 0xA9: 499.0}, frequency_penalty=100.0, max_tokens=8)
    deltas = list(stream)
    assert "".join(deltas) == stream.reply.text
    assert "é" in stream.reply.text and "\ufffd" not in "".join(deltas[:-1])
