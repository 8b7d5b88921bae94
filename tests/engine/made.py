"""Engines with the family's tiny models, and their logits: with everything reused, or from a cold start."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot
from eftlocal.engine.spec import MemberSpec
from eftlocal.engine.workers import Workers
from eftlocal.runtime import gguf

ANSWER = [72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100, 33]
PROMPTS = {0: [10, 20, 30, 40, 50], 1: [99, 98, 97], 2: [1, 2, 3, 4, 5, 6, 7, 8], 3: [60], 4: [61, 62]}


def engine(paths: Sequence[Path], *, n_slots: int = 1, n_threads: int = 1, lora: Path | None = None) -> Engine:
    specs = [
        MemberSpec(f"member {i}", gguf.check(p), (lora, 1.0) if lora and i == 1 else None) for i, p in enumerate(paths)
    ]
    return Engine(Workers(specs, n_ctx=256, n_threads=n_threads, n_seq=n_slots, kv_type="f32"))


def rows(made: Engine, slot: Slot, n: int, members: Sequence[int] = (0, 1, 2)) -> dict[int, Logits]:
    """Copies of the members' logits for the last n positions."""
    return {member: z.copy() for member, (z, _) in made.forward([Request(slot, n, members)]).items()}


def cold(paths: Sequence[Path], prompts: Mapping[int, list[int]], tokens: list[int], n: int) -> dict[int, Logits]:
    """The same logits from a new engine: one prefill, and nothing is reused."""
    made = engine(paths)
    try:
        slot = made.begin(prompts)
        slot.tokens = list(tokens)
        return rows(made, slot, n, tuple(prompts))
    finally:
        made.close()


def same(one: Mapping[int, Logits], other: Mapping[int, Logits]) -> None:
    assert one.keys() == other.keys()
    for member, z in one.items():
        # Another batch shape sums in another order. The largest difference seen on these models was 2e-5.
        np.testing.assert_allclose(z, other[member], atol=1e-4, err_msg=f"member {member}")
