"""One connection to a server: JSON in, JSON out, kept alive. Ctrl-C ends a request at once, and nothing waits for ever.

The standard library's http.client is used: httpx cannot be interrupted while it waits, and a step of decoding would pay
for its layers.
"""

import http.client
import json
import ssl
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

from eftlocal.catalog.server import Server
from eftlocal.errors import RemoteError
from eftlocal.runtime.llama.interrupt import FLAG, Stopped
from eftlocal.runtime.remote import troubles
from eftlocal.runtime.remote.faults import NO_ENGINE, BusyError, RefusedError, key_of, refused, unreachable
from eftlocal.runtime.remote.sockets import LOOK_S, TooSlowError, Waits, opened

__all__ = ["TRIES", "BusyError", "Connection", "RefusedError", "Timing"]

ANSWER_S: Final = 600.0  # without a byte; a long prompt may take so long on a slow server
MOST_BYTES: Final = 256 << 20
PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before each new try
TRIES: Final = len(PAUSES) + 1
LONGEST_PAUSE: Final = 30.0


@dataclass(slots=True)
class Timing:
    """Where the time of requests went, in seconds: until the first byte of the answers, their transfer, and reading."""

    requests: int = 0
    waited: float = 0.0
    transfer: float = 0.0
    parsed: float = 0.0
    received: int = 0  # bytes


@dataclass(slots=True)
class Connection:
    """A connection to one server, for one thread at a time. It is opened when it is needed, and again after a fault.

    tries    how often a request is made that may be made again
    opened   how often it was opened: another server may have answered since
    known    `opened` when what runs there was last found to be right
    dropped  set it in any thread: the request that runs ends, and so do all later ones, by raising Stopped
    """

    server: Server
    answer_s: float = ANSWER_S
    tries: int = TRIES
    timing: Timing = field(default_factory=Timing)
    dropped: bool = False
    opened: int = 0
    known: int = 0
    _http: http.client.HTTPConnection | None = field(default=None, init=False)

    def get(self, path: str, *, tries: int = 1) -> Any:
        """The JSON at a path. Raises RemoteError, RefusedError for an answer of 4xx, and Stopped at Ctrl-C."""
        return self._ask("GET", path, None, tries)

    def post(self, path: str, body: object, *, tries: int | None = None) -> Any:
        """The JSON that answers `body`. Errors as for `get`."""
        data = json.dumps(body, separators=(",", ":")).encode()
        return self._ask("POST", path, data, self.tries if tries is None else tries)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    # --- one request --------------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: bytes | None, tries: int) -> Any:
        with troubles.Request(self.server.url) as request:
            for left in reversed(range(tries)):
                try:
                    found = self._once(method, path, body)
                except BusyError as error:
                    if not left or (error.wait or 0.0) > LONGEST_PAUSE:
                        raise
                    pause = PAUSES[min(tries - 1 - left, len(PAUSES) - 1)]
                    request.asks_again(error.message)
                    self._sleep(max(pause, error.wait or 0.0))
                else:
                    request.answered = True
                    return found
        raise AssertionError("at least one try")

    def _once(self, method: str, path: str, body: bytes | None) -> Any:
        fresh = self._http is None
        try:
            return self._exchange(method, path, body)
        except OSError as error:
            self.close()
            if fresh or not _closed_meanwhile(error):
                raise unreachable(self.server, error) from error
        except http.client.HTTPException as error:
            self.close()
            raise BusyError(f"{self.server.url} sent what is not HTTP, or only a part of an answer.") from error
        except TooSlowError as error:
            self.close()
            raise RemoteError(
                f"{self.server.url} sends its answer too slowly to wait for the end.",
                "A smaller `top` in models.toml makes answers shorter.",
            ) from error
        except BaseException:
            self.close()  # what is left of the answer must not be read as the next one
            raise
        return self._once(method, path, body)  # nobody had used the connection for a while

    def _exchange(self, method: str, path: str, body: bytes | None) -> Any:
        if self._http is None:
            self._http = opened(self.server, Waits(self._may_go_on, self.answer_s))
            self.opened += 1
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if (key := key_of(self.server)) is not None:
            headers["Authorization"] = f"Bearer {key}"
        began = time.perf_counter()
        self._http.request(method, path, body, headers)
        response = self._http.getresponse()
        first = time.perf_counter()
        data = response.read(MOST_BYTES + 1)
        read = time.perf_counter()
        received = len(data)
        data = self._unpacked(data, response.headers.get("Content-Encoding", ""))
        if len(data) > MOST_BYTES:
            self.close()
            raise RemoteError(f"{self.server.url} sent more than {MOST_BYTES >> 20} MB.")
        if response.will_close:
            self.close()
        if response.status != 200:
            raise refused(self.server, response.status, dict(response.headers), data)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BusyError(f"{self.server.url} answered {path} with what is not JSON.", NO_ENGINE) from error
        timing, done = self.timing, time.perf_counter()
        timing.requests += 1
        timing.waited += first - began
        timing.transfer += read - first
        timing.parsed += done - read
        timing.received += received
        return found

    def _unpacked(self, data: bytes, encoding: str) -> bytes:
        """An answer that a proxy packed although it was not asked to. One byte too much means that it is too long."""
        if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
            return data
        try:
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, MOST_BYTES + 1)
        except zlib.error as error:
            raise BusyError(f"{self.server.url} sent a packed answer that cannot be unpacked.") from error

    def _may_go_on(self) -> None:
        if self.dropped or FLAG[0] != b"\0":
            raise Stopped

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._may_go_on()
            time.sleep(min(LOOK_S, left))


def _closed_meanwhile(error: OSError) -> bool:
    """Whether a connection was closed, or forgotten, since its last use: the request may be made again at once."""
    died = isinstance(error, TimeoutError) and error.errno is not None
    return died or isinstance(error, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError))
