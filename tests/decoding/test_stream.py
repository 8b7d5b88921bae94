"""Streamed text equals the text that is decoded and cut as a whole, for every split into tokens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.decoding.stream import TextStream
from eftlocal.errors import SettingError

LETTERS = "ab\né€🙂"  # one to four bytes each; few letters, so stop strings occur often
TEXTS = st.text(LETTERS, max_size=30)
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    """Split `data` into the bytes of tokens. Equal cuts give empty tokens, like control tokens."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def run(pieces: list[bytes], stops: list[str]) -> tuple[TextStream, list[str]]:
    """The stream after all tokens, and the text from each push and from the finish."""
    stream = TextStream(pieces.__getitem__, stops)
    deltas = [stream.push(token) for token in range(len(pieces))]
    return stream, [*deltas, stream.finish()]


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The obvious way: take the whole text, and cut it where the first stop string begins."""
    begin = min((len(text.split(stop)[0]) for stop in stops), default=len(text))
    return text[:begin], min((stop for stop in stops if text.startswith(stop, begin)), key=len, default=None)


CUTS = st.lists(st.integers(0, 200), max_size=12)


@given(TEXTS, CUTS, STOPS)
def test_any_split_into_tokens_gives_the_text_before_the_first_stop(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    stream, deltas = run(split(text.encode(), cuts), stops)
    assert ("".join(deltas), stream.stopped) == expected(text, stops)
    assert stream.text == "".join(deltas)


@given(st.binary(max_size=30) | TEXTS.map(str.encode), CUTS)
def test_any_bytes_decode_as_in_one_piece(data: bytes, cuts: list[int]) -> None:
    _, deltas = run(split(data, cuts), [])
    assert "".join(deltas) == data.decode("utf-8", errors="replace")


@given(TEXTS, CUTS, st.integers(0, 100))
def test_a_text_that_is_cut_ends_with_a_whole_character_and_so_do_its_tokens(
    text: str, cuts: list[int], n: int
) -> None:
    pieces = split(text.encode(), cuts)
    pieces = pieces[: n % (len(pieces) + 1)]
    stream = TextStream(pieces.__getitem__)
    deltas = [stream.push(token) for token in range(len(pieces))]
    deltas.append(stream.finish(cut=True))
    assert "".join(deltas) == b"".join(pieces).decode("utf-8", errors="ignore")
    kept = b"".join(pieces[: stream.kept]).decode()  # strictly: no character is cut
    assert stream.text.startswith(kept) and stream.whole == (stream.text == kept)


@given(TEXTS, CUTS, STOPS)
def test_nothing_is_shown_that_could_become_a_stop_and_nothing_else_is_held(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    pieces = split(text.encode(), cuts)
    stream, seen = TextStream(pieces.__getitem__, stops), b""
    for token, piece in enumerate(pieces):
        stream.push(token)
        seen += piece
        decoded = seen.decode("utf-8", errors="ignore")  # complete characters; only the end can be incomplete
        beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
        tail = max((b for b in beginnings if decoded.endswith(b)), key=len, default="")
        if stream.stopped is None:
            assert stream.text == decoded[: len(decoded) - len(tail)]
        else:
            assert stream.text == expected(decoded, stops)[0]


@given(st.binary(max_size=20) | TEXTS.map(str.encode), CUTS, STOPS, st.booleans())
def test_kept_tokens_are_the_most_whose_bytes_decode_to_a_prefix_of_the_text(
    data: bytes, cuts: list[int], stops: list[str], finished: bool
) -> None:
    pieces = split(data, cuts)
    stream = TextStream(pieces.__getitem__, stops)
    for token in range(len(pieces)):
        stream.push(token)
    if finished:
        stream.finish()
    decoded = b"".join(pieces[: stream.kept]).decode("utf-8", errors="replace")
    assert stream.text.startswith(decoded)
    # One more token would go beyond the text, or end inside a character.
    for more in range(stream.kept + 1, len(pieces) + 1):
        data = b"".join(pieces[:more])
        whole = data.decode("utf-8", errors="replace")
        partial = data.decode("utf-8", errors="ignore") != whole
        assert partial or not stream.text.startswith(whole)


def test_a_character_is_shown_when_its_last_byte_arrives() -> None:
    _, deltas = run([b"a\xf0", b"\x9f\x99", b"\x82b"], [])
    assert deltas == ["a", "", "🙂b", ""]


def test_an_invalid_byte_becomes_one_mark_and_what_follows_stays() -> None:
    _, deltas = run([b"\xe2\x82", b"A\xff", b"\xc3\xa9", b"\x80."], [])
    assert deltas == ["", "\ufffdA\ufffd", "é", "\ufffd.", ""]


def test_an_incomplete_character_at_the_end_becomes_a_mark() -> None:
    stream, deltas = run([b"ok", b"\xf0\x9f"], ["stop"])
    assert deltas == ["ok", "", "\ufffd"]
    assert (stream.text, stream.stopped, stream.kept) == ("ok\ufffd", None, 2)


def test_a_stop_over_several_tokens_never_shows() -> None:
    stream, deltas = run([b"Hi.\n", b"\nUs", b"er", b": more"], ["\n\nUser:"])
    assert deltas == ["Hi.", "", "", "", ""]
    assert (stream.text, stream.stopped, stream.kept) == ("Hi.", "\n\nUser:", 0)


def test_what_was_held_is_shown_when_it_becomes_no_stop() -> None:
    stream, deltas = run([b"a\n", b"\n", b"U", b"p"], ["\n\nUser:"])
    assert deltas == ["a", "", "", "\n\nUp", ""]
    assert stream.kept == 4


def test_of_several_stops_in_one_token_the_earliest_counts() -> None:
    stream, _ = run([b"one ", b"two END three STOP four"], ["STOP", "END", "four"])
    assert (stream.text, stream.stopped, stream.kept) == ("one two ", "END", 1)


def test_a_stop_inside_a_longer_one_waits_for_it() -> None:
    assert [run([b"xabc", b"d"], ["abcd", "bc"])[0].text, run([b"xabcd"], ["abcd", "bc"])[0].text] == ["x", "x"]
    stream, deltas = run([b"xabc", b"e"], ["abcd", "bc"])
    assert (deltas, stream.stopped) == (["x", "a", ""], "bc")
    stream, deltas = run([b"xabc"], ["abcd", "bc"])
    assert (deltas, stream.stopped) == (["x", "a"], "bc")


def test_of_stops_that_begin_together_the_one_complete_first_is_named() -> None:
    for pieces in ([b"xabc"], [b"xa", b"b", b"c"]):
        stream, _ = run(pieces, ["abc", "ab"])
        assert (stream.text, stream.stopped) == ("x", "ab")


def test_after_a_stop_nothing_is_shown_or_counted() -> None:
    stream, deltas = run([b"a", b"b", b"STOP", b"c"], ["STOP"])
    assert (deltas, stream.kept) == (["a", "b", "", "", ""], 2)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(SettingError, match="empty"):
        TextStream(lambda _: b"", ["x", ""])
