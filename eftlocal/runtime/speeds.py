"""Measures how long a model's decodes take on this machine, once, when it is first loaded, and saves the result.

How much a second thread helps depends on the type and size of the weights, on the rows and on the machine. No simple
rule predicts it, so the threads are divided among the members by measured speeds. The speeds are also saved because
logits depend on the number of threads: beyond 512 tokens, llama.cpp splits a row's attention among the threads, which
changed the logits of SmolLM2 in Q4_0 by up to 0.8.
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

from eftlocal.runtime.child.context import ChildContext
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.library import version
from eftlocal.runtime.machine import processor
from eftlocal.runtime.plan.threads import MOST_ROWS, Cost

__all__ = ["Speed", "Speeds", "measure", "speeds_file"]

ROWS = (1, 4, MOST_ROWS)  # llama.cpp's kernels compute 4 rows together, or 16
REPEATS = 4  # the shortest counts, because other work on the machine only adds to the time
BUDGET = 1.0  # about how many seconds one model may take; after that, further rows and repeats are left out
TOKEN = 1  # the token to decode; any would do


@dataclass(frozen=True, slots=True)
class Speed:
    """How long a model's decodes take.

    `seconds` maps the number of rows to two times in seconds: with one thread, and with all threads. Each row is one
    token of another sequence.
    """

    seconds: Mapping[int, tuple[float, float]]

    def cost(self, rows: int, n_threads: int) -> Cost:
        """Returns the cost of a decode of `rows` rows, interpolated linearly between the measured ones.

        `n_threads` is the number of threads that the second time of `seconds` was measured with.
        """
        known = sorted(self.seconds)
        at = min(max(rows, known[0]), known[-1])
        high = known[bisect_left(known, at)]
        low = max((n for n in known if n < high), default=high)
        part = 0.0 if high == low else (at - low) / (high - low)
        one, every = ((1 - part) * a + part * b for a, b in zip(self.seconds[low], self.seconds[high], strict=True))
        shared = (1 - every / one) / (1 - 1 / n_threads) if n_threads > 1 else 0.0
        return Cost(one, min(max(shared, 0.0), 1.0))


def measure(context: Context | ChildContext, n_threads: int, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Times decodes with one thread and with `n_threads`, for each of ROWS that the context has sequences for."""
    found: dict[tuple[int, int], float] = {}

    def decode(rows: int, threads: int) -> float:
        for sequence in range(rows):
            context.rewind(sequence, 0)
        context.set_threads(threads)
        started = clock()
        context.feed([Feed(sequence, [TOKEN], 1) for sequence in range(rows)])
        return clock() - started

    began = clock()
    decode(1, n_threads)  # not timed: it reads the weights from the disk and starts the threads
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
    """Returns the path of the file in which speeds are saved."""
    return platformdirs.user_cache_path("eftlocal") / "speeds.json"


class Speeds:
    """The saved speeds of models on this machine with `n_threads` threads. Without a path, nothing is saved."""

    def __init__(self, n_threads: int, path: Path | None) -> None:
        self.n_threads = n_threads
        self._path = path
        self._machine = f"{processor()}, {n_threads} threads, llama-cpp-python {version()}"

    def get(self, model: str) -> Speed | None:
        """Returns the saved speed of a model, or None. `model` is any string that identifies it."""
        found = self._read().get(self._machine, {})
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            speed = Speed({int(rows): (float(one), float(every)) for rows, (one, every) in found[model].items()})
            if speed.seconds and all(one > 0 and every > 0 for one, every in speed.seconds.values()):
                return speed
        return None

    def put(self, model: str, speed: Speed) -> None:
        """Saves a model's speed. Does nothing when the file cannot be written."""
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
