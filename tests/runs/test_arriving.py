"""The lines of a run's input: those of a file are ready at once, those of a pipe later; no thread is left over."""

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlocal.apps.batch.records import Form, Record
from eftlocal.errors import EftError
from eftlocal.runs.arriving import AHEAD, Lines, lines
from eftlocal.runs.lines import LineError
from eftlocal.runs.reader import Source


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.FileIO]:
    """The writing end of a pipe. The reading end is standard input."""
    reading, writing = os.pipe()
    with io.FileIO(reading) as stdin, io.FileIO(writing, "w") as end:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(stdin)))
        yield end
        end.close()
        wait_until_no_thread_reads()  # one that went on reading would take what the next test writes


def opened(path: str) -> Lines[Any]:
    source = Source.of(path)
    return lines(source.records(Form(where="in")), waits=source.waits)


def prompt(line: Any) -> object:
    assert isinstance(line, Record)
    return line.fields["prompt"]


def wait_until_no_thread_reads() -> None:
    deadline = time.monotonic() + 10
    while any(thread.name == "eftlocal-reader" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_files_lines_need_no_waiting_and_no_thread(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n")
    found = opened(str(path))
    assert [prompt(found.take(wait=False)) for _ in range(2)] == ["one", "two"]
    assert not any(thread.name == "eftlocal-reader" for thread in threading.enumerate())
    assert found.take(wait=True) is None and found.ended


def test_a_pipes_lines_come_as_they_are_written(pipe: io.FileIO) -> None:
    found = opened("-")
    assert found.take(wait=False) is None and not found.ended
    pipe.write(b"one\n")
    assert prompt(found.take(wait=True)) == "one"
    assert found.take(wait=False) is None
    threading.Timer(0.02, pipe.write, [b"two\n"]).start()
    assert prompt(found.take(wait=True)) == "two"
    pipe.close()
    assert found.take(wait=True) is None and found.ended
    wait_until_no_thread_reads()


def test_who_waits_for_a_pipe_can_be_woken(pipe: io.FileIO) -> None:
    found = opened("-")
    threading.Timer(0.02, found.wake).start()
    assert found.take(wait=True) is None and not found.ended


def test_a_bad_line_and_an_input_that_cannot_be_read_come_in_their_place(pipe: io.FileIO) -> None:
    found = opened("-")
    pipe.write(b'{"prompt": "one"}\n{"prompt": 1}\n')
    assert prompt(found.take(wait=True)) == "one"
    assert isinstance(found.take(wait=True), LineError)
    pipe.close()
    with pytest.raises(EftError, match="No such file"):
        opened("no/such/file.txt")


def test_no_more_lines_are_read_ahead_than_may_wait_and_closing_ends_the_thread(pipe: io.FileIO) -> None:
    pipe.write(b"".join(b"line %d\n" % i for i in range(4 * AHEAD)))
    pipe.close()
    found = opened("-")
    assert prompt(found.take(wait=True)) == "line 0"
    time.sleep(0.05)
    assert any(thread.name == "eftlocal-reader" for thread in threading.enumerate())  # it waits for room
    found.close()
    wait_until_no_thread_reads()
