"""`eftlocal worker`: what it says, what it refuses, and how it ends. A build with RPC is needed for most of it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.cli.commands import app
from eftlocal.errors import EftError, WorkerError
from eftlocal.runtime import gguf
from eftlocal.runtime.child.context import ChildContext, ChildModel
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama import rpc
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.rpc.hello import probe
from tests.families import write_model

real = pytest.mark.skipif(not rpc.is_supported(), reason="llama.cpp is built without RPC (tests/README.md)")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.skipif(rpc.is_supported(), reason="llama.cpp is built with RPC")
@pytest.mark.parametrize("words", [["worker"], ["generate", "demo", "hi", "--rpc", "127.0.0.1:1"]])
def test_a_build_without_rpc_says_in_two_lines_how_to_get_one(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, WorkerError)
    assert "built without RPC" in result.exception.message
    assert 'CMAKE_ARGS="-DGGML_RPC=on" pip install' in (result.exception.hint or "")


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[str], Endpoint, list[str]]]:
    """The real program on a free port, with the lines that it says at the start."""
    child = subprocess.Popen(
        [sys.executable, "-m", "eftlocal", "worker", "--port", "0", *words], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    try:
        lines = [child.stderr.readline() for _ in range(4)]
        host, _, port = lines[0].split("listens at ")[1].split(".  ")[0].split(". Ctrl")[0].rpartition(":")
        yield child, Endpoint(host, int(port)), lines
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


@real
def test_it_says_where_it_listens_what_it_offers_and_how_to_use_it() -> None:
    with running() as (_, endpoint, lines):
        assert "llama.cpp's RPC 7.0.0" in lines[0] and "Ctrl-C ends it" in lines[0]
        assert "GiB" in lines[1]
        assert f"--rpc {endpoint}" in lines[2]
        assert f"ssh -N -L {endpoint.port}:{endpoint} HOST" in lines[3]
        assert probe(endpoint).devices[0].total > 0


@real
def test_a_client_that_stays_is_told_when_it_comes_and_when_it_goes() -> None:
    with running() as (child, endpoint, _):
        assert child.stderr is not None
        probe(endpoint)  # one that only asks is not told
        with socket.create_connection((endpoint.host, endpoint.port)):
            assert "a client came" in child.stderr.readline()
        assert "the client left" in child.stderr.readline()


@real
def test_a_busy_worker_lives_after_probes_that_gave_up() -> None:
    with running() as (child, endpoint, _):
        with socket.create_connection((endpoint.host, endpoint.port)):
            for _ in range(3):
                with pytest.raises(WorkerError, match=r"busy|does not answer"):
                    probe(endpoint, 0.2)
        assert probe(endpoint, 5).version.major == 7
        assert child.poll() is None


@real
@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_at_once_when_it_is_asked_and_leaves_no_process_at_the_port(number: int, busy: bool) -> None:
    with running() as (child, endpoint, _):
        with socket.create_connection((endpoint.host, endpoint.port)) if busy else nullcontext():
            child.send_signal(number)
            assert child.wait(10) == 0
        with pytest.raises(WorkerError, match="nobody listens"):
            probe(endpoint)


@real
@pytest.mark.skipif(sys.platform != "linux", reason="the system chooses the thread that takes a signal")
def test_a_signal_that_does_not_wake_its_main_thread_ends_it() -> None:
    with running() as (child, _, _):
        threads = sorted(int(one.name) for one in Path(f"/proc/{child.pid}/task").iterdir())
        time.sleep(0.3)  # the main thread waits
        assert ctypes.CDLL(None).tgkill(child.pid, threads[-1], signal.SIGINT) == 0
        assert child.wait(10) == 0


@real
@posix
def test_its_server_ends_with_it_even_when_it_is_killed() -> None:
    with running() as (child, endpoint, _):
        child.kill()
        child.wait()
        until = time.monotonic() + 5
        while True:
            try:
                probe(endpoint, 1)
            except WorkerError as error:
                if "nobody listens" in error.message:
                    break
            assert time.monotonic() < until
            time.sleep(0.05)


@real
@posix
def test_half_a_tensor_in_its_cache_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    header = gguf.check(write_model(tmp_path / "wide.gguf", seed=1, d_model=1280, n_layers=1))

    def rows(endpoint: Endpoint) -> NDArray[np.float32]:
        model = ChildModel(header, Offload(2, (str(endpoint),)), [endpoint])
        context = ChildContext(model, n_ctx=64)
        try:
            return context.feed([Feed(0, [5, 6, 7], 1)]).copy()
        finally:
            context.close()
            model.close()

    with running("--cache") as (_, endpoint, _):
        sent = rows(endpoint)
        np.testing.assert_array_equal(rows(endpoint), sent)  # from the cache
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.stat().st_size > 10 << 20]
    assert len(kept) == 3  # the feed-forward network's
    for file in kept:
        os.truncate(file, 1 << 20)
    with running("--cache", "--port", str(endpoint.port)) as (_, again, _):
        assert not any(file.exists() for file in kept)
        np.testing.assert_array_equal(rows(again), sent)
    assert all(file.stat().st_size > 10 << 20 for file in kept)


@real
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--host", "0.0.0.0", "--port", "0"], "never to run it on an open network"),
        (["--host", "::1"], "cannot be used"),
        (["--host", "no-such-host.invalid"], "cannot be used"),
        (["--host", "203.0.113.7", "--insecure"], "cannot be opened"),
        (["--threads", "0"], "threads is 0"),
    ],
)
def test_a_wrong_address_is_an_error_of_two_lines(words: list[str], problem: str) -> None:
    error = CliRunner().invoke(app, ["worker", *words]).exception
    assert isinstance(error, EftError) and problem in str(error)
    assert len(str(error).splitlines()) <= 2


@real
def test_a_port_in_use_is_an_error_of_two_lines() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = CliRunner().invoke(app, ["worker", "--port", str(taken.getsockname()[1])]).exception
    assert isinstance(error, EftError) and "in use" in error.message and "--port N" in (error.hint or "")
