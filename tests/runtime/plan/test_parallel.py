"""Tests of how many sequences are decoded together, on described machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eftlocal.runtime.plan.loads import Member
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.parallel import sequences_at_once
from eftlocal.runtime.plan.placement import Plan, plan
from eftlocal.runtime.plan.wishes import Wishes
from tests.runtime.plan import shapes
from tests.runtime.plan.machines import AIR_8, CONTAINER_4, CPU_8, GB, GPU_24, LLAMA_70B, SMOLLM2, trio

SMALL = trio(shapes.SMOLLM2_135M, shapes.SMOLLM2_135M)
ROOMY = Machine(16, 64 * GB, 50 * GB)


def planned(members: list[Member], machine: Machine, n_ctx: int = 1024, **wishes: int) -> Plan:
    return plan(members, machine, Cache(n_ctx), Wishes(**wishes))  # type: ignore[arg-type]  # numbers of layers


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, 16), (2, 16), (8, 16), (9, 32), (16, 32), (24, 48), (32, 64), (128, 64)]
)
def test_on_a_cpu_it_is_16_for_every_8_threads(threads: int, expected: int) -> None:
    assert sequences_at_once(planned(SMALL, ROOMY), threads) == expected


def test_where_devices_compute_everything_it_is_64_whatever_the_threads() -> None:
    made = planned(SMALL, GPU_24)
    assert [sequences_at_once(made, threads) for threads in (1, 16, 64)] == [64, 64, 64]


def test_one_layer_on_the_cpu_makes_it_the_cpus_number() -> None:
    made = planned(SMALL, GPU_24, gpu_layers=30)
    assert made.devices and sequences_at_once(made, 4) == 16
    assert sequences_at_once(planned(SMALL, GPU_24, gpu_layers=0), 4) == 16


@pytest.mark.parametrize("machine", [CPU_8, CONTAINER_4, AIR_8])
def test_memory_is_the_limit_in_whole_tiles_of_the_cpus_kernels(machine: Machine) -> None:
    seen = set()
    for n_ctx in range(512, 8192, 512):
        made = planned(SMOLLM2, machine, n_ctx)
        n, most = sequences_at_once(made, 16), made.sequences_that_fit(32)
        seen.add(n)
        if machine is AIR_8:  # everything runs on its GPU
            assert n == made.sequences_that_fit(64)
        else:
            assert n <= most and n in (1, 2, 3, 4, 8, 12, 16, 32) and (n > most - 4 or n == 16 <= most < 32)
    assert len(seen) > 3


def test_what_does_not_fit_is_decoded_one_at_a_time() -> None:
    made = plan(LLAMA_70B, CPU_8, Cache(4096))
    assert not made.fits and sequences_at_once(made, 64) == 1


def test_a_system_that_does_not_say_its_memory_limits_nothing() -> None:
    assert sequences_at_once(planned(SMOLLM2, replace(ROOMY, memory=0, free=0)), 16) == 32
