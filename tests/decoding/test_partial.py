"""A greedy token of a partial row is drawn only when it is the one that whole rows give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from eftlocal.arithmetic.combine import Combiner, Mix, Pair
from eftlocal.arithmetic.sample import Sampling
from eftlocal.decoding.partial import Completed, Completer

BASE, TUNED, REFERENCE = range(3)
LEVEL = 10.0  # of the rows on this machine
PENALTY = 1.08


def test_a_penalty_that_depends_on_the_rows_level_is_certain_only_when_the_level_is() -> None:
    """Token 2 is banned, and the reward makes much of it: where it has all that it can have, it sets the level."""
    whole = np.log(np.array([0.5, 0.3, 1e-4, 0.1999], np.float32))
    partial = np.array([whole[0], whole[1], -np.inf, -np.inf], np.float32)
    own = {BASE: partial[None], TUNED: np.array([[0, 0, 6, 0]], np.float32), REFERENCE: np.zeros((1, 4), np.float32)}

    def draw(row: Completed) -> int:
        z = row.z + (LEVEL - row.z.max())  # repeat_penalty on token 0, at the level of a row on this machine
        z[0] = z[0] / PENALTY if z[0] > 0 else z[0] * PENALTY
        z[2] = -np.inf
        return int(z.argmax())

    asked: list[int] = []

    def more(_slot: object, _member: int, _tokens: object, known: int) -> Any:
        asked.append(known)
        return whole

    generation: Any = SimpleNamespace(
        mix=Mix(3, BASE, (Pair(TUNED, REFERENCE, 1.0),)),
        settings=SimpleNamespace(sampling=Sampling(temperature=0.0, repeat_penalty=PENALTY)),
        tokens=[0],
        left_out=[],
    )
    engine: Any = SimpleNamespace(more=more)
    completer = Completer(engine, Combiner(("base", "tuned", "reference"), 4))
    slot: Any = None
    found = completer.complete(slot, generation, own, 0, draw)
    right = draw(Completed(whole + own[TUNED][0], whole))
    assert found is not None and draw(found) == right == 1
    assert asked == [2]
