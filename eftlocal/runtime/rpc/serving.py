"""Serves this machine's memory in a process of its own: llama.cpp's server prints, and may end its process.

Run as a program (`python -m eftlocal.runtime.rpc.serving`), it is that process: it prints what it offers as a line of
JSON, then llama.cpp's own lines, and ends when its standard input is closed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.errors import WorkerError
from eftlocal.runtime.rpc.hello import Worker, probe
from eftlocal.runtime.rpc.kept import list_whole

__all__ = ["Offered", "Server"]

CAME: Final = "Accepted client connection"  # ggml_backend_rpc_start_server of ggml-rpc.cpp
LEFT: Final = "Client connection closed"
STAYS_S: Final = 0.5  # a client that leaves sooner only asked
START_S: Final = 60.0  # for llama.cpp to find its devices
PAUSE_S: Final = 0.05
LOOK_S: Final = 0.1  # between two looks at whether the server has ended


@dataclass(frozen=True, slots=True)
class Offered:
    """A device that is served: its name and what it is."""

    name: str
    description: str


class Server:
    """llama.cpp's server in a child process. `told` is called, in another thread, when a client comes (True) and goes.

    A client that only asks for the memory, as llama.cpp does often while it loads a model, is not told. `cache` is a
    folder of this worker alone, in which llama.cpp keeps large tensors.

    Raises WorkerError if it does not start.
    """

    def __init__(
        self, endpoint: Endpoint, *, threads: int, cache: Path | None, told: Callable[[bool], None], verbose: bool
    ) -> None:
        self._endpoint, self._told, self._cache = endpoint, told, cache
        self._last: list[str] = []  # what it said on stderr, for an error
        self._verbose = verbose
        words = [str(endpoint), str(threads), str(cache or "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "eftlocal.runtime.rpc.serving", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the parent, which ends this process
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._keeps_alive = self._process.stdin
        self._log = threading.Thread(target=self._keep, args=(self._process.stderr,), daemon=True)
        self._log.start()
        try:
            first = self._process.stdout.readline()
            if not first:
                raise self._ended()
            self.offered = tuple(Offered(*one) for one in json.loads(first))
            threading.Thread(target=self._follow, args=(self._process.stdout,), daemon=True).start()
            self.worker = self._answering()
        except BaseException:
            self.close()
            raise

    def wait(self) -> WorkerError:
        """Waits until llama.cpp's server ends. Returns the error that says so."""
        while self._process.poll() is None:  # a signal that comes just before a wait without end is not handled in it
            time.sleep(LOOK_S)
        return self._ended()

    def kill(self) -> None:
        """Ends the process at once, without waiting for it; for a signal's handler."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()

    def _answering(self) -> Worker:
        """Waits until the server answers. Raises WorkerError if it has ended, or does not answer in time."""
        host = "127.0.0.1" if self._endpoint.host == "0.0.0.0" else self._endpoint.host
        until = time.monotonic() + START_S
        while True:
            try:
                return probe(Endpoint(host, self._endpoint.port), max(PAUSE_S, until - time.monotonic()))
            except WorkerError:
                if self._process.poll() is not None:
                    raise self._ended() from None
                if time.monotonic() > until:
                    raise
            time.sleep(PAUSE_S)

    def _ended(self) -> WorkerError:
        code = self._process.wait()
        self._log.join(1.0)
        said = self._last[-1] if self._last else f"signal {-code}" if code < 0 else f"exit code {code}"
        if self._last and self._last[-1] == "Failed to create server socket":
            said = "the port cannot be opened"
        return WorkerError(f"llama.cpp's worker at {self._endpoint} has ended: {said}.", "Start it again.")

    def _keep(self, stderr: IO[str]) -> None:
        for line in stderr:
            if self._verbose:
                sys.stderr.write(line)
            if line.strip():
                self._last = [*self._last[-5:], line.strip()]

    def _follow(self, stdout: IO[str]) -> None:
        stays: threading.Timer | None = None
        there = threading.Event()  # a client that stayed is there

        def came() -> None:
            there.set()
            self._told(True)

        for line in stdout:
            if line.strip() == CAME:
                stays = threading.Timer(STAYS_S, came)
                stays.daemon = True
                stays.start()
            elif line.strip() == LEFT and stays is not None:
                if self._cache is not None:
                    with suppress(OSError):  # then they are sent again another time
                        list_whole(self._cache)
                stays.cancel()
                stays.join()
                if there.is_set():
                    there.clear()
                    self._told(False)


def _run(endpoint: str, threads: int, cache: str) -> None:
    """The child process: serves until its standard input is closed."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN) if hasattr(signal, "SIGPIPE") else None
    from eftlocal.runtime.llama import library, rpc

    library.set_verbose(True)  # its errors say why it ended
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(json.dumps([[name, about] for name, about, _ in rpc.local_devices()]), flush=True)
    rpc.serve(endpoint, threads=threads, cache=cache or None)
    sys.exit(1)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _run(sys.argv[1], int(sys.argv[2]), sys.argv[3])
