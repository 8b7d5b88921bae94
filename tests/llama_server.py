"""A real llama-server in a child process, from the package xllamacpp: `python -m tests.llama_server MODEL PORT`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(model: Path, *, port: int | None = None, slots: int = 4, context: int = 512) -> Iterator[Server]:
    """A llama-server of this model, until the context ends."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.llama_server", str(model), str(port), str(slots), str(context)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait(url, process)
        yield Server(url, process)
    finally:
        process.kill()
        process.wait()


def wait(url: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not start")


def main() -> None:
    from xllamacpp import CommonParams  # type: ignore[import-untyped]
    from xllamacpp import Server as LlamaServer

    model, port, slots, context = sys.argv[1], *map(int, sys.argv[2:])
    params = CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.cache_type_k = params.cache_type_v = type(params.cache_type_k)(0)  # GGML_TYPE_F32
    params.flash_attn_type = type(params.flash_attn_type)(0)  # disabled
    server = LlamaServer(params)
    while server:
        time.sleep(1)


if __name__ == "__main__":
    main()
