"""Requests over HTTP: what becomes of servers that stop, hang, send rubbish or refuse."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate

import pytest

from eftlocal.catalog.server import Server
from eftlocal.errors import RemoteError
from eftlocal.runtime.llama.interrupt import Stopped, may_decode, stop_decoding
from eftlocal.runtime.remote import connection as module
from eftlocal.runtime.remote import sockets, troubles
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

    told: list[troubles.Trouble] = []
    with scripted(script) as server, troubles.told(told.append):
        connection = to(server.url, answer_s=0.3)
        with pytest.raises(BusyError) as error:
            connection.post("/x", {}, tries=3)
        assert says in error.value.message or "in time" in error.value.message
        assert "\n" not in error.value.message
        assert len(server.seen) >= 3
        begins, ends = told
        assert begins.reason and str(begins).endswith("It is asked again.") and "\n" not in str(begins)
        assert (ends.reason, ends.answers, str(ends)) == (None, False, "")
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
    monkeypatch.setattr(sockets, "SILENCE_S", 0.1)
    monkeypatch.setattr(sockets, "CONNECT_S", 0.2)
    gate, lives = threading.Event(), threading.Event()
    lives.set()

    def script(path: str, _: object) -> object:
        if path == "/v1/models" and lives.is_set():
            return {"status": "ok"}
        return gate.wait(5) and None

    with scripted(script) as server:
        connection = to(server.url, answer_s=60)
        threading.Timer(0.5, lives.clear).start()
        began = time.monotonic()
        with pytest.raises(BusyError, match="has not answered in time"):
            connection.get("/x")
        assert 0.4 < time.monotonic() - began < 3
        assert sum(path == "/v1/models" for path, _ in server.seen) >= 2
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
        assert time.monotonic() - began < 0.2 + 0.3
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


def ended_by_ctrl_c(work: object) -> float:
    """Runs `work` in the main thread, then in another one. Returns how long it took to hear Ctrl-C, the longer time."""
    assert callable(work)
    took = []

    def run() -> None:
        timer = threading.Timer(0.2, stop_decoding)
        began = time.monotonic()
        timer.start()
        with pytest.raises(Stopped):
            work()
        took.append(time.monotonic() - began - 0.2)
        timer.join()
        may_decode()

    run()
    other = threading.Thread(target=run)
    other.start()
    other.join()
    return max(took)


def test_ctrl_c_ends_a_connection_that_is_being_made() -> None:
    with socket.socket() as full:  # it listens and accepts nobody: the third connection waits for the system's answer
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        name = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(name)
        assert ended_by_ctrl_c(lambda: to(f"http://127.0.0.1:{name[1]}").get("/x")) < 0.3
        for sock in waiting:
            sock.close()


def test_ctrl_c_ends_a_search_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: gate.wait(5) and [])
    assert ended_by_ctrl_c(lambda: to("http://far.example:8080").get("/x")) < 0.3
    gate.set()


def test_ctrl_c_ends_a_handshake_that_gets_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert ended_by_ctrl_c(lambda: to(f"https://127.0.0.1:{silent.getsockname()[1]}").get("/x")) < 0.3


def test_ctrl_c_ends_the_question_whether_a_silent_server_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "SILENCE_S", 0.05)
    gate = threading.Event()
    with scripted(lambda *_: gate.wait(10) and None) as server:
        assert ended_by_ctrl_c(lambda: to(server.url, answer_s=60).get("/x")) < 0.3
        assert any(path == "/v1/models" for path, _ in server.seen)
        gate.set()


def test_ctrl_c_ends_the_pause_before_a_new_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (60.0,))
    assert ended_by_ctrl_c(lambda: to("http://127.0.0.1:9").post("/x", {})) < 0.3


def test_a_request_that_is_dropped_ends_at_once() -> None:
    gate = threading.Event()
    with scripted(lambda *_: gate.wait(10) and None) as server:
        connection = to(server.url, answer_s=60)
        threading.Timer(0.1, lambda: setattr(connection, "dropped", True)).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            connection.get("/x")
        assert time.monotonic() - began < 0.4
        gate.set()


def test_https_where_http_is_spoken_is_one_line_without_a_new_try() -> None:
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock:
                taken.append(len(sock.recv(1 << 16)))
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(RemoteError, match="no encrypted connection"):
            to(f"https://127.0.0.1:{listener.getsockname()[1]}").post("/x", {})
        thread.join()
    assert len(taken) == 1


def test_a_trouble_is_told_once_and_so_is_its_end() -> None:
    answers = iter([status(503), status(503), None, {"ok": 1}, {"ok": 2}])
    heard: list[str] = []
    with scripted(lambda *_: next(answers)) as server, troubles.told(lambda trouble: heard.append(str(trouble))):
        connection = to(server.url)
        assert connection.post("/x", {}, tries=4) == {"ok": 1}
        assert connection.post("/x", {}) == {"ok": 2}
        assert heard == [
            f"{server.url} failed (HTTP 503). It is asked again.",
            f"{server.url} answers again.",
        ]
        connection.close()


def test_requests_that_wait_together_are_one_trouble() -> None:
    heard: list[str] = []
    with troubles.told(lambda trouble: heard.append(str(trouble))), troubles.Request("http://a") as one:
        with troubles.Request("http://a") as two:
            one.asks_again("http://a failed.")
            two.asks_again("http://a failed.")
            two.answered = True
        one.answered = True
    assert heard == ["http://a failed. It is asked again.", "http://a answers again."]


def test_a_closed_keep_alive_costs_no_pause_and_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (60.0,))
    heard: list[object] = []
    answers = iter([{"n": 1}, None, {"n": 2}])
    with scripted(lambda *_: next(answers)) as server, troubles.told(heard.append):
        connection = to(server.url)
        assert [connection.post("/x", {}, tries=1) for _ in range(2)] == [{"n": 1}, {"n": 2}]
        assert heard == []
        connection.close()


@pytest.mark.parametrize("said", ["1", "0.5", "date"])
def test_retry_after_is_waited_for(said: str) -> None:
    at = formatdate(time.time() + 2, usegmt=True) if said == "date" else said
    answers = iter([status(429, header=f"Retry-After: {at}\r\n"), {"ok": 1}])
    with scripted(lambda *_: next(answers)) as server:
        connection = to(server.url)
        began = time.monotonic()
        assert connection.post("/x", {}) == {"ok": 1}
        assert 0.45 < time.monotonic() - began < 2.5
        connection.close()


def test_a_server_that_asks_to_wait_for_long_is_not_waited_for() -> None:
    with scripted(lambda *_: status(503, header="Retry-After: 3600\r\n")) as server:
        with pytest.raises(BusyError, match="HTTP 503"):
            to(server.url).post("/x", {})
        assert len(server.seen) == 1


@pytest.mark.parametrize("code", [401, 403])
def test_a_key_that_is_missing_is_told_at_once_with_the_name_of_the_setting(code: int) -> None:
    with scripted(lambda *_: status(code)) as server:
        with pytest.raises(RemoteError, match="wants a key") as error:
            to(server.url).post("/x", {})
        assert "api_key_env" in (error.value.hint or "")
        assert len(server.seen) == 1


HTML = b"<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"


def test_the_page_of_a_proxy_is_one_line_without_the_page() -> None:
    page = b"HTTP/1.1 %s X\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s"
    for code, says in ((b"200", "not JSON"), (b"502", r"failed \(HTTP 502\)"), (b"404", r"\(HTTP 404\)")):
        answer = page % (code, len(HTML), HTML)
        with scripted(lambda *_, answer=answer: answer) as server, pytest.raises(RemoteError, match=says) as error:
            to(server.url).post("/x", {}, tries=2)
        assert "<" not in str(error.value)


def test_packed_and_chunked_answers_are_read() -> None:
    data = json.dumps({"ok": "x" * 5000}).encode()
    packed = gzip.compress(data)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:7], data[7:900], data[900:], b""))
    for answer in (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(packed), packed),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks,
    ):
        with scripted(lambda *_, answer=answer: answer) as server:
            connection = to(server.url)
            assert [connection.get("/x") for _ in range(2)] == [{"ok": "x" * 5000}] * 2
            assert server.connections == 1
            connection.close()
    with scripted(lambda *_: answer.replace(b"7\r\n", b"zz\r\n", 1)) as server, pytest.raises(BusyError):
        to(server.url).get("/x")


def test_a_packed_bomb_is_not_unpacked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    packed = gzip.compress(bytes(10 << 20))
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(packed), packed)
    with scripted(lambda *_: answer) as server, pytest.raises(RemoteError, match="more than 1 MB"):
        to(server.url).get("/x")


def test_a_redirect_is_told_with_where_it_leads_and_without_its_query() -> None:
    answer = status(301, header="Location: https://far.example:9/v1/x?token=secret\r\n")
    with scripted(lambda *_: answer) as server, pytest.raises(RemoteError, match=r"far\.example:9/v1/x") as error:
        to(server.url).post("/x", {})
    assert "secret" not in str(error.value) and len(server.seen) == 1


def test_an_answer_that_trickles_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "SLOW_S", 0.3)
    monkeypatch.setattr(sockets, "SLOW_PIECES", 5)
    monkeypatch.setattr(sockets, "SLOW_RATE", 1000.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            sock, _ = listener.accept()
            with sock, suppress(OSError):
                sock.recv(1 << 16)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                for _ in range(200):
                    sock.sendall(b" ")
                    time.sleep(0.02)

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        began = time.monotonic()
        with pytest.raises(RemoteError, match="too slowly"):
            to(f"http://127.0.0.1:{listener.getsockname()[1]}").post("/x", {})
        assert time.monotonic() - began < 2
        thread.join(5)
