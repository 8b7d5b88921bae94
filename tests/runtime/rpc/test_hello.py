"""A worker is asked who it is before llama.cpp asks: whatever answers, a line says what to do."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.errors import WorkerError
from eftlocal.runtime.rpc.hello import probe
from tests.runtime.rpc.scripted import GIB, answer, hello, like_a_worker, listening


def test_a_worker_tells_its_version_its_devices_and_their_memory() -> None:
    with listening(like_a_worker(((6 * GIB, 8 * GIB), (GIB, GIB)))) as endpoint:
        worker = probe(endpoint)
    assert worker.version == (7, 0, 0)
    assert worker.devices == ((6 * GIB, 8 * GIB), (GIB, GIB))
    assert worker.names == (str(endpoint), f"{endpoint}#1")
    assert 0 < worker.round_trip_s < 1


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(WorkerError, match="nobody listens") as caught:
        probe(endpoint)
    assert caught.value.hint is not None and f"eftlocal worker --port {endpoint.port}" in caught.value.hint


def test_a_name_that_no_machine_has() -> None:
    with pytest.raises(WorkerError, match="no machine has the name"):
        probe(Endpoint("no-such-host.invalid"))


def test_a_worker_that_serves_another_program_is_busy_and_the_probe_ends_in_time() -> None:
    with listening(None) as endpoint:
        began = time.monotonic()
        with pytest.raises(WorkerError, match="is busy") as caught:
            probe(endpoint, 0.2)
        assert time.monotonic() - began < 2
    assert "one program at a time" in (caught.value.hint or "")


def test_a_probe_that_gave_up_resets_its_connection_so_that_the_worker_is_not_ended_by_sigpipe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(WorkerError):
            probe(Endpoint("127.0.0.1", listener.getsockname()[1]), 0.1)
        sock, _ = listener.accept()
        with sock:
            assert len(sock.recv(100)) == 33
            with pytest.raises(ConnectionResetError):
                sock.sendall(b"x")


def says(data: bytes, *, then: Callable[[], None] = lambda: None) -> Callable[[socket.socket], None]:
    def talk(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(data)
        then()

    return talk


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (hello(8), "speaks version 8.0.0"),
        (hello(7, 1), "speaks version 7.1.0"),
        (answer(bytes([5, 0, 0])), "speaks version 5.0.0"),  # as older workers answer
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "is not a worker"),
        (bytes(range(256)), "is not a worker"),
        (b"\xff" * 8, "is not a worker"),
        (hello()[:20], "in the middle of an answer"),
        (hello()[:3], "in the middle of an answer"),
        (b"", "without an answer"),
        (hello() + answer(struct.pack("<I", 0)), "says that it has 0 devices"),
        (hello() + answer(struct.pack("<I", 1 << 30)), "says that it has 1073741824 devices"),
        (hello() + answer(b"12345678"), "is not a worker"),
        (hello() + answer(struct.pack("<I", 1)), "in the middle of an answer"),
    ],
)
def test_whatever_answers_is_an_error_of_two_lines(data: bytes, problem: str) -> None:
    with listening(says(data)) as endpoint, pytest.raises(WorkerError, match=problem) as caught:
        probe(endpoint, 2)
    assert str(endpoint) in caught.value.message
    assert len(str(caught.value).splitlines()) == 2


def test_half_an_answer_and_then_silence_ends_in_time() -> None:
    talk = says(hello()[:20], then=lambda: time.sleep(1))
    with listening(talk) as endpoint, pytest.raises(WorkerError, match="stopped in the middle"):
        probe(endpoint, 0.2)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_a_probe_at_once() -> None:
    code = (
        "import sys; from eftlocal.interrupt import leave_at_ctrl_c; leave_at_ctrl_c()\n"
        "from eftlocal.runtime.rpc.hello import probe; from eftlocal.catalog.endpoints import Endpoint\n"
        "print('asks', flush=True); probe(Endpoint('127.0.0.1', int(sys.argv[1])), 60)"
    )
    with listening(None) as endpoint:
        child = subprocess.Popen([sys.executable, "-c", code, str(endpoint.port)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.2)
        began = time.monotonic()
        child.send_signal(2)
        assert child.wait(10) == 130
        assert time.monotonic() - began < 1
        child.stdout.close()
