"""The inbox between threads: items keep their order, only so many fit, and no thread waits for ever."""

import itertools
import signal
import threading
import time

import pytest

from eftlocal.decoding.inbox import Inbox
from eftlocal.errors import EftError


def filled(*items: int, most: int = 64) -> Inbox[int]:
    inbox = Inbox[int](most)
    for item in items:
        inbox.put(item)
    return inbox


def test_items_come_in_order_and_the_end_after_them() -> None:
    inbox = filled(1, 2, 3)
    inbox.end()
    assert [inbox.take(wait=True) for _ in range(3)] == [1, 2, 3]
    assert not inbox.ended
    assert inbox.take(wait=True) is None and inbox.ended
    assert inbox.take(wait=True) is None  # does not wait for ever


def test_an_item_that_is_not_there_yet_is_waited_for_only_where_that_is_asked() -> None:
    inbox = filled()
    assert inbox.take(wait=False) is None and not inbox.ended
    threading.Timer(0.02, inbox.put, [7]).start()
    assert inbox.take(wait=True) == 7


@pytest.mark.parametrize("error", [EftError("bad"), KeyboardInterrupt()])
def test_an_error_is_raised_behind_the_items_before_it(error: BaseException) -> None:
    inbox = filled(1)
    inbox.end(error)
    assert inbox.take(wait=False) == 1
    with pytest.raises(type(error)) as raised:
        inbox.take(wait=False)
    assert raised.value is error and inbox.ended


def test_who_waits_can_be_woken_also_from_a_signal_handler() -> None:
    inbox = filled()
    before = signal.signal(signal.SIGALRM, lambda *_: inbox.wake())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert inbox.take(wait=True) is None and not inbox.ended
    finally:
        signal.signal(signal.SIGALRM, before)
    inbox.wake()  # nobody waits: the next item still comes
    inbox.put(5)
    assert inbox.take(wait=False) == 5


def test_only_so_many_items_wait_and_closing_lets_those_go_who_would_put_more() -> None:
    inbox = Inbox[int](5)
    put: list[int] = []

    def fill() -> None:
        for i in itertools.count():
            if not inbox.put(i):
                return
            put.append(i)

    threads = [threading.Thread(target=fill) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inbox.take(wait=True) is not None
    deadline = time.monotonic() + 10
    while len(put) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(put) == 6  # one was taken, five are left
    inbox.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_a_closed_inbox_gives_and_takes_nothing_and_nobody_waits() -> None:
    inbox = filled(1, 2)
    inbox.end()
    inbox.close()
    assert inbox.take(wait=True) is None and inbox.ended
    assert not inbox.put(3)


def test_an_inbox_that_has_ended_takes_no_more_items() -> None:
    inbox = filled(1, most=1)
    inbox.end()
    assert not inbox.put(2) and not inbox.put(3)  # and nobody waits for room
    assert inbox.take(wait=True) == 1 and inbox.take(wait=True) is None and inbox.ended


def test_a_wake_is_not_lost_to_a_take_that_does_not_wait() -> None:
    inbox = filled()
    inbox.wake()
    assert inbox.take(wait=False) is None
    assert inbox.take(wait=True) is None and not inbox.ended


def test_take_waits_for_an_item_at_most_the_seconds_given() -> None:
    inbox: Inbox[int] = Inbox(1)
    assert inbox.take(wait=0.01) is None and not inbox.ended
    later = threading.Timer(0.05, inbox.put, [7])
    later.start()
    assert inbox.take(wait=30.0) == 7
    later.join()
