"""How fast a base on a server decodes, and where the time goes: python -m tools.bench_remote [--trip MS] [--decode MS]

A real llama-server (package xllamacpp) serves the demo's large base, behind a proxy that adds a round trip to each
request and a decode to each token that is sampled. Each draft length answers the same questions, in turn, in one run.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

from eftlocal import Emulator
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import packaged
from tests import llama_server
from tools.proxy import Answer, proxied, sent

DRAFTS = (0, 2, 4, 8, "auto")


def delayed(trip: float, decode: float) -> Answer:
    """What a proxy answers later. trip, decode: seconds of a request, and of a token, with what the server takes."""

    def answer(handler: BaseHTTPRequestHandler, asked: bytes, status: int, data: bytes, took: float) -> None:
        tokens = json.loads(asked).get("n_predict", 0) if asked else 0
        time.sleep(max(0.0, trip + decode * tokens - took))
        sent(handler, status, data, len(data))

    return answer


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
        proxied(server.url, delayed(given.trip / 1000, given.decode / 1000)) as url,
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
