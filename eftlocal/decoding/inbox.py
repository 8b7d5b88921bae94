"""The inbox of a thread that owns a scheduler: other threads put items in, and the owner takes them between steps."""

from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Semaphore
from typing import Final, Generic, NamedTuple, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class _End(NamedTuple):
    error: BaseException | None


WAKE: Final = object()


class Inbox(Generic[T]):
    """A first-in, first-out queue. One thread takes items; any thread may put items in, or wake the taker.

    `most` items fit. A thread that puts in one more waits until an item is taken.
    """

    def __init__(self, most: int) -> None:
        self._items: SimpleQueue[object] = SimpleQueue()  # its `put` is safe in a signal handler
        self._room = Semaphore(most)
        self._closed = False
        self._woken = False
        self.ended = False  # whether no more items come and all were taken

    def put(self, item: T) -> bool:
        """Put an item in. Returns False if the inbox has ended or is closed: nobody will take it."""
        self._room.acquire()
        if self._closed:
            self._room.release()  # for the next thread that waits
            return False
        self._items.put(item)
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more items come. After the last one, `take` raises `error`, or returns None if there is none."""
        self._closed = True
        self._items.put(_End(error))
        self._room.release()  # for a thread that waits in `put`

    def take(self, *, wait: bool | float) -> T | None:
        """Take the next item. With `wait`, wait until there is one, or at most so many seconds.

        Returns None if the inbox has ended, if it is empty and there is no waiting (any more), or if `wake` ended the
        waiting. Raises the error that was given to `end`.
        """
        while not self.ended:
            if wait and self._woken:
                self._woken = False
                return None
            try:
                item = self._items.get(block=bool(wait), timeout=None if wait is True else float(wait))
            except Empty:
                return None
            if item is WAKE:
                self._woken = True  # for the next `take` that waits: this one, or one that comes
            elif isinstance(item, _End):
                self.ended = True
                if item.error is not None:
                    raise item.error
            else:
                self._room.release()
                return item  # type: ignore[return-value]  # what `put` was given
        return None

    def wake(self) -> None:
        """Make a `take` that waits, or the next one that would, return None. May be called in a signal handler."""
        self._items.put(WAKE)

    def close(self) -> None:
        """Drop all items and accept no more. Threads that wait in `put` or `take` return."""
        self._closed = True
        with suppress(Empty):
            while True:
                self._items.get_nowait()
        self._items.put(_End(None))
        self._room.release()
