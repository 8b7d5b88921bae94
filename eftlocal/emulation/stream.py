"""The text of one answer, piece by piece while it is decoded."""

from collections.abc import Callable, Iterator

from eftlocal.decoding.generation import Generation, Reply
from eftlocal.decoding.scheduler import Scheduler
from eftlocal.decoding.thinking import Splitter

__all__ = ["Stream"]


class Stream:
    """An iterator over the text deltas of one answer. `reply` is the answer so far.

    `cancelled` is called before each step; when it returns True, the answer ends and keeps its text. Closing the
    iterator does the same. The iterator raises the answer's error.
    """

    def __init__(self, generation: Generation, scheduler: Scheduler, cancelled: Callable[[], bool]) -> None:
        self._generation = generation
        self._deltas = _deltas(generation, scheduler, cancelled)

    def __iter__(self) -> Iterator[str]:
        return self._deltas

    def splitter(self) -> Splitter:
        """A splitter of the deltas into the answer's thoughts and what it says."""
        return self._generation.splitter()

    @property
    def n_tokens(self) -> int:
        """How many tokens the answer has so far."""
        return len(self._generation.tokens)

    @property
    def reply(self) -> Reply:
        """The answer with its finish reason, usage and timings. It is complete when the stream has ended."""
        return self._generation.reply


def _deltas(generation: Generation, scheduler: Scheduler, cancelled: Callable[[], bool]) -> Iterator[str]:
    scheduler.add(generation)
    try:
        while scheduler:
            if cancelled():
                scheduler.cancel(generation)
            yield from (text for _, text in scheduler.step() if text)
        if generation.error is not None:
            raise generation.error
    finally:
        scheduler.close()
