"""How long a model's decodes take on this machine: measured once, when it is first loaded, and remembered.

How much a second thread helps depends on the weights' type, their size, the rows and the machine, by more than any rule
could say: so members share the threads by what was measured. It is remembered also because logits depend on threads:
beyond 512 tokens, llama.cpp splits a row's attention among them, which moved SmolLM2's in Q4_0 by up to 0.8.
"""

import json
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from eftlocal.runtime.llama.context import Context, Feed
from eftlocal.runtime.llama.library import version
from eftlocal.runtime.machine import processor
from eftlocal.runtime.plan.threads import MOST_ROWS, Cost

__all__ = ["Speed", "Speeds", "measure", "speeds_file"]

ROWS = (1, 4, MOST_ROWS)  # llama.cpp's kernels take four rows together, and sixteen
REPEATS = 4  # of which the shortest counts: what else the machine does only adds to it
BUDGET = 1.0  # seconds of one model, about: then the rows and repeats that lack are left out
TOKEN = 1  # decoded over and over: what it is does not matter


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a decode, with one thread and with all: by rows. One token of as many sequences."""

    seconds: Mapping[int, tuple[float, float]]

    def cost(self, rows: int, n_threads: int) -> Cost:
        """Of a decode of so many rows; between those that were measured, on a line."""
        known = sorted(self.seconds)
        at = min(max(rows, known[0]), known[-1])
        high = known[bisect_left(known, at)]
        low = max((n for n in known if n < high), default=high)
        part = 0.0 if high == low else (at - low) / (high - low)
        one, every = ((1 - part) * a + part * b for a, b in zip(self.seconds[low], self.seconds[high], strict=True))
        shared = (1 - every / one) / (1 - 1 / n_threads) if n_threads > 1 else 0.0
        return Cost(one, min(max(shared, 0.0), 1.0))


def measure(context: Context, n_threads: int, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Decode tokens with one thread and with `n_threads`, for ROWS or what the context has sequences for."""
    found: dict[tuple[int, int], float] = {}

    def decode(rows: int, threads: int) -> float:
        for sequence in range(rows):
            context.rewind(sequence, 0)
        context.set_threads(threads)
        started = clock()
        context.feed([Feed(sequence, [TOKEN], 1) for sequence in range(rows)])
        return clock() - started

    began = clock()
    decode(1, n_threads)  # weights are read from the disk, threads started
    for rows in ROWS:
        if rows > context.n_seq or (found and clock() - began > BUDGET):
            break
        for _ in range(REPEATS):
            for threads in (1, n_threads):
                seconds = decode(rows, threads)
                found[rows, threads] = min(seconds, found.get((rows, threads), seconds))
            if clock() - began > BUDGET:
                break
    return Speed({rows: (found[rows, 1], found[rows, n_threads]) for rows, threads in found if threads == 1})


def speeds_file() -> Path:
    """Where speeds are remembered."""
    return platformdirs.user_cache_path("eftlocal") / "speeds.json"


class Speeds:
    """The speeds of models on this machine with so many threads; in a file, where one is given and can be written."""

    def __init__(self, n_threads: int, path: Path | None) -> None:
        self.n_threads = n_threads
        self._path = path
        self._machine = f"{processor()}, {n_threads} threads, llama-cpp-python {version()}"

    def get(self, model: str) -> Speed | None:
        """What is known of `model`, whatever tells it from others."""
        found = self._read().get(self._machine, {})
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            speed = Speed({int(rows): (float(one), float(every)) for rows, (one, every) in found[model].items()})
            if speed.seconds and all(one > 0 and every > 0 for one, every in speed.seconds.values()):
                return speed
        return None

    def put(self, model: str, speed: Speed) -> None:
        """Remember it; a file that cannot be written is done without."""
        if self._path is None:
            return
        known = self._read()
        known.setdefault(self._machine, {})[model] = {str(rows): pair for rows, pair in speed.seconds.items()}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                beside.write_text(json.dumps(known, indent=1), encoding="utf-8")
                beside.replace(self._path)
            finally:
                beside.unlink(missing_ok=True)

    def _read(self) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
        with suppress(OSError, ValueError):
            if self._path is not None and isinstance(known := json.loads(self._path.read_text(encoding="utf-8")), dict):
                return {machine: models for machine, models in known.items() if isinstance(models, dict)}
        return {}
