"""A listener that answers a worker's hello as a test says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from eftlocal.catalog.endpoints import Endpoint

GIB = 1 << 30


def answer(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def hello(major: int = 7, minor: int = 0, patch: int = 0) -> bytes:
    return answer(bytes([major, minor, patch, 0]) + bytes(24))


def like_a_worker(memory: tuple[tuple[int, int], ...] = ((6 * GIB, 8 * GIB),)) -> Callable[[socket.socket], None]:
    """Talks as llama.cpp's rpc_serve_client does, as far as the probe asks."""

    def talk(sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            while head := file.read(9):
                command, size = struct.unpack("<BQ", head)
                data = file.read(size)
                if command == 14:
                    assert data == bytes(24)
                    sock.sendall(hello())
                elif command == 15:
                    sock.sendall(answer(struct.pack("<I", len(memory))))
                elif command == 11:
                    sock.sendall(answer(struct.pack("<QQ", *memory[struct.unpack("<I", data)[0]])))

    return talk


@contextmanager
def listening(talk: Callable[[socket.socket], None] | None) -> Iterator[Endpoint]:
    """Serves one connection at a time with `talk`; None accepts none, as a worker that serves another program."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, suppress(OSError):
                talk(sock) if talk else None

    thread = threading.Thread(target=serve, daemon=True)
    if talk is not None:
        thread.start()
    try:
        yield Endpoint("127.0.0.1", listener.getsockname()[1])
    finally:
        if talk is not None:
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
