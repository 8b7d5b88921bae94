"""How fast a base on a server decodes, and where the time goes: python -m tools.bench_remote [--trip MS] [--decode MS]

A real llama-server (package xllamacpp) serves the demo's large base, behind a proxy that adds a round trip to each
request and a decode to each token that is sampled. Each draft length answers the same questions, in turn, in one run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from eftlocal import Emulator
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import packaged
from tests import llama_server

DRAFTS = (0, 2, 4, 8, "auto")


@contextmanager
def delayed(url: str, trip: float, decode: float) -> Iterator[str]:
    """The address of a proxy of the server at `url`. trip, decode: seconds of a request, and of a token."""
    target = urlsplit(url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes, and the second would wait for 40 ms

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            upstream = HTTPConnection(target.hostname or "", target.port)
            began = time.perf_counter()
            upstream.request(self.command, self.path, body or None, {"Content-Type": "application/json"})
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            tokens = json.loads(body).get("n_predict", 0) if body else 0
            time.sleep(max(0.0, trip + decode * tokens - (time.perf_counter() - began)))
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _pass  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trip", type=float, default=20.0, help="milliseconds of a round trip")
    parser.add_argument("--decode", type=float, default=5.0, help="milliseconds of a decode")
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    given = parser.parse_args()
    asked = json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))["questions"][: given.questions]
    cat = catalog.load()
    with (
        llama_server.running(packaged("demo/large-base.gguf")) as server,
        delayed(server.url, given.trip / 1000, given.decode / 1000) as url,
    ):
        base = catalog.Model(name="far", file=catalog.Server(url=url, top=given.top))
        far = replace(cat.emulators["demo"], name="far", base="far")
        cat = replace(cat, models={**cat.models, "far": base}, emulators={**cat.emulators, "far": far})
        with Emulator.load("far", models=cat, temperature=given.temperature) as emulator:
            rates: dict[int | str, list[float]] = {draft: [] for draft in DRAFTS}
            texts: dict[int | str, list[str]] = {}
            for _ in range(given.rounds):
                for draft in DRAFTS:
                    began, tokens, said = time.perf_counter(), 0, []
                    for i, question in enumerate(asked):
                        reply = emulator.generate(str(question["question"]), draft=draft, seed=i)
                        tokens += len(reply.tokens) + 1
                        said.append(reply.text)
                    rates[draft].append(tokens / (time.perf_counter() - began))
                    texts[draft] = said
            link = emulator.members.specs[emulator.members.base].remote
            assert link is not None
            timing = link.link.timing
    one = statistics.median(rates[0])
    print(f"round trip {given.trip:g} ms, decode {given.decode:g} ms, top {given.top}, T {given.temperature:g}")
    for draft, found in rates.items():
        rate = statistics.median(found)
        same = sum(a == b for a, b in zip(texts[draft], texts[0], strict=True))
        print(f"  draft {draft!s:>5}: {rate:6.1f} tokens/s, {rate / one:.2f} x; {same} of {len(asked)} texts the same")
    n = timing.requests
    parts = {"waited": timing.waited, "transfer": timing.transfer, "parsed": timing.parsed}
    shown = ", ".join(f"{name} {seconds / n * 1000:.2f} ms" for name, seconds in parts.items())
    print(f"  a request: {shown}, {timing.received / n / 1000:.1f} kB")


if __name__ == "__main__":
    main()
