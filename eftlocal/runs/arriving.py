"""The lines of a run's input. Lines of a file are always ready; a run may have to wait for lines of a pipe."""

from collections.abc import Generator, Iterator
from threading import Thread
from typing import Final, Generic, Protocol, TypeVar

from eftlocal.decoding.inbox import Inbox

__all__ = ["Lines", "lines"]

AHEAD: Final = 64  # the most lines that are read ahead

Line = TypeVar("Line")
Got = TypeVar("Got", covariant=True)


class Lines(Protocol[Got]):
    """The lines of an input, in order."""

    @property
    def ended(self) -> bool:
        """Whether the last line was taken."""
        ...

    def take(self, *, wait: bool) -> Got | None:
        """Take the next line. With `wait`, wait until it has come.

        Returns None after the last line, if no line has come yet and `wait` is False, or if `wake` ended the waiting.
        """
        ...

    def wake(self) -> None:
        """Make a `take` that waits return None. May be called in a signal handler."""
        ...

    def close(self) -> None:
        """Read no more lines."""
        ...


def lines(records: Generator[Line, None, None], *, waits: bool) -> Lines[Line]:
    """The lines as a run takes them. An error of reading is raised by `take`, after the lines before it.

    waits  whether lines may still have to come
    """
    return _Piped(records) if waits else _AtHand(records)


class _AtHand(Generic[Line]):
    """Lines of a file. They are read without a thread, so that every run forms the same batches."""

    def __init__(self, records: Generator[Line, None, None]) -> None:
        self._records = records
        self.ended = False

    def take(self, *, wait: bool) -> Line | None:
        line = next(self._records, None)
        self.ended = line is None
        return line

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self._records.close()


class _Piped(Generic[Line]):
    """Lines of a pipe. A thread reads them, so that running answers do not wait for a slow pipe.

    It is a daemon thread: the process can end while the thread waits for input.
    """

    def __init__(self, records: Iterator[Line]) -> None:
        self._inbox = Inbox[Line](AHEAD)
        Thread(target=self._read, args=(records,), name="eftlocal-reader", daemon=True).start()

    def _read(self, records: Iterator[Line]) -> None:
        try:
            for line in records:
                if not self._inbox.put(line):
                    return
        except BaseException as error:
            self._inbox.end(error)
        else:
            self._inbox.end()

    @property
    def ended(self) -> bool:
        return self._inbox.ended

    def take(self, *, wait: bool) -> Line | None:
        return self._inbox.take(wait=wait)

    def wake(self) -> None:
        self._inbox.wake()

    def close(self) -> None:
        self._inbox.close()
