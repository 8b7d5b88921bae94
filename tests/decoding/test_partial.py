"""A greedy token of a partial row is drawn only when it is the one that whole rows give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eftlocal.arithmetic.arrays import Logits
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
        matcher=None,
        allowed=lambda: None,
    )
    engine: Any = SimpleNamespace(more=more)
    completer = Completer(engine, Combiner(("base", "tuned", "reference"), 4))
    slot: Any = None
    found = completer.complete(slot, generation, own, 0, draw)
    right = draw(Completed(whole + own[TUNED][0], whole))
    assert found is not None and draw(found) == right == 1
    assert asked == [2]


WHOLE = np.log(np.array([0.5, 0.3, 0.12, 0.05, 0.03], np.float32))


class Constrained:
    """A server's row of which two tokens are known, and an answer under a constraint that allows some tokens."""

    def __init__(self, allowed: list[int], temperature: float, *, gives: bool = True) -> None:
        mask = np.isin(np.arange(5), allowed)
        self.asked, self.left_out = 0, list[tuple[float, float]]()
        self._gives = gives
        generation: Any = SimpleNamespace(
            mix=Mix(3, BASE, (Pair(TUNED, REFERENCE, 1.0),)),
            settings=SimpleNamespace(sampling=Sampling(temperature=temperature, top_p=1.0)),
            tokens=[],
            left_out=self.left_out,
            matcher=object(),
            allowed=lambda: mask,
        )
        row, zeros = np.where(WHOLE > -1.5, WHOLE, np.float32(-np.inf)), np.zeros((1, 5), np.float32)
        engine: Any = SimpleNamespace(more=self._more)
        slot: Any = None
        completer = Completer(engine, Combiner(("base", "tuned", "reference"), 5))
        own = {BASE: row[None], TUNED: zeros, REFERENCE: zeros}

        def masked(z: Logits) -> Logits:
            return np.where(mask, z, np.float32(-np.inf))

        found = completer.complete(slot, generation, own, 0, lambda made: int(masked(made.z).argmax()))
        assert found is not None
        self.z = masked(found.z)

    def _more(self, *_: object) -> Any:
        self.asked += 1
        return WHOLE if self._gives else None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_asks_for_more_only_where_tokens_that_it_allows_are_not_known(temperature: float) -> None:
    alone = Constrained([4], temperature)
    assert alone.asked == 0 and alone.z.argmax() == 4
    known = Constrained([0, 1], temperature)
    assert known.asked == 0 and known.left_out[-1][1] == 0
    np.testing.assert_allclose(known.z[:2], WHOLE[:2], atol=1e-6)
    unknown = Constrained([3, 4], temperature)
    assert unknown.asked == 1 and unknown.left_out[-1][1] == 0
    np.testing.assert_allclose(unknown.z[3:], WHOLE[3:], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_a_server_gives_no_more_the_bound_says_that_nothing_is_known(temperature: float) -> None:
    answer = Constrained([3, 4], temperature, gives=False)
    assert answer.left_out[-1][1] == 1
    assert np.isfinite(answer.z[3:]).all()
