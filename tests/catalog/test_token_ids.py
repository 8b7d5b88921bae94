"""Tests of the files that list token ids."""

import random
from pathlib import Path

import pytest

from eftlocal.catalog.token_ids import HEAD, TokenIds, read, text
from eftlocal.errors import CatalogError

VOCABULARY = "0123456789abcdef"


def test_what_is_written_is_read_back_as_ranges(tmp_path: Path) -> None:
    rng = random.Random(1)
    for _ in range(50):
        ids = tuple(sorted(rng.sample(range(400), rng.randint(0, 300))))
        file = tmp_path / "ids.txt"
        file.write_text(text(TokenIds(VOCABULARY, ids)), encoding="utf-8")
        assert read(file, 400) == TokenIds(VOCABULARY, ids)
    assert text(TokenIds(VOCABULARY, (0, 1, 2, 7, 9, 10))) == f"{HEAD}{VOCABULARY}\n0-2\n7\n9-10\n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", ":1: is not a list of tokens"),
        ("0-12\n", ":1: is not a list of tokens"),
        (f"{HEAD}xyz\n", ":1: is not a list of tokens"),
        (f"{HEAD}{VOCABULARY}\n5\nfive\n", ":3: 'five' is not a token id"),
        (f"{HEAD}{VOCABULARY}\n5\n5\n", ":3: '5' is not a token id, or a range of them, above"),
        (f"{HEAD}{VOCABULARY}\n9-5\n", ":2: '9-5' is not a token id"),
        (f"{HEAD}{VOCABULARY}\n0\n395-400\n", ":3: names token 400, but the vocabulary's last token is 399"),
        (f"{HEAD}{VOCABULARY}\n-3\n", ":2: '-3' is not a token id"),
        (f"{HEAD}{VOCABULARY}\n" + "9" * 5000, ":2: '9999"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_its_line(tmp_path: Path, body: str, error: str) -> None:
    file = tmp_path / "ids.txt"
    file.write_text(body, encoding="utf-8")
    with pytest.raises(CatalogError) as raised:
        read(file, 400)
    assert error in raised.value.message and len(raised.value.message) < 300


def test_a_file_that_is_missing_or_not_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file"):
        read(tmp_path / "none.txt", 9)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\0")
    with pytest.raises(CatalogError, match="is not UTF-8"):
        read(tmp_path / "bytes", 9)
