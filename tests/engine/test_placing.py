"""Where members run, as the plan says or could not have."""

from types import SimpleNamespace
from typing import cast

import pytest

from eftlocal.engine.placing import Placing
from eftlocal.engine.spec import MemberSpec
from eftlocal.runtime import gguf
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.placement import Plan
from tests.families import Family


@pytest.mark.parametrize(
    ("members", "apart"),
    [
        pytest.param([("base", "GPU 0"), ("tuned", "CPU")], True, id="a drafter on the CPU, a base on a device"),
        pytest.param([("base", "CPU"), ("tuned", "GPU 0")], True, id="and the other way round"),
        pytest.param([("base", "GPU 0"), ("tuned", "GPU 1")], True, id="a device each"),
        pytest.param([("base", "GPU 0"), ("tuned", "GPU 0")], False, id="one device for both"),
        pytest.param([("base", "CPU"), ("tuned", "CPU")], False, id="both on the CPU"),
        pytest.param([("base", "GPU 0 CPU"), ("tuned", "CPU")], False, id="half of the base on the CPU"),
    ],
)
def test_members_that_share_no_place_are_apart(family: Family, members: list[tuple[str, str]], apart: bool) -> None:
    places = [where.replace("GPU ", "GPU").split() for _, where in members]
    placed = [
        SimpleNamespace(read=9 if "CPU" in where else 0, offload=Offload(9, tuple(p for p in where if p != "CPU")))
        for where in places
    ]
    specs = [MemberSpec(name, gguf.check(getattr(family, name))) for name, _ in members]
    placing = Placing(specs, cast(Plan, SimpleNamespace(members=placed)))
    assert placing.apart(1, [0]) is apart
