"""Reading ahead: the same items in the same order, none waited for, no more than so many held."""

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from eftlocal.apps.batch import ahead as module
from eftlocal.apps.batch.ahead import ahead
from eftlocal.errors import EftError


def whole(items: Iterator[Any]) -> list[Any]:
    """Those that came, until the end."""
    return [item for item in items if item is not None]


def wait_until_no_thread_reads() -> None:
    deadline = time.monotonic() + 10
    while any(thread.name == "eftlocal-reader" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_every_item_comes_in_order() -> None:
    assert whole(ahead(iter(range(1000)))) == list(range(1000))
    assert whole(ahead(iter([]))) == []
    wait_until_no_thread_reads()


def test_what_is_not_there_yet_is_none_and_is_not_waited_for() -> None:
    given = threading.Event()

    def items() -> Iterator[str]:
        yield "a"
        given.wait()
        yield "b"

    found = ahead(items())
    assert next(item for item in found if item) == "a"
    assert [next(found) for _ in range(5)] == [None] * 5
    given.set()
    assert whole(found) == ["b"]


@pytest.mark.parametrize("error", [EftError("bad"), KeyboardInterrupt()])
def test_an_error_comes_in_its_place(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise error

    found, got = ahead(items()), []
    with pytest.raises(type(error)) as raised:
        for item in found:
            got.append(item)  # noqa: PERF402 - what came before the error is looked at
    assert raised.value is error
    assert [item for item in got if item is not None] == [0, 1, 2]


def test_only_so_many_are_read_ahead_and_closing_it_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 5)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in itertools.count(1):
            taken = i
            yield i

    found = ahead(items())
    assert next(item for item in found if item) == 1
    time.sleep(0.05)
    assert taken <= 1 + 5 + 1  # taken, waiting, and held by the thread
    found.close()
    wait_until_no_thread_reads()
