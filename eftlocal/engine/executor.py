"""The threads in which members decode: at the same time or one after the other, as a `Split` says."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from eftlocal.runtime.plan.threads import Chain, Split

__all__ = ["Executor"]


class Executor:
    """Runs one decode for each member of a split. Two splits can run at the same time if they share no member."""

    def __init__(self, n_members: int) -> None:
        self._pool = ThreadPoolExecutor(n_members + 1, thread_name_prefix="eftlocal-member")
        self._busy: dict[int, Future[None]] = {}  # member -> its last task in another thread; it may be done

    def run(self, split: Split, decode: Callable[[int], None]) -> None:
        """Call `decode` for each member. An error is raised after all members that began have finished.

        After a second Ctrl-C, members may still be decoding. The next call that needs one of them waits for it.
        """
        self.wait(split.threads)
        self._rounds(split, decode)

    def start(self, split: Split, decode: Callable[[int], None]) -> Future[None]:
        """As `run`, but all members decode in other threads. Returns a future, which raises the error."""
        self.wait(split.threads)
        return self._submit(tuple(split.threads), partial(self._rounds, split, decode))

    def wait(self, members: Iterable[int]) -> None:
        """Wait until none of these members decodes. Errors of those decodes are ignored."""
        _wait(future for member in members if (future := self._busy.get(member)) is not None)

    def close(self) -> None:
        """Wait for all members, then end the threads."""
        self._pool.shutdown()

    def _rounds(self, split: Split, decode: Callable[[int], None]) -> None:
        beside = [self._submit((member,), partial(decode, member)) for member in split.beside]
        try:
            for first, *others in split.rounds:
                futures = [self._submit(chain, partial(_in_turn, chain, decode)) for chain in others]
                try:
                    _in_turn(first, decode)
                finally:
                    _wait(futures)
                for future in futures:
                    future.result()
        finally:
            _wait(beside)
        for future in beside:
            future.result()

    def _submit(self, members: Chain, work: Callable[[], None]) -> Future[None]:
        future = self._pool.submit(work)
        self._busy.update(dict.fromkeys(members, future))
        return future


def _in_turn(chain: Chain, decode: Callable[[int], None]) -> None:
    for member in chain:
        decode(member)


def _wait(futures: Iterable[Future[None]]) -> None:
    if left := [future for future in futures if not future.done()]:  # `wait` takes 7 us, even if all are done
        wait(left)
