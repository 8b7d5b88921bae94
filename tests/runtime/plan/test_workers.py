"""Plans with workers of llama.cpp's RPC: the base's layers are there, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eftlocal.runtime.plan.loads import Member, layers_by_place
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import Plan, plan
from eftlocal.runtime.plan.wishes import Wishes
from tests.runtime.plan.machines import CPU_8, GB, GPU_24, LLAMA_70B, QWEN_7B, layers

ONE, TWO = "127.0.0.1:50052", "10.0.0.7:50052"
CACHE = Cache(4096)
FREE = Wishes()


def worker(name: str, free: float) -> Device:
    return Device(name, "a worker", "rpc", int(free * GB), int(free * GB))


def planned(members: list[Member], machine: Machine, *workers: Device, wishes: Wishes = FREE) -> Plan:
    base = replace(members[0], workers=tuple(device.name for device in workers))
    return plan([base, *members[1:]], replace(machine, devices=(*machine.devices, *workers)), CACHE, wishes)


def test_all_layers_of_the_base_are_on_its_workers_in_shares_of_their_memory_and_the_pair_is_not() -> None:
    made = planned(LLAMA_70B, GPU_24, worker(ONE, 48.5), worker(TWO, 24.5))
    assert made.fits
    base, *pair = made.members
    assert base.offload.devices == (ONE, TWO) and base.read == 0
    n_layers = base.offload.layers
    _, places = layers_by_place(n_layers, base.offload)
    assert len(places[ONE]) == pytest.approx(n_layers * 2 / 3, abs=2)
    assert [placed.offload.devices for placed in pair] == [("CUDA0",), ("CUDA0",)]


def test_the_pair_runs_where_it_runs_without_workers() -> None:
    alone = plan(QWEN_7B[1:], GPU_24, CACHE)
    made = planned(QWEN_7B, GPU_24, worker(ONE, 48))
    assert [placed.offload for placed in made.members[1:]] == [placed.offload for placed in alone.members]


def test_the_hosts_memory_holds_only_what_stays() -> None:
    here, there = plan(LLAMA_70B, CPU_8, CACHE), planned(LLAMA_70B, CPU_8, worker(ONE, 64))
    assert here.members[0].host.weights > 30 * GB
    assert there.members[0].host.weights < GB  # the input embeddings
    assert there.members[0].host.kv == 0
    assert there.members[0].devices[ONE].kv == here.members[0].host.kv


def test_fewer_layers_leave_the_rest_on_the_cpu_here() -> None:
    made = planned(QWEN_7B, GPU_24, worker(ONE, 64), wishes=Wishes(gpu_layers={"base": 10}))
    assert layers(made)[0] == 10 and made.members[0].offload.devices == (ONE,)
    assert made.members[0].read > 0
    assert planned(QWEN_7B, CPU_8, worker(ONE, 64), wishes=Wishes(gpu_layers=0)).members[0].offload.layers == 0


def test_what_does_not_fit_names_the_worker_and_how_many_layers_would() -> None:
    made = planned(LLAMA_70B, GPU_24, worker(ONE, 8))
    assert not made.fits
    error = made.error("big")
    assert f"on the worker {ONE}, where only" in error.message
    assert error.hint is not None and "--gpu-layers" in error.hint


def test_a_worker_whose_memory_is_not_known_is_not_refused() -> None:
    made = planned(LLAMA_70B, GPU_24, Device(ONE, "a worker", "rpc", 0, 0))
    assert made.fits and made.members[0].offload.devices == (ONE,)


def test_a_worker_is_never_used_for_members_that_do_not_name_it() -> None:
    made = plan(LLAMA_70B, replace(CPU_8, devices=(worker(ONE, 64),)), CACHE)
    assert all(not placed.offload.layers for placed in made.members)
