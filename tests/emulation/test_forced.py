"""Tests of logits along given answers: they are the oracle's for each member, however many are decoded together."""

from pathlib import Path

import numpy as np
import pytest

from eftlocal.emulation import forced
from eftlocal.emulation.forced import Forced
from eftlocal.engine.engine import Engine
from eftlocal.runtime import gguf
from eftlocal.training import parity
from tests.builders import load_members
from tests.families import Family

ANSWERS = [
    Forced({0: [10, 20, 30], 1: [99]}, [72, 101, 108, 108]),
    Forced({0: [10, 20, 31], 1: [99, 98]}, [111]),
    Forced({0: [5], 1: [6, 7, 8]}, list(range(40, 140))),
    Forced({0: [10, 20, 30], 1: [99]}, [72, 101]),
]


@pytest.fixture
def engine(family: Family, tmp_path: Path) -> Engine:
    models = {"base": family.base, "tuned": family.tuned, "reference": family.tuned}
    return load_members(tmp_path, models, views="raw").engine


@pytest.mark.parametrize("n_slots", [1, 3])
def test_rows_are_llama_cpps_for_each_member(engine: Engine, family: Family, n_slots: int) -> None:
    engine.reserve(n_slots, 256)
    found = list(forced.logits(engine, ANSWERS, 316))
    engine.close()
    assert len(found) == len(ANSWERS)
    for answer, rows in zip(ANSWERS, found, strict=True):
        for member, path in enumerate((family.base, family.tuned)):
            whole = [*answer.prompts[member], *answer.tokens]
            expected = parity.llama_cpps(gguf.check(path), whole)[len(answer.prompts[member]) - 1 : -1]
            assert rows[member].shape == (len(answer.tokens), 316)
            np.testing.assert_allclose(rows[member], expected[:, :316], atol=1e-4)
