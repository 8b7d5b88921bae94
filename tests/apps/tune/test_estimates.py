"""Tests of what a training takes: on a GPU it is the GPU's memory that counts, and the machine's beside it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import device

from eftlocal.apps.tune import estimates
from eftlocal.apps.tune.estimates import duration, way_that_fits
from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.plan import Plan
from eftlocal.errors import FitError
from eftlocal.runtime import gguf
from eftlocal.runtime.plan.machine import Machine
from eftlocal.training import devices, weights
from eftlocal.training.examples import Example
from eftlocal.training.memory import Way, estimate
from eftlocal.training.network import Network
from eftlocal.training.shape import shape_of
from eftlocal.training.trainer import Recipe
from eftlocal.training.tunable import adapted
from tests.families import Family

ROWS = [Example(np.zeros(300, np.int32), np.zeros(300, np.int32))]
OPTIONS = Options(data=(), output=Path("voice.gguf"), reference="small", length=512)

Has = Callable[[float, float], None]


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Has:
    """Sets what is free: of the machine's memory, and of the GPU's, in GB."""

    def set_free(host: float, gpu: float) -> None:
        machine = Machine(cores=1, memory=1 << 40, free=int(host * 1e9), devices=())
        monkeypatch.setattr(estimates, "here", lambda: machine)
        monkeypatch.setattr(devices, "free", lambda at: int(gpu * 1e9) if at.type == "cuda" else None)
        monkeypatch.setattr(devices, "described", lambda at: f"{at.type} (A card)")

    return set_free


def way(family: Family, kind: str, plan: Plan | None = None) -> tuple[Way, str]:
    header = gguf.check(family.reference)
    return way_that_fits(OPTIONS, header, ROWS, device(kind), fixed=False, plan=plan)


def test_a_gpus_memory_decides_how_steps_are_computed(family: Family, has: Has) -> None:
    has(1, 80)
    found, line = way(family, "cuda")
    assert found == Way(8192, False)
    assert line.endswith("of the memory of cuda (A card); 80.0 GB are free")
    header = gguf.check(family.reference)
    less = estimate(shape_of(header), header, Way(1024, False), rank=16, share=1.0, gpu=True).total
    has(1, less / 1e9)
    assert way(family, "cuda")[0] == Way(1024, False)
    assert way(family, "cpu")[0] == Way(1024, False) and way(family, "cpu")[1].endswith("of memory; 1.00 GB are free")


def test_a_run_that_goes_on_computes_as_it_began(family: Family, has: Has) -> None:
    has(1, 80)
    assert way(family, "cuda", Plan(512, True, True, 1e-3))[0] == Way(512, True, True)


def test_a_gpu_or_a_machine_without_room_is_told(family: Family, has: Has) -> None:
    has(8, 0.01)
    with pytest.raises(FitError, match=r"of the memory of cuda \(A card\); 10.0 MB are free.\n.*, or --device cpu\."):
        way(family, "cuda")
    has(0.01, 80)
    with pytest.raises(FitError, match=r"of memory beside the GPU's; 10.0 MB are free"):
        way(family, "cuda")


def test_a_duration_counts_the_trials_steps_and_each_look_at_what_is_kept_back(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock by which a step takes 4 s and a look at as many tokens 2 s."""
    clock = iter([0.0, 4.0, 6.0] * 3)
    monkeypatch.setattr(estimates, "monotonic", lambda: next(clock))
    header = gguf.check(family.reference)
    network = Network.of(shape_of(header), weights.read(header))
    tunable = adapted(network.shape, network.weights, rank=2, alpha=4.0, seed=0)
    row = Example(np.array([40, 41, 42, 43], np.int32), np.array([41, 42, 43, 44], np.int32))

    def took(kept: int, *, tried: bool) -> str:
        recipe = Recipe(epochs=1, batch=2)
        return duration([row] * 4, [row] * kept, tunable, recipe, 4, tried=tried).partition(":")[0]

    assert took(0, tried=False) == "about 8 s"  # two steps
    assert took(2, tried=False) == "about 14 s"  # and a look before them, and after each
    assert took(2, tried=True) == "about 54 s"  # and four short runs of two steps, with a look after each
