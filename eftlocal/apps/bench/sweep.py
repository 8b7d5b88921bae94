"""How the cost of a token grows with threads and with the tokens before it: the sweeps of `eftlocal bench`.

Decodes alone are timed, of a fixed text that is read token by token: combining and sampling cost the same everywhere.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from eftlocal.apps.bench.prompts import PASSAGE
from eftlocal.apps.bench.report import ContextCost, ThreadCost
from eftlocal.catalog.models import Catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.engine.engine import Request
from eftlocal.errors import SettingError
from eftlocal.runtime.plan.memory import Cache, Sizes

__all__ = ["Load", "check_contexts", "context_costs", "parse_contexts", "thread_costs", "thread_counts"]

STEPS = 4  # tokens that are timed at a time, after one more that is not
LOADS = 3  # of each number of threads, at most
THREADS_CTX = 128  # tokens that are read with each number of threads


class Load(Protocol):
    """Loads an emulator of a catalogue as the command's options say, but for what is given here."""

    def __call__(self, cat: Catalog, name: str, /, *, ctx: int | None = None, threads: int | None = None) -> Emulator:
        """The emulator; the caller closes it."""


# --- what is asked for ------------------------------------------------------------------------------------------------


def parse_contexts(text: str) -> tuple[int, ...]:
    """`256,1024,4096` in rising order. Raises SettingError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise SettingError(f"--sweep-ctx has {text!r}; it must be numbers of tokens.", "As in: 256,1024,4096")
    return tuple(sorted({int(part) for part in parts}))


def check_contexts(emulator: Emulator, contexts: Sequence[int], repetitions: int) -> None:
    """Raises SettingError where contexts leave no room for what is timed, or do not fit in memory side by side."""
    least = _timed(repetitions) + 3
    if contexts[0] < least:
        raise SettingError(
            f"--sweep-ctx has {contexts[0]}; with {repetitions} repetitions it must be at least {least}.",
            "Sweep longer contexts, or repeat less often (--repetitions).",
        )
    if emulator.sequences_that_fit(len(contexts)) < len(contexts):
        raise SettingError(
            f"{len(contexts)} caches of {contexts[-1]} tokens do not fit in memory at the same time.",
            "Sweep fewer or shorter contexts in one run, or store them smaller (--kv-type q8_0).",
        )


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 ... and all of them."""
    return (*(1 << i for i in range(cores.bit_length()) if 1 << i < cores), cores)


# --- the sweeps -------------------------------------------------------------------------------------------------------


def context_costs(
    emulator: Emulator, contexts: Sequence[int], repetitions: int, progress: Callable[[str], None]
) -> tuple[ContextCost, ...]:
    """What a token costs at the end of each of these contexts (rising), each in a cache of its own."""
    emulator.engine.reserve(len(contexts), emulator.context)
    readings = []
    for n in contexts:
        progress(f"reading {n} tokens")
        readings.append(Reading(emulator, n, repetitions))
    times = [Times() for _ in contexts]
    for repetition in range(repetitions + 1):
        progress(f"contexts, repetition {repetition} of {repetitions}")
        for reading, own in zip(readings, times, strict=True):
            own.add(reading, warm_up=repetition == 0)
    return tuple(
        ContextCost(n, median(own.base_alone), median(own.concurrent), _kv_mb(emulator, n))
        for n, own in zip(contexts, times, strict=True)
    )


def thread_costs(
    load: Load, cat: Catalog, name: str, counts: Sequence[int], repetitions: int, progress: Callable[[str], None]
) -> tuple[ThreadCost, ...]:
    """What a token costs with each of these numbers of threads.

    Loaded anew for each, as `--threads` would: who decodes on how many of them is settled then. In rounds, so that what
    else the machine does falls on all numbers alike, but in few: a large base takes seconds to load.
    """
    rounds = min(repetitions, LOADS)
    each = -(-repetitions // rounds)
    times = {n: Times() for n in counts}
    for i in range(rounds):
        for n in counts:
            progress(f"{n} threads, round {i + 1} of {rounds}")
            with load(cat, name, threads=n) as emulator:
                reading = Reading(emulator, min(emulator.context, THREADS_CTX), each)
                for repetition in range(each + 1):
                    times[n].add(reading, warm_up=repetition == 0)
    return tuple(ThreadCost(n, median(own.base_alone), median(own.concurrent)) for n, own in times.items())


@dataclass(slots=True)
class Times:
    """Milliseconds a token of each repetition."""

    base_alone: list[float] = field(default_factory=list)
    concurrent: list[float] = field(default_factory=list)

    def add(self, reading: "Reading", *, warm_up: bool) -> None:
        """One repetition of both; of a warm-up nothing is kept."""
        alone, concurrent = reading.ms(reading.base), reading.ms(reading.active)
        if not warm_up:
            self.base_alone.append(alone)
            self.concurrent.append(concurrent)


class Reading:
    """A text of `n` tokens in a slot of its own, read up to the last of them: those that `repetitions` will time.

    Nothing is ever rewound, which a recurrent member could not do. All members read the same ids.
    """

    def __init__(self, emulator: Emulator, n: int, repetitions: int) -> None:
        self._engine, mix = emulator.engine, emulator.mix(emulator.settings)
        self.base, self.active = (mix.base,), mix.active
        members = sorted({mix.base, *mix.active})
        once = self._engine.model(mix.base).tokenize(PASSAGE)
        tokens = (once * (1 + n // len(once)))[: n - 1]  # one less: a BOS may stand before them
        start = len(tokens) - _timed(repetitions)
        self._rest = iter(tokens[start:])
        self._slot = self._engine.begin({m: self._begins(m) + tokens[:start] for m in members})
        self._engine.forward([Request(self._slot, 1, members)])

    def _begins(self, member: int) -> list[int]:
        model = self._engine.model(member)
        return [model.bos] if model.add_bos and model.bos is not None else []

    def ms(self, members: Sequence[int]) -> float:
        """Milliseconds that these members decode at each of the next tokens, on average."""
        self._next(members)  # and with it what others have read meanwhile
        started = time.perf_counter()
        for _ in range(STEPS):
            self._next(members)
        return 1000 * (time.perf_counter() - started) / STEPS

    def _next(self, members: Sequence[int]) -> None:
        self._slot.tokens.append(next(self._rest))
        self._engine.forward([Request(self._slot, 1, members)])


def _timed(repetitions: int) -> int:
    """Tokens that so many repetitions and a warm-up read, twice each."""
    return 2 * (STEPS + 1) * (repetitions + 1)


def _kv_mb(emulator: Emulator, n: int) -> float:
    """MB of the caches of `n` tokens of all members that run; llama.cpp rounds `n` up to a multiple of 256."""
    engine, cache = emulator.engine, Cache(n, kv_type=emulator.engine.kv_type)
    sizes = [Sizes.of(engine.specs[member].header) for member in emulator.mix(emulator.settings).active]
    return sum(size.kv(cache, range(size.n_layers)) for size in sizes) / 1e6
