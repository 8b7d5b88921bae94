"""Items that are waited for in a thread of their own, so that a slow pipe does not hold up what runs already."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Final, NamedTuple, TypeVar

__all__ = ["ahead"]

MOST: Final = 64  # items that wait to be taken

T = TypeVar("T")


class _End(NamedTuple):
    error: BaseException | None


def ahead(items: Iterator[T]) -> Generator[T | None, None, None]:
    """The items, in order; None where the next one is not there yet. Raises what `items` raises, in its place.

    The thread holds at most MOST items that nobody has taken. It ends with the items, or when this iterator is closed;
    where it waits for input then, it does not keep the process from ending.
    """
    found: Queue[T | _End] = Queue(MOST)
    left = Event()

    def read() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                found.put(item)
                if left.is_set():
                    return
        except BaseException as raised:
            error = raised
        found.put(_End(error))

    Thread(target=read, name="eftlocal-reader", daemon=True).start()
    try:
        while True:
            try:
                item = found.get_nowait()
            except Empty:
                yield None
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        left.set()
        with suppress(Empty):  # makes room for the item that the thread may be holding
            while True:
                found.get_nowait()
