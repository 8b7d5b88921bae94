"""Servers that do not answer now and are asked again: listeners are told when that begins and when it ends."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

__all__ = ["Listener", "Request", "Trouble", "told"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is known of a server that did not answer.

    url      its address
    reason   why it is asked again, in one line; None when it is over
    answers  whether it answers again; if not, it was given up, which an error says, or nobody waits any more
    """

    url: str
    reason: str | None
    answers: bool = False

    def __str__(self) -> str:
        """It as a line for people; empty where an error has told it."""
        if self.reason is not None:
            return f"{self.reason} It is asked again."
        return f"{self.url} answers again." if self.answers else ""


Listener = Callable[[Trouble], None]

_lock = threading.RLock()
_listeners: list[Listener] = []
_waiting: Counter[str] = Counter()  # server -> requests that wait to ask it again


@contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Within this context, `listener` is told of each trouble once, and of its end. It is called in any thread."""
    with _lock:
        _listeners.append(listener)
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


class Request:
    """One request to a server; use it as a context manager, and say whether it was answered."""

    def __init__(self, url: str) -> None:
        self._url, self._waits = url, False
        self.answered = False

    def asks_again(self, reason: str) -> None:
        """It failed, for this reason, and is asked again."""
        if self._waits:
            return
        self._waits = True
        with _lock:
            _waiting[self._url] += 1
            if _waiting[self._url] == 1:
                _tell(Trouble(self._url, reason))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._waits:
            return
        with _lock:
            _waiting[self._url] -= 1
            if not _waiting[self._url]:
                _tell(Trouble(self._url, None, self.answered))


def _tell(trouble: Trouble) -> None:
    for listener in tuple(_listeners):
        listener(trouble)
