"""Texts that come from files are shown without what could steer a terminal, and as JSON without loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import EftError, SettingError
from eftlocal.text import as_unicode, json_text, not_a_name, path_of, printable, wrapped

UNPRINTABLE = {
    "\x1b[2J": "\\x1b[2J",  # clears the screen
    "\x9b31m": "\\x9b31m",  # a C1 control: the same as ESC [
    "a\nb\r\tc": "a\\nb\\r\\tc",
    "\u202etxt.fugg": "\\u202etxt.fugg",  # turns the direction of writing
    "\u2066x\u2069": "\\u2066x\\u2069",
    "\x7f\x00": "\\x7f\\x00",
    "m\udcff.gguf": "m\\xff.gguf",  # a byte of a path that is not UTF-8
    "\ud800": "\\ud800",
}


@pytest.mark.parametrize(("text", "shown"), UNPRINTABLE.items(), ids=ascii)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
def test_a_printable_text_is_one_line_and_stays_as_it_is(text: str) -> None:
    once = printable(text)
    assert once.isprintable() and printable(once) == once
    assert once == text or not text.isprintable()


@pytest.mark.parametrize("text", UNPRINTABLE, ids=ascii)
def test_no_error_sends_an_escape_to_the_terminal(text: str) -> None:
    error = EftError(f"{text}: damaged", f"remove {text}")
    assert error.message.isprintable() and error.hint is not None and error.hint.isprintable()
    assert str(error) == f"{error.message}\n{error.hint}"
    assert str(SettingError(text)).isprintable()


@given(st.recursive(st.text(st.characters()) | st.integers() | st.none(), lambda inner: st.lists(inner)))
def test_json_gives_back_what_was_written_and_is_printable_in_each_encoding(value: object) -> None:
    for encoding in ("utf-8", "ascii", "latin-1", "cp1252"):
        text = json_text({"value": value}, encoding)
        assert text.isprintable() and text.encode(encoding).decode(encoding) == text
        assert json.loads(text) == {"value": value}


def test_json_keeps_letters_that_the_stream_can_encode() -> None:
    assert json_text("Où 東京") == '"Où 東京"'
    assert json_text("Où", "latin-1") == '"Où"'
    assert json_text("Où 東京", "latin-1") == '"O\\u00f9 \\u6771\\u4eac"'


def test_half_of_a_surrogate_pair_is_escaped_in_json() -> None:
    assert json_text("m\udcff") == '"m\\udcff"'


def test_a_text_names_the_same_file_where_paths_are_ascii(tmp_path: Path) -> None:
    file = tmp_path / "modèle.gguf"
    file.write_text("here")
    ask = "import sys; from eftlocal.text import path_of; print(path_of(sys.stdin.buffer.read().decode()).read_text())"
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", ask], input=str(file).encode(), env=env, capture_output=True)
    assert (done.stdout, done.stderr) == (b"here\n", b"")


def test_a_path_of_bytes_that_are_not_utf_8_stays_as_it_is() -> None:
    assert path_of("m\udcff/x.gguf") == Path("m\udcff/x.gguf")


def test_a_text_of_the_command_line_is_unicode_in_each_locale() -> None:
    assert as_unicode("\udcc3\udca9t\udcc3\udca9") == as_unicode("été") == "été"
    assert as_unicode("m\udcff") == "m\udcff"
    assert as_unicode("\ud800") == "\ud800"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_a_long_line_is_broken_between_words_on_a_terminal_and_nowhere_else() -> None:
    line = "the quick brown fox jumps over the lazy dog " * 5 + "x" * 100
    text = f"{line}\nsecond line"
    ours, theirs = os.openpty()
    try:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        with os.fdopen(theirs, "w", closefd=False) as terminal:
            shown = wrapped(text, terminal)
        with Path(os.devnull).open("w") as pipe:
            assert wrapped(text, pipe) == text
    finally:
        os.close(ours)
        os.close(theirs)
    rows = shown.split("\n")
    assert all(len(row) <= 40 or row == "x" * 100 for row in rows) and rows[-1] == "second line"
    assert shown.split() == text.split()


def test_a_name_that_a_user_gives_is_no_path_and_fits_in_a_file_name() -> None:
    for good in ("a", "work-2.b", "_x", "語" * 66, "k" * 200):
        assert not_a_name(good) is None
    for bad in ("", ".a", "-a", "a/b", "..", "a\nb", "a b", "\udcff", "🎉", "語" * 67, "k" * 201):
        assert not_a_name(bad) is not None
