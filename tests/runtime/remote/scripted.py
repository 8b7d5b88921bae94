"""An HTTP server that answers as a test says, to see what becomes of a client."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Scripted:
    """Answers each request with `answer(path, body)`: bytes as they are, or a value as JSON; None closes at once."""

    answer: Callable[[str, object], object]
    url: str = ""
    seen: list[tuple[str, object]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    connections: int = 0


@contextmanager
def scripted(answer: Callable[[str, object], object]) -> Iterator[Scripted]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Scripted(answer, f"http://127.0.0.1:{listener.getsockname()[1]}")
    stop = threading.Event()
    open_sockets: list[socket.socket] = []

    def serve() -> None:
        while not stop.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            server.connections += 1
            open_sockets.append(sock)
            threading.Thread(target=_talk, args=(sock, server), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in open_sockets:
            sock.close()
        thread.join(5)


def _talk(sock: socket.socket, server: Scripted) -> None:
    try:
        with sock, sock.makefile("rb") as file:
            while line := file.readline():
                path = line.split()[1].decode()
                head = line
                while (more := file.readline()) not in (b"\r\n", b""):
                    head += more
                lengths = [h for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")]
                length = int(lengths[0].split(b":")[1]) if lengths else 0
                body = json.loads(file.read(length)) if length else None
                server.seen.append((path, body))
                server.headers.append(head.decode())
                answer = server.answer(path, body)
                if answer is None:
                    return
                if not isinstance(answer, bytes):
                    data = json.dumps(answer).encode()
                    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
                sock.sendall(answer)
    except (OSError, ValueError):
        return


def status(code: int, body: object = None, header: str = "") -> bytes:
    data = json.dumps(body).encode() if body is not None else b""
    return f"HTTP/1.1 {code} X\r\n{header}Content-Length: {len(data)}\r\n\r\n".encode() + data
