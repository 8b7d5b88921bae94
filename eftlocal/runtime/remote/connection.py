"""One connection to a server: JSON in, JSON out, kept alive. Ctrl-C ends a request at once, and nothing waits for ever.

The standard library's http.client is used: httpx cannot be interrupted while it waits, and a step of decoding would pay
for its layers.
"""

import http.client
import io
import json
import os
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from eftlocal.catalog.server import Server
from eftlocal.errors import RemoteError
from eftlocal.runtime.llama.interrupt import FLAG, Stopped

__all__ = ["TRIES", "BusyError", "Connection", "RefusedError", "Timing"]

CONNECT_S: Final = 5.0
ANSWER_S: Final = 600.0  # without a byte; a long prompt may take so long on a slow server
SILENCE_S: Final = 10.0  # without a byte, after which it is asked on another connection whether it still lives
LOOK_S: Final = 0.05  # how often a wait looks for Ctrl-C
MOST_BYTES: Final = 256 << 20
PAUSES: Final = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before each new try
TRIES: Final = len(PAUSES) + 1
LONGEST_PAUSE: Final = 30.0


class RefusedError(RemoteError):
    """The server understood the request and refuses it: an answer of 4xx. `status` and `text` are its own."""

    def __init__(self, message: str, hint: str | None = None, *, status: int, text: str) -> None:
        super().__init__(message, hint)
        self.status, self.text = status, text


class BusyError(RemoteError):
    """The server does not answer now, and may later."""

    def __init__(self, message: str, hint: str | None = None, *, wait: float | None = None) -> None:
        super().__init__(message, hint)
        self.wait = wait


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

    retried  is told of each new try, with the reason in one line
    """

    server: Server
    retried: Callable[[str], None] | None = None
    answer_s: float = ANSWER_S
    timing: Timing = field(default_factory=Timing)
    _http: http.client.HTTPConnection | None = field(default=None, init=False)

    def get(self, path: str, *, tries: int = 1) -> Any:
        """The JSON at a path. Raises RemoteError, RefusedError for an answer of 4xx, and Stopped at Ctrl-C."""
        return self._ask("GET", path, None, tries)

    def post(self, path: str, body: object, *, tries: int = TRIES) -> Any:
        """The JSON that answers `body`. Errors as for `get`."""
        return self._ask("POST", path, json.dumps(body, separators=(",", ":")).encode(), tries)

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    # --- one request --------------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: bytes | None, tries: int) -> Any:
        for left in reversed(range(tries)):
            try:
                return self._once(method, path, body)
            except BusyError as error:
                if not left:
                    raise
                pause = PAUSES[min(tries - 1 - left, len(PAUSES) - 1)]
                if self.retried is not None:
                    self.retried(error.message)
                _sleep(min(max(pause, error.wait or 0.0), LONGEST_PAUSE))
        raise AssertionError("at least one try")

    def _once(self, method: str, path: str, body: bytes | None) -> Any:
        fresh = self._http is None
        try:
            return self._exchange(method, path, body)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if fresh:
                raise BusyError(f"{self.server.url} closed the connection.") from error
        except OSError as error:
            self.close()
            raise self._unreachable(error) from error
        except http.client.HTTPException as error:
            self.close()
            raise BusyError(f"{self.server.url} sent what is not HTTP, or only a part of an answer.") from error
        except BaseException:
            self.close()  # what is left of the answer must not be read as the next one
            raise
        return self._once(method, path, body)  # the server had closed a connection that nobody used for a while

    def _exchange(self, method: str, path: str, body: bytes | None) -> Any:
        if self._http is None:
            self._http = _opened(self.server, self.answer_s, self._must_live)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if (key := _key(self.server)) is not None:
            headers["Authorization"] = f"Bearer {key}"
        began = time.perf_counter()
        self._http.request(method, path, body, headers)
        response = self._http.getresponse()
        first = time.perf_counter()
        data = response.read(MOST_BYTES + 1)
        read = time.perf_counter()
        if len(data) > MOST_BYTES:
            self.close()
            raise RemoteError(f"{self.server.url} sent more than {MOST_BYTES >> 20} MB.")
        if response.will_close:
            self.close()
        if response.status != 200:
            raise self._refused(response, data)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BusyError(f"{self.server.url} answered {path} with what is not JSON.", _NO_ENGINE) from error
        timing, done = self.timing, time.perf_counter()
        timing.requests += 1
        timing.waited += first - began
        timing.transfer += read - first
        timing.parsed += done - read
        timing.received += len(data)
        return found

    def _must_live(self) -> None:
        """Raises OSError if the server does not answer any more: engines do so also while they compute."""
        host = _made(self.server)
        try:
            host.request("GET", "/health")
            host.getresponse().read()
        except http.client.HTTPException as error:
            raise TimeoutError from error
        finally:
            host.close()

    # --- what went wrong ----------------------------------------------------------------------------------------------

    def _refused(self, response: http.client.HTTPResponse, data: bytes) -> RemoteError:
        status, said = response.status, _said(data, _key(self.server))
        shown = f": {said}" if said else ""
        url = self.server.url
        if status in (401, 403):
            name = self.server.api_key_env
            hint = "Name the environment variable that holds the key: api_key_env in models.toml."
            if name is not None:
                hint = f"The key is taken from {name}, which is {'set' if os.environ.get(name) else 'not set'}."
            return RemoteError(f"{url} wants a key (HTTP {status}).", hint)  # whichever engine it is
        if status == 429 or status >= 500:
            wait = response.headers.get("Retry-After", "")
            seconds = float(wait) if wait.isdecimal() else None
            what = "is asked too often" if status == 429 else "failed"
            return BusyError(f"{url} {what} (HTTP {status}{shown}).", wait=seconds)
        if 300 <= status < 400:
            return RemoteError(f"{url} answers with another address (HTTP {status}).", "Give that address as the url.")
        missing = _NO_ENGINE if status in (404, 405) else None
        return RefusedError(f"{url} refused the request (HTTP {status}{shown}).", missing, status=status, text=said)

    def _unreachable(self, error: OSError) -> RemoteError:
        url = self.server.url
        if isinstance(error, ssl.SSLError):
            return RemoteError(f"{url}: no encrypted connection: {error.reason or error}.")
        if isinstance(error, TimeoutError):
            return BusyError(f"{url} has not answered in time.", "Is the server busy, or stopped?")
        return BusyError(f"{url} cannot be reached: {error.strerror or error}.", "Is the server running there?")


_NO_ENGINE: Final = "Is an engine listening there: llama-server, vLLM or SGLang?"


def _said(data: bytes, key: str | None) -> str:
    """What an engine says of an error, in one line: llama-server and vLLM put it at different places.

    Some repeat the key that they were sent.
    """
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        if isinstance(found, str):
            return " ".join((found if key is None else found.replace(key, "...")).split())[:200]
    return ""


def _key(server: Server) -> str | None:
    """The key from the environment. Raises RemoteError where the variable is empty, or is no header's value."""
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise RemoteError(
            f"{server.api_key_env} is not set; {server.url} gets its key from it.", "Set it, or leave out api_key_env."
        )
    if not (key.isascii() and key.isprintable()):
        raise RemoteError(f"{server.api_key_env} holds what cannot be a key: other characters than ASCII.")
    return key


# --- sockets that Ctrl-C ends -----------------------------------------------------------------------------------------


def _sleep(seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _may_go_on()
        time.sleep(min(LOOK_S, left))


def _may_go_on() -> None:
    if FLAG[0] != b"\0":
        raise Stopped


def _made(server: Server) -> http.client.HTTPConnection:
    parts = urlsplit(server.url)
    kind = http.client.HTTPSConnection if server.is_encrypted else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=CONNECT_S)


def _opened(server: Server, answer_s: float, must_live: Callable[[], None]) -> http.client.HTTPConnection:
    """A connection that is open. Raises OSError."""
    made = _made(server)
    _may_go_on()
    made.connect()
    made.sock.settimeout(LOOK_S)
    made.sock = _Socket(made.sock, answer_s, must_live)
    return made


class _Socket:
    """What http.client needs of a socket, whose waits look for Ctrl-C and end after a while.

    As for a real one, a reader that was made of it keeps it open until that is closed, too.
    """

    def __init__(self, sock: Any, answer_s: float, must_live: Callable[[], None]) -> None:
        self._sock, self._answer_s, self._must_live = sock, answer_s, must_live
        self._reading, self._closed = False, False

    def sendall(self, data: Any) -> None:
        view, until = memoryview(data).cast("B"), time.monotonic() + self._answer_s
        while view:
            _may_go_on()
            try:
                view = view[self._sock.send(view) :]
            except TimeoutError:
                if time.monotonic() > until:
                    raise

    def makefile(self, _mode: str, *_: object, **__: object) -> io.BufferedReader:
        self._reading = True
        return io.BufferedReader(_Reader(self._sock, self._answer_s, self._must_live, self._read), 1 << 16)

    def _read(self) -> None:
        self._reading = False
        if self._closed:
            self._sock.close()

    def close(self) -> None:
        self._closed = True
        if not self._reading:
            self._sock.close()


class _Reader(io.RawIOBase):
    """Reads from a socket. TimeoutError after `answer_s` without a byte, or if it died; Stopped at Ctrl-C."""

    def __init__(self, sock: Any, answer_s: float, must_live: Callable[[], None], done: Callable[[], None]) -> None:
        self._sock, self._answer_s, self._must_live, self._done = sock, answer_s, must_live, done

    def close(self) -> None:
        if not self.closed:
            self._done()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        began = time.monotonic()
        asked = began
        while True:
            _may_go_on()
            try:
                return int(self._sock.recv_into(buffer))
            except TimeoutError:
                now = time.monotonic()
                if now > began + self._answer_s:
                    raise
                if now > asked + SILENCE_S:
                    self._must_live()
                    asked = time.monotonic()
