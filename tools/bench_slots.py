"""Drafts on a llama-server, in one request or in slots of their own: python -m tools.bench_slots MODEL

A draft of `--draft` tokens is checked in one request, whose grammar forces its tokens, and the server decodes them one
after the other; or in one request for each of its positions, at the same time, and the server's slots decode together.
Each slot must then hold the sequence, and is fed what the step before accepted: here half of the draft and a token.
"""

import argparse
import http.client
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from json import dumps, loads
from pathlib import Path
from urllib.parse import urlsplit

from tests import llama_server

TOP = 100
PROSE = Path(__file__).parents[1] / "ARCHITECTURE.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=300, help="tokens")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    n, pick = given.draft, random.Random(1)
    with (
        llama_server.running(given.model, slots=n + 1, context=1024) as server,
        ThreadPoolExecutor(n + 1) as pool,
    ):
        connections = [http.client.HTTPConnection(urlsplit(server.url).netloc) for _ in range(n + 1)]
        words = " ".join(word for word in PROSE.read_text(encoding="utf-8").split() if word.isalpha())
        known: list[int] = posted(connections[0], "/tokenize", {"content": words})["tokens"]

        def step(way: str, tokens: Sequence[int], guess: Sequence[int]) -> None:
            if way == "one token":
                ask(connections[0], tokens)
            elif way == "one request":
                ask(connections[0], tokens, guess)
            else:
                list(pool.map(lambda i: ask(connections[i], [*tokens, *guess[:i]]), range(n + 1)))

        for _ in range(given.rounds):
            medians = {}
            for way in ("one token", "one request", "slots"):
                for connection in connections:
                    connection.close()  # the server may have given it up
                tokens, seconds = pick.choices(known, k=given.prompt), []
                for i in range(given.steps + 1):
                    guess = pick.choices(known, k=n)
                    began = time.perf_counter()
                    step(way, tokens, guess)
                    if i:  # the first one reads the prompt
                        seconds.append(time.perf_counter() - began)
                    tokens += [*guess[: n // 2], pick.choice(known)]
                medians[way] = statistics.median(seconds)
            print(", ".join(f"{way} {seconds * 1000:.1f} ms" for way, seconds in medians.items()))


def ask(connection: http.client.HTTPConnection, tokens: Sequence[int], forced: Sequence[int] = ()) -> None:
    body: dict[str, object] = {"prompt": [*tokens], "n_predict": 1 + len(forced), "n_probs": TOP, "cache_prompt": True}
    if forced:
        body["grammar"] = "root ::= " + " ".join(f"<[{token}]>" for token in (*forced, forced[-1]))
    assert len(posted(connection, "/completion", body)["completion_probabilities"]) >= 1 + len(forced)


def posted(connection: http.client.HTTPConnection, path: str, body: object) -> dict[str, list[int]]:
    connection.request("POST", path, dumps(body), {"Content-Type": "application/json"})
    found: dict[str, list[int]] = loads(connection.getresponse().read())
    return found


if __name__ == "__main__":
    main()
