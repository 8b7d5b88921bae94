"""Requests over HTTP: what becomes of servers that stop, hang, send rubbish or refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from eftlocal.catalog.server import Server
from eftlocal.errors import RemoteError
from eftlocal.runtime.llama.interrupt import Stopped, may_decode, stop_decoding
from eftlocal.runtime.remote import connection as module
from eftlocal.runtime.remote.connection import BusyError, Connection, RefusedError
from tests.runtime.remote.scripted import scripted, status


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))
    yield
    may_decode()


def to(url: str, **options: object) -> Connection:
    return Connection(Server(url=url), answer_s=float(options.pop("answer_s", 5.0)), **options)  # type: ignore[arg-type]


def test_one_connection_serves_many_requests() -> None:
    with scripted(lambda path, body: {"path": path, "body": body}) as server:
        connection = to(server.url)
        for i in range(20):
            assert connection.post("/x", {"i": i}) == {"path": "/x", "body": {"i": i}}
        assert server.connections == 1
        assert connection.timing.requests == 20
        connection.close()


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    answers = iter([{"n": 1}, None, {"n": 2}])
    with scripted(lambda *_: next(answers)) as server:
        connection = to(server.url)
        assert connection.get("/x") == {"n": 1}
        assert connection.get("/x") == {"n": 2}
        assert server.connections == 2
        connection.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (status(500, {"error": {"message": "out\nof memory"}}), "failed (HTTP 500: out of memory)"),
        (status(503, {"error": {"message": "Loading model"}}), "failed (HTTP 503: Loading model)"),
        (status(429, header="Retry-After: 0\r\n"), "is asked too often (HTTP 429)"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a": 1, ', "with what is not JSON"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "what is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", "only a part"),
        (None, "closed the connection"),
    ],
)
def test_what_may_pass_is_asked_again_and_then_told_in_one_line(answer: bytes | None, says: str) -> None:
    def script(*_: object) -> object:
        if answer is not None and b"900" in answer:
            threading.Timer(0.05, lambda: None).start()
        return answer

    told: list[str] = []
    with scripted(script) as server:
        connection = to(server.url, retried=told.append, answer_s=0.3)
        with pytest.raises(BusyError) as error:
            connection.post("/x", {}, tries=3)
        assert says in error.value.message or "in time" in error.value.message
        assert "\n" not in error.value.message
        assert len(told) == 2 and len(server.seen) >= 3
        connection.close()


def test_a_server_that_comes_back_gives_the_answer() -> None:
    answers = iter([status(503), None, None, {"ok": 1}])
    with scripted(lambda *_: next(answers)) as server:
        connection = to(server.url)
        assert connection.post("/x", {}, tries=4) == {"ok": 1}
        connection.close()


def test_a_refusal_is_not_asked_again() -> None:
    with scripted(lambda *_: status(400, {"error": {"message": "bad ids"}})) as server:
        connection = to(server.url)
        with pytest.raises(RefusedError, match="HTTP 400: bad ids") as error:
            connection.post("/x", {})
        assert error.value.status == 400 and error.value.text == "bad ids"
        assert len(server.seen) == 1
        connection.close()


def test_a_server_that_hangs_ends_in_an_error_after_a_while() -> None:
    gate = threading.Event()
    with scripted(lambda *_: gate.wait(5) and None) as server:
        connection = to(server.url, answer_s=0.2)
        began = time.monotonic()
        with pytest.raises(BusyError, match="has not answered in time"):
            connection.get("/x")
        assert time.monotonic() - began < 2
        gate.set()
        connection.close()


def test_a_server_that_died_while_it_computed_is_noticed_long_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.1)
    monkeypatch.setattr(module, "CONNECT_S", 0.2)
    gate, lives = threading.Event(), threading.Event()
    lives.set()

    def script(path: str, _: object) -> object:
        if path == "/health" and lives.is_set():
            return {"status": "ok"}
        return gate.wait(5) and None

    with scripted(script) as server:
        connection = to(server.url, answer_s=60)
        threading.Timer(0.5, lives.clear).start()
        began = time.monotonic()
        with pytest.raises(BusyError, match="has not answered in time"):
            connection.get("/x")
        assert 0.4 < time.monotonic() - began < 3
        assert sum(path == "/health" for path, _ in server.seen) >= 2
        gate.set()
        connection.close()


def test_ctrl_c_ends_a_request_at_once() -> None:
    gate = threading.Event()
    with scripted(lambda *_: gate.wait(10) and None) as server:
        connection = to(server.url, answer_s=60)
        timer = threading.Timer(0.2, stop_decoding)
        timer.start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            connection.post("/x", {})
        assert time.monotonic() - began < 2
        timer.join()
        gate.set()
        connection.close()


def test_nobody_listening_is_one_line() -> None:
    connection = to("http://127.0.0.1:9")
    with pytest.raises(BusyError, match=r"http://127\.0\.0\.1:9 cannot be reached: Connection refused\."):
        connection.get("/x")


def test_a_key_that_the_server_repeats_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    said = "x" * 190 + " sk-secret is no key"
    with scripted(lambda *_: status(400, {"error": {"message": said}})) as server:
        connection = Connection(Server(url=server.url, api_key_env="MY_KEY"), answer_s=5)
        with pytest.raises(RefusedError) as error:
            connection.get("/x")
        assert "sk-" not in str(error.value) + error.value.text
        connection.close()


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(lambda *_: status(401, {"error": "wrong key sk-secret"})) as server:
        connection = Connection(Server(url=server.url, api_key_env="MY_KEY"), answer_s=5)
        with pytest.raises(RemoteError, match="MY_KEY is not set"):
            connection.get("/x")
        monkeypatch.setenv("MY_KEY", "sk-secret")
        with pytest.raises(RemoteError) as error:
            connection.get("/x")
        assert "sk-secret" not in str(error.value) and "MY_KEY, which is set" in str(error.value)
        assert "Authorization: Bearer sk-secret" in server.headers[-1]
        monkeypatch.setenv("MY_KEY", "sk\nX-Other: 1")
        with pytest.raises(RemoteError, match="cannot be a key"):
            connection.get("/x")
        connection.close()
