"""The link to a model on a server: which engine it is, its connections, and rows of several sequences at once."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from eftlocal.catalog.server import Server
from eftlocal.errors import RemoteError
from eftlocal.runtime.remote.connection import Connection, Timing
from eftlocal.runtime.remote.engines import Asked, Engine, Facts, Row
from eftlocal.runtime.remote.llama_server import LlamaServer
from eftlocal.runtime.remote.sglang import Sglang
from eftlocal.runtime.remote.vllm import Vllm

__all__ = ["Link", "connect"]

MOST_CONNECTIONS: Final = 16
ROUNDS: Final = 5


class Link:
    """Asks an engine for rows. Rows of several sequences are asked for at the same time, each on its own connection."""

    def __init__(self, server: Server, engine: Engine, first: Connection) -> None:
        self.server, self.engine = server, engine
        self._free = [first]
        self._all = [first]
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def facts(self) -> Facts:
        return self.engine.facts

    @property
    def timing(self) -> Timing:
        """Where the time of all requests so far went."""
        total = Timing()
        for timing in [connection.timing for connection in self._all]:
            for name in Timing.__slots__:
                setattr(total, name, getattr(total, name) + getattr(timing, name))
        return total

    def rows(self, asked: Sequence[Asked]) -> list[list[Row]]:
        """The rows of each question, in order. Raises RemoteError, ContextError, and Stopped at Ctrl-C."""
        if len(asked) == 1:
            return [self._rows(asked[0])]
        if self._pool is None:
            n = min(self.facts.parallel, MOST_CONNECTIONS)
            self._pool = ThreadPoolExecutor(n, thread_name_prefix="eftlocal-remote")
        futures = [self._pool.submit(self._rows, one) for one in asked]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def connection(self) -> Connection:
        """A connection that nobody uses; give it back with `release`."""
        with self._lock:
            if self._free:
                return self._free.pop()
        made = Connection(self.server)
        self._all.append(made)
        return made

    def release(self, connection: Connection) -> None:
        with self._lock:
            self._free.append(connection)

    def round_trip(self) -> float:
        """The shortest of a few requests that compute nothing, in seconds: the way there and back."""
        connection = self.connection()
        try:
            connection.get(self.engine.idle)  # opens it
            times = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                connection.get(self.engine.idle)
                times.append(time.perf_counter() - began)
            return min(times)
        finally:
            self.release(connection)

    def close(self) -> None:
        """End all requests, and close all connections. Nothing can be asked afterwards."""
        for connection in self._all:
            connection.dropped = True  # else it waits for a request whose answer nobody reads
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        for connection in self._all:
            connection.close()

    def _rows(self, asked: Asked) -> list[Row]:
        connection = self.connection()
        try:
            rows = self.engine.rows(connection, asked)
            if connection.opened != connection.known:
                self._must_run_the_same(connection)
                connection.known = connection.opened
            return rows
        finally:
            self.release(connection)

    def _must_run_the_same(self, connection: Connection) -> None:
        """A server that was started again may run another model, also one of the same name.

        Weights that it does not tell now, or did not tell at the start, are no evidence.
        """
        known, found = (self.facts.model, self.facts.weights), self.engine.runs(connection)
        if found[0] != known[0] or (all((found[1], known[1])) and found[1] != known[1]):
            now, before = (", ".join(dict.fromkeys(filter(None, one))) for one in (found, known))
            raise RemoteError(
                f"{self.server.url} runs another model now: {now}; it was {before}.", "Load the emulator again."
            )


def connect(server: Server) -> Link:
    """The link to a server: finds out which engine it is, and whether its log-probabilities are the model's own.

    Raises RemoteError.
    """
    connection = Connection(server)
    try:
        engine = _engine(connection)
        engine.check(connection)
    finally:
        connection.close()  # it opens again when rows are asked for
    return Link(server, engine, connection)


def _engine(connection: Connection) -> Engine:
    server = connection.server
    dialects: dict[str, Callable[[Connection], Engine | None]] = {
        "llama-server": LlamaServer.at,
        "vllm": Vllm.at,
        "sglang": Sglang.at,
    }
    for name, at in dialects.items():
        if server.engine in (None, name) and (engine := at(connection)) is not None:
            return engine
    wanted = server.engine or f"one of {', '.join(dialects)}"
    hint = 'Name the engine that runs there: engine = "..." in models.toml.'
    raise RemoteError(f"{server.url} does not answer as {wanted} does.", hint)
