"""Sockets whose waits end: at Ctrl-C, when the request is dropped, and when the other side is silent for too long.

A wait is cut into pieces of LOOK_S seconds, so that any thread hears Ctrl-C: Python's handlers run in the main thread
alone, and may raise nothing there.
"""

import io
import ipaddress
import os
import selectors
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from eftlocal.catalog.server import Server

__all__ = ["CONNECT_S", "LOOK_S", "TooSlowError", "Waits", "opened"]

CONNECT_S: Final = 5.0
SILENCE_S: Final = 10.0  # without a byte, after which it is asked on another connection whether it still lives
LOOK_S: Final = 0.05  # how often a wait looks for Ctrl-C
SLOW_S, SLOW_PIECES, SLOW_RATE = 30.0, 20, 100.0  # an answer that trickles: after so long, in so many pieces, bytes/s


class TooSlowError(Exception):
    """An answer comes in pieces that are too small and too rare to wait for its end."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long waits of a connection last, and what ends them.

    may_go_on  raises where the request should end: at Ctrl-C, or when it is dropped
    answer_s   the most seconds without a byte
    probes     whether a server that is silent is asked on another connection whether it lives
    """

    may_go_on: Callable[[], None]
    answer_s: float
    probes: bool = True


def opened(server: Server, waits: Waits) -> HTTPConnection:
    """A connection that is open. Raises OSError, and what `may_go_on` raises."""
    waits.may_go_on()
    parts = urlsplit(server.url)
    host = parts.hostname or ""
    made = HTTPConnection(host, parts.port)
    if server.is_encrypted:
        made = HTTPSConnection(host, parts.port, context=_context())
    sock = _connected(host, made.port, waits)
    try:
        if server.is_encrypted:
            sock = _encrypted(sock, host, waits)
        sock.settimeout(LOOK_S)
    except BaseException:
        sock.close()
        raise
    made.auto_open = 0  # it would wait deaf
    made.sock = _Socket(sock, server, waits)
    return made


# --- connecting -------------------------------------------------------------------------------------------------------


def _connected(host: str, port: int, waits: Waits) -> socket.socket:
    """A socket that is connected to the first address that takes it, and does not block."""
    failed: OSError = OSError(f"{host} has no address")
    until = time.monotonic() + CONNECT_S
    for family, kind, proto, _, address in _addresses(host, port, waits):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(address)
            _until_ready(sock, selectors.EVENT_WRITE, until, waits)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            _keep_alive(sock)
            return sock
    raise failed


def _addresses(host: str, port: int, waits: Waits) -> list[Any]:
    """The addresses of a name. The system's call cannot be interrupted, so it runs in a thread that may be left."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[Any] = []
    failed: list[OSError] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error if isinstance(error, OSError) else OSError(f"{host} is not a name"))
        done.set()

    threading.Thread(target=ask, name="eftlocal-name", daemon=True).start()
    until = time.monotonic() + CONNECT_S
    while not done.wait(LOOK_S):
        waits.may_go_on()
        if time.monotonic() > until:
            raise TimeoutError
    if failed:
        raise failed[0]
    return found


def _encrypted(sock: socket.socket, host: str, waits: Waits) -> ssl.SSLSocket:
    made = _context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    until = time.monotonic() + CONNECT_S
    try:
        while True:
            try:
                made.do_handshake()
                return made
            except ssl.SSLWantReadError:
                _until_ready(made, selectors.EVENT_READ, until, waits)
            except ssl.SSLWantWriteError:
                _until_ready(made, selectors.EVENT_WRITE, until, waits)
    except BaseException:
        made.close()
        raise


@cache
def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _until_ready(sock: socket.socket, event: int, until: float, waits: Waits) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        while not selector.select(LOOK_S):
            waits.may_go_on()
            if time.monotonic() > until:
                raise TimeoutError


def _keep_alive(sock: socket.socket) -> None:
    """Small writes go out at once, and a connection that a router has forgotten ends in an error."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


# --- talking ----------------------------------------------------------------------------------------------------------


class _Socket:
    """What http.client needs of a socket. As for a real one, a reader that was made of it keeps it open until that is
    closed, too.
    """

    def __init__(self, sock: Any, server: Server, waits: Waits) -> None:
        self._sock, self._server, self._waits = sock, server, waits
        self._reading, self._closed = False, False

    def sendall(self, data: Any) -> None:
        view, until = memoryview(data).cast("B"), time.monotonic() + self._waits.answer_s
        while view:
            self._waits.may_go_on()
            try:
                view = view[self._sock.send(view) :]
            except TimeoutError as error:
                if error.errno is not None or time.monotonic() > until:
                    raise

    def makefile(self, _mode: str, *_: object, **__: object) -> io.BufferedReader:
        self._reading = True
        return io.BufferedReader(_Reader(self._sock, self._server, self._waits, self._read), 1 << 16)

    def _read(self) -> None:
        self._reading = False
        if self._closed:
            self._sock.close()

    def close(self) -> None:
        self._closed = True
        if not self._reading:
            self._sock.close()


class _Reader(io.RawIOBase):
    """Reads one answer. TimeoutError after `answer_s` without a byte, or if the server died; TooSlowError."""

    def __init__(self, sock: Any, server: Server, waits: Waits, done: Callable[[], None]) -> None:
        self._sock, self._server, self._waits, self._done = sock, server, waits, done
        self._pieces, self._bytes, self._first = 0, 0, 0.0

    def close(self) -> None:
        if not self.closed:
            self._done()
        super().close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._received(buffer)
        now = time.monotonic()
        self._first = self._first or now
        self._pieces, self._bytes = self._pieces + 1, self._bytes + n
        seconds = now - self._first
        if seconds > SLOW_S and self._pieces > SLOW_PIECES and self._bytes < SLOW_RATE * seconds:
            raise TooSlowError
        return n

    def _received(self, buffer: Any) -> int:
        began = asked = time.monotonic()
        while True:
            self._waits.may_go_on()
            try:
                return int(self._sock.recv_into(buffer))
            except TimeoutError as error:
                now = time.monotonic()
                if error.errno is not None or now > began + self._waits.answer_s:  # errno: the connection has died
                    raise
                if self._waits.probes and now > asked + SILENCE_S:
                    _must_live(self._server, self._waits)
                    asked = time.monotonic()


def _must_live(server: Server, waits: Waits) -> None:
    """Raises OSError if the server does not answer any more: engines do so also while they compute."""
    host = opened(server, Waits(waits.may_go_on, CONNECT_S, probes=False))
    try:
        host.request("GET", "/v1/models")  # /health of an SGLang waits for a computed token
        host.getresponse().read()
    except (HTTPException, TooSlowError) as error:
        raise TimeoutError from error
    finally:
        host.close()
