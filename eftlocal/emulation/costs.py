"""What decodes cost on this machine, measured on the members themselves: the limit that blocks of guesses can reach."""

import time
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from eftlocal.arithmetic.combine import Mix
from eftlocal.engine.engine import Engine, Known, Request

__all__ = ["block_seconds"]

TOKEN = 1  # decoded over and over: what it is does not matter


def block_seconds(
    engine: Engine,
    mix: Mix,
    drafter: int | None,
    prompts: Mapping[int, list[int]],
    lengths: Sequence[int],
    *,
    repeats: int = 7,
) -> dict[int, float]:
    """Seconds that the decodes of a block of so many guesses take, after these prompts: medians.

    The guesses are the drafter's, one decode each; then all members check them together. No sampling is in it.
    """
    times: dict[int, list[float]] = {n: [] for n in lengths}
    rows = np.empty((max(lengths) + 1, engine.model(mix.base).n_vocab), np.float32)
    slot = engine.begin(prompts)
    try:
        engine.forward([Request(slot, 1, mix.active)])
        for _ in range(repeats + 1):
            for n in lengths:
                slot.truncate(0)
                slot.tokens.append(TOKEN)
                started = time.perf_counter()
                for _ in range(n):
                    if drafter is not None:
                        engine.forward([Request(slot, 1, (drafter,))])
                    slot.tokens.append(TOKEN)
                known = None if drafter is None else Known(drafter, rows, n)
                engine.forward([Request(slot, n + 1, mix.active, known)])
                times[n].append(time.perf_counter() - started)
    finally:
        engine.end(slot)
    return {n: median(seconds[1:]) for n, seconds in times.items()}  # the first of a shape builds llama.cpp's graph
