"""`eftlocal worker`: serves this machine's memory to a base that another machine computes with."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Final

import platformdirs

from eftlocal.apps.common import not_opened
from eftlocal.catalog.endpoints import UNPROTECTED, Endpoint
from eftlocal.errors import EftError, SettingError
from eftlocal.runtime.machine import here, usable_cores
from eftlocal.runtime.plan.placement import gib
from eftlocal.runtime.rpc.build import must_support
from eftlocal.runtime.rpc.kept import drop_unfinished
from eftlocal.runtime.rpc.serving import Server
from eftlocal.text import printable

__all__ = ["worker"]

CLOSED: Final = "Leave --host out and use a tunnel (ssh -N -L {0}:127.0.0.1:{0} HOST), or add --insecure."


def worker(host: str, port: int, *, threads: int | None, cache: bool, insecure: bool, verbose: bool) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns the exit code: 0 for a worker that was asked to end.

    Raises SettingError for an address of a network without `insecure`, WorkerError for a build without RPC or a server
    that ended, and EftError for a port that cannot be opened.
    """
    must_support()
    if threads is not None and threads < 1:
        raise SettingError(f"threads is {threads}; it must be at least 1.")
    endpoint = _listening(host, port)
    if not endpoint.is_here and not insecure:
        raise SettingError(f"--host {host} is an address of a network, and {UNPROTECTED}.", CLOSED.format(port))
    folder = _cache_folder(endpoint) if cache else None
    ending = _Ending()
    server = Server(endpoint, threads=threads or usable_cores(), cache=folder, told=_tell_client, verbose=verbose)
    ending.server = server
    try:
        _tell_start(server, endpoint, folder)
        ended = server.wait()
        if ending.asked:
            return 0
        raise ended
    finally:
        server.close()


class _Ending:
    """Ctrl-C and SIGTERM end the server, and this process with it. Before it runs, its process ends by itself."""

    def __init__(self) -> None:
        self.asked = False
        self.server: Server | None = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._end)

    def _end(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and sys.stderr.isatty():
            print(file=sys.stderr)  # after the ^C that terminals show
        if self.server is None or self.asked:
            os._exit(0)
        self.asked = True
        self.server.kill()


def _listening(host: str, port: int) -> Endpoint:
    """The IPv4 address and port to listen at, which are free. Raises EftError."""
    try:
        address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
    except (OSError, UnicodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is not a name"
        hint = "Give an IPv4 address of this machine; llama.cpp's RPC knows no other."
        raise EftError(f"--host {host} cannot be used: {problem}.", hint) from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
        try:
            if sys.platform != "win32":
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            return Endpoint(str(address[0]), tried.getsockname()[1])
        except OSError as error:
            raise not_opened(host, port, error) from None


def _cache_folder(endpoint: Endpoint) -> Path:
    """The folder in which llama.cpp keeps large tensors that were sent, so that they need not be sent again.

    Each port has its own, since a worker that ends may leave half a tensor there.
    """
    folder = platformdirs.user_cache_path("eftlocal") / "rpc" / str(endpoint.port)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drop_unfinished(folder)
    except OSError as error:
        raise EftError(f"{folder}: cannot be used: {error.strerror}.", "Leave --cache out.") from None
    return folder


def _tell_start(server: Server, endpoint: Endpoint, cache: Path | None) -> None:
    _say(f"eftlocal: a worker of llama.cpp's RPC {server.worker.version} listens at {endpoint}. Ctrl-C ends it.")
    for offered, memory in zip(server.offered, server.worker.devices, strict=True):
        free = here(devices=False).free if memory.free == memory.total else memory.free
        _say(f"  {offered.name}: {offered.description}, {gib(free)} of {gib(memory.total)} free")
    if cache is not None:
        _say(f"  weights that were sent are kept in {cache}")
    if endpoint.is_here:
        _say(f"  on this machine: eftlocal chat NAME --rpc {endpoint}")
        _say(f"  on another one:  ssh -N -L {endpoint.port}:{endpoint} HOST, and the same line there")
    else:
        _say(f"  on another machine: eftlocal chat NAME --rpc {_seen(endpoint)} --insecure")
        _say(f"  {UNPROTECTED}. Whoever reaches this port can use and crash this process.")


def _seen(endpoint: Endpoint) -> str:
    return f"HOST:{endpoint.port}" if endpoint.host == "0.0.0.0" else str(endpoint)


def _tell_client(came: bool) -> None:
    _say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {'a client came' if came else 'the client left'}")


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
