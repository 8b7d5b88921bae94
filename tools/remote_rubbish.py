"""A base's server that fails at random, at each third request: python -m tools.remote_rubbish [--requests N]

A real llama-server serves the demo's large base, behind a proxy that answers some requests with an error of 500, a 429,
rubbish, a half JSON, a part of an answer, or another program's JSON, or hangs up. Each answer must be the one of the
same base here, or end in one line with a beginning of it. The exit code is 1 if one is not.
"""

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

from eftlocal import Emulator
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import packaged
from eftlocal.errors import EftError
from eftlocal.runtime.remote import connection
from tests import llama_server
from tools.proxy import Answer, proxied, sent

KINDS = ("500", "429", "rubbish", "half JSON", "part", "other JSON", "empty", "hangs up")


def failing(share: float, draw: random.Random, seen: Counter[str]) -> Answer:
    """What a proxy answers that fails at a share of the requests for rows, while seen["on"]."""

    def answer(handler: BaseHTTPRequestHandler, _: bytes, status: int, data: bytes, _took: float) -> None:
        kind = "right"
        if seen["on"] and handler.path == "/completion":
            kind = draw.choice(KINDS) if draw.random() < share else kind
            seen[kind] += 1
        if kind == "hangs up":
            handler.close_connection = True
            return
        if kind == "rubbish":
            handler.wfile.write(draw.randbytes(200))
            handler.close_connection = True
            return
        made = {"half JSON": data[: len(data) // 2], "other JSON": b'{"ok": true}', "empty": b""}.get(kind, data)
        if kind.isdecimal():
            status, made = int(kind), b'{"error": {"message": "no slot\\nis free"}}'
        sent(handler, status, made[: len(made) // 2] if kind == "part" else made, len(made))
        handler.close_connection = kind == "part"

    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="that fail")
    parser.add_argument("--share", type=float, default=0.33)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    connection.PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2)  # type: ignore[misc]
    draw, seen = random.Random(given.seed), Counter[str]()
    asked = [
        q["question"] for q in json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))["questions"]
    ]
    cat, outcomes, wrong, longest = catalog.load(), Counter[str](), 0, 0.0
    with (
        llama_server.running(packaged("demo/large-base.gguf")) as server,
        proxied(server.url, failing(given.share, draw, seen)) as url,
        Emulator.load("demo") as here,
    ):
        base = catalog.Model(name="far", file=catalog.Server(url=url, top=20))
        far = replace(cat.emulators["demo"], name="far", base="far")
        cat = replace(cat, models={**cat.models, "far": base}, emulators={**cat.emulators, "far": far})
        with Emulator.load("far", models=cat) as emulator:
            seen["on"] = 1
            while sum(seen[kind] for kind in KINDS) < given.requests:
                question = draw.choice(asked)
                wanted, text, error, began = here.generate(question).text, "", None, time.monotonic()
                try:
                    for delta in emulator.stream(question, draft=draw.choice([0, 4])):
                        text += delta
                except EftError as found:
                    error = found
                longest = max(longest, time.monotonic() - began)
                right = text == wanted if error is None else wanted.startswith(text) and "\n" not in error.message
                outcomes["the whole answer" if error is None else error.message.replace(url, "URL")] += 1
                if not right:
                    wrong += 1
                    print(f"fault: {text!r}, wanted {wanted!r}, {error}", flush=True)
    del seen["on"]
    print(", ".join(f"{n} {kind}" for kind, n in sorted(seen.items())))
    for told, n in outcomes.most_common():
        print(f"{n:4} x {told}")
    print(f"wrong: {wrong}; the longest took {longest:.1f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
