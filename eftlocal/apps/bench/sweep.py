"""The sweeps of `eftlocal bench`: how the cost of a token changes with threads and grows with the context.

Only decodes are timed, of a fixed text that is read token by token. Combining and sampling always cost the same.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from eftlocal.apps.bench.prompts import PASSAGE
from eftlocal.apps.bench.report import ContextCost, ThreadCost
from eftlocal.catalog.models import Catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.loading import Loaded
from eftlocal.engine.slots import Request
from eftlocal.errors import SettingError
from eftlocal.runtime.plan.memory import Cache, Sizes

__all__ = ["Load", "check_contexts", "context_costs", "parse_contexts", "thread_costs", "thread_counts"]

STEPS = 4  # tokens that are timed together, after one that is not timed
LOADS = 3  # how often the models are loaded for each number of threads, if that is enough
THREADS_CTX = 128  # tokens that are read for each number of threads


class Load(Protocol):
    """Loads an emulator of a catalogue with the command's options. `ctx` and `threads` replace two of them."""

    def __call__(self, cat: Catalog, name: str, /, *, ctx: int | None = None, threads: int | None = None) -> Loaded:
        """Returns the loaded members on an engine. The caller closes the engine."""


# --- options ----------------------------------------------------------------------------------------------------------


def parse_contexts(text: str) -> tuple[int, ...]:
    """The numbers in a text like `256,1024,4096`, in rising order. Raises SettingError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise SettingError(f"--sweep-ctx has {text!r}; it must be numbers of tokens.", "Example: --sweep-ctx 256,1024")
    return tuple(sorted({int(part) for part in parts}))


def check_contexts(emulator: Emulator, contexts: Sequence[int], repetitions: int) -> None:
    """Raises SettingError if a context is too short for the timed tokens, or if all do not fit in memory together."""
    least = _timed(repetitions) + 3
    if contexts[0] < least:
        raise SettingError(
            f"--sweep-ctx has {contexts[0]}; with {repetitions} repetitions it must be at least {least}.",
            "Use longer contexts or fewer --repetitions.",
        )
    if emulator.sequences_that_fit(len(contexts)) < len(contexts):
        raise SettingError(
            f"{len(contexts)} KV caches of {contexts[-1]} tokens do not fit in memory at the same time.",
            "Use fewer or shorter contexts, or smaller caches (--kv-type q8_0).",
        )


def thread_counts(cores: int) -> tuple[int, ...]:
    """The numbers of threads to compare: 1, 2, 4 ... and all `cores`."""
    return (*(1 << i for i in range(cores.bit_length()) if 1 << i < cores), cores)


# --- the sweeps -------------------------------------------------------------------------------------------------------


def context_costs(
    loaded: Loaded, contexts: Sequence[int], repetitions: int, progress: Callable[[str], None]
) -> tuple[ContextCost, ...]:
    """The cost of a token at the end of each context (in rising order). Each has its own slot in the KV caches."""
    loaded.engine.reserve(len(contexts), loaded.engine.n_ctx)
    readings = []
    for n in contexts:
        progress(f"reading {n} tokens")
        readings.append(Reading(loaded, n, repetitions))
    times = [Times() for _ in contexts]
    for repetition in range(repetitions + 1):
        progress(f"contexts, repetition {repetition} of {repetitions}")
        for reading, own in zip(readings, times, strict=True):
            own.add(reading, warm_up=repetition == 0)
    return tuple(
        ContextCost(n, median(own.base_alone), median(own.concurrent), _kv_mb(loaded, n))
        for n, own in zip(contexts, times, strict=True)
    )


def thread_costs(
    load: Load, cat: Catalog, name: str, counts: Sequence[int], repetitions: int, progress: Callable[[str], None]
) -> tuple[ThreadCost, ...]:
    """The cost of a token with each of these numbers of threads.

    The models are loaded again for each number, because loading decides how members share the threads. The numbers take
    turns, so that a busy machine slows all of them equally. There are few rounds: a large base takes seconds to load.
    """
    most = (THREADS_CTX - 3) // _timed(0) - 1  # repetitions that one text has tokens for
    rounds = max(min(repetitions, LOADS), -(-repetitions // most))
    each = -(-repetitions // rounds)
    times = {n: Times() for n in counts}
    for i in range(rounds):
        for n in counts:
            progress(f"{n} threads, round {i + 1} of {rounds}")
            loaded = load(cat, name, threads=n)
            with closing(loaded.engine):
                reading = Reading(loaded, min(loaded.engine.n_ctx, THREADS_CTX), each)
                for repetition in range(each + 1):
                    times[n].add(reading, warm_up=repetition == 0)
    return tuple(ThreadCost(n, median(own.base_alone), median(own.concurrent)) for n, own in times.items())


@dataclass(slots=True)
class Times:
    """Milliseconds for a token, in each repetition."""

    base_alone: list[float] = field(default_factory=list)
    concurrent: list[float] = field(default_factory=list)

    def add(self, reading: "Reading", *, warm_up: bool) -> None:
        """Measure both once. The times of a warm-up are dropped."""
        base_ms, concurrent_ms = reading.ms(reading.base), reading.ms(reading.active)
        if not warm_up:
            self.base_alone.append(base_ms)
            self.concurrent.append(concurrent_ms)


class Reading:
    """A text of `n` tokens in its own slot. It is read up to the last tokens, which `repetitions` will time.

    Nothing is rewound, because a recurrent member cannot do that. All members read the same token ids.
    """

    def __init__(self, loaded: Loaded, n: int, repetitions: int) -> None:
        self._engine, mix = loaded.engine, loaded.members.mix(loaded.settings)
        self.base, self.active = (mix.base,), mix.active
        members = sorted({mix.base, *mix.active})
        once = self._engine.workers.model(mix.base).tokenize(PASSAGE)
        tokens = (once * (1 + n // len(once)))[: n - 1]  # one less, for a BOS token before them
        start = len(tokens) - _timed(repetitions)
        self._rest = iter(tokens[start:])
        self._slot = self._engine.begin({m: self._begins(m) + tokens[:start] for m in members})
        self._engine.forward([Request(self._slot, 1, members)])

    def _begins(self, member: int) -> list[int]:
        model = self._engine.workers.model(member)
        return [model.bos] if model.add_bos and model.bos is not None else []

    def ms(self, members: Sequence[int]) -> float:
        """Mean milliseconds that these members take to decode a token, over the next STEPS tokens."""
        self._next(members)  # also catches up with what other members have read
        started = time.perf_counter()
        for _ in range(STEPS):
            self._next(members)
        return 1000 * (time.perf_counter() - started) / STEPS

    def _next(self, members: Sequence[int]) -> None:
        self._slot.tokens.append(next(self._rest))
        self._engine.forward([Request(self._slot, 1, members)])


def _timed(repetitions: int) -> int:
    """How many tokens the repetitions and a warm-up read, each for two groups of members."""
    return 2 * (STEPS + 1) * (repetitions + 1)


def _kv_mb(loaded: Loaded, n: int) -> float:
    """MB of the KV caches for `n` tokens, of all members that run. llama.cpp rounds `n` up to a multiple of 256."""
    cache, active = Cache(n, kv_type=loaded.engine.workers.kv_type), loaded.members.mix(loaded.settings).active
    sizes = [Sizes.of(loaded.members.specs[member].header) for member in active]
    return sum(size.kv(cache, range(size.n_layers)) for size in sizes) / 1e6
