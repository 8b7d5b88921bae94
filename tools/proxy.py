"""A proxy of a server, for measuring and for breaking what goes through it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

__all__ = ["Answer", "proxied", "sent"]

# handler, request, the server's status and data, and the seconds that it took
Answer = Callable[[BaseHTTPRequestHandler, bytes, int, bytes, float], None]


@contextmanager
def proxied(url: str, answer: Answer) -> Iterator[str]:
    """The address of a proxy of the server at `url`. `answer` is called with what the server answered, and sends it."""
    target = urlsplit(url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes, and the second would wait for 40 ms

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            upstream = HTTPConnection(target.hostname or "", target.port)
            began = time.perf_counter()
            upstream.request(self.command, self.path, body or None, {"Content-Type": "application/json"})
            found = upstream.getresponse()
            data = found.read()
            upstream.close()
            answer(self, body, found.status, data, time.perf_counter() - began)

        do_GET = do_POST = _pass  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sent(handler: BaseHTTPRequestHandler, status: int, data: bytes, length: int) -> None:
    """Send a head with this length, and the data."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(data)
