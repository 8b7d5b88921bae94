"""Measures what the decodes of drafts cost on this machine, which limits the gain of speculative decoding."""

import time
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from eftlocal.arithmetic.combine import Mix
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Known, Request

__all__ = ["draft_seconds"]

TOKEN = 1  # every decode gets this token; any other would cost the same


def draft_seconds(
    engine: Engine,
    mix: Mix,
    drafter: int | None,
    prompts: Mapping[int, list[int]],
    lengths: Sequence[int],
    *,
    repeats: int = 7,
) -> dict[int, float]:
    """Draft length -> median seconds of the decodes of one draft of that length, after these prompts.

    The draft model makes the guesses, one decode for each, and all members check them in one decode. Sampling does not
    count. Without a `drafter` (a member index), only the check is timed. Raises DecodeError and ModelLoadError.
    """
    times: dict[int, list[float]] = {n: [] for n in lengths}
    rows = np.empty((max(lengths) + 1, engine.workers.model(mix.base).n_vocab), np.float32)
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
    return {n: median(seconds[1:]) for n, seconds in times.items()}  # the first one builds llama.cpp's graph
