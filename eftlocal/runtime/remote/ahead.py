"""A prompt that a server reads before a row is asked for, into its prefix cache, while the members here read theirs.

Nothing depends on it: where it fails, the request for the row sends the prompt as always, and tells what is wrong.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress

from eftlocal.errors import EftError
from eftlocal.runtime.llama.interrupt import Stopped
from eftlocal.runtime.remote.connection import Connection
from eftlocal.runtime.remote.engines import Asked
from eftlocal.runtime.remote.link import Link

__all__ = ["Ahead"]


class Ahead:
    """One prompt that is being read, on a connection of its own.

    Its last token is left out, so that the request for that row has something left to compute.
    """

    def __init__(self, link: Link, sequence: int, prompt: Sequence[int]) -> None:
        """`prompt` has two tokens or more."""
        self._prompt = list(prompt)
        self._connection = Connection(link.server, tries=1)
        self._thread = threading.Thread(
            target=self._read, args=(link, sequence), name="eftlocal-ahead", daemon=True
        )  # a daemon: Python's end does not wait for a server
        self._thread.start()

    def begins(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens` begin with this prompt."""
        return list(tokens[: len(self._prompt)]) == self._prompt

    def wait(self) -> None:
        """Wait until it has been read, or cannot be. Ctrl-C ends it."""
        self._thread.join()

    def drop(self) -> None:
        """Nobody needs it. Does not wait."""
        self._connection.dropped = True

    def _read(self, link: Link, sequence: int) -> None:
        try:
            with suppress(EftError, Stopped):
                link.engine.rows(self._connection, Asked(sequence, self._prompt[:-1], (), 1))
        finally:
            self._connection.close()
