"""Tests of plans for described machines: a laptop, a container, one GPU, two, none."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eftlocal.errors import FitError
from eftlocal.runtime.plan.loads import Member, Offload, layers_by_place
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.memory import Cache, Need
from eftlocal.runtime.plan.placement import Plan, plan
from eftlocal.runtime.plan.wishes import Wishes
from tests.runtime.plan import shapes
from tests.runtime.plan.machines import (
    AIR_8,
    CONTAINER_4,
    CPU_8,
    GB,
    GPU_24,
    IGPU_16,
    LAPTOP_6,
    LLAMA_7B,
    LLAMA_70B,
    MACBOOK_16,
    QWEN_7B,
    SMOLLM2,
    TWO_GPUS_12,
    layers,
    trio,
    where,
)
from tests.runtime.plan.shapes import Model


@pytest.mark.parametrize(
    ("members", "machine", "expected"),
    [
        pytest.param(SMOLLM2, AIR_8, ["MTL0"] * 3, id="SmolLM2 on an 8 GB MacBook Air"),
        pytest.param(QWEN_7B, MACBOOK_16, ["MTL0"] * 3, id="Qwen2.5 7B on a 16 GB MacBook"),
        pytest.param(QWEN_7B, GPU_24, ["CUDA0"] * 3, id="Qwen2.5 7B on 24 GB"),
        pytest.param(LLAMA_70B, GPU_24, ["CUDA0+CPU", "CUDA0", "CUDA0"], id="Llama 2 70B on 24 GB: the base in part"),
        pytest.param(LLAMA_7B, TWO_GPUS_12, ["CUDA0", "CUDA1", "CUDA0+CUDA1"], id="three 7B on two cards of 12 GB"),
        pytest.param(QWEN_7B, TWO_GPUS_12, ["CUDA0"] * 3, id="Qwen2.5 7B on two cards: all on one of them"),
        pytest.param(QWEN_7B, LAPTOP_6, ["CUDA0", "CUDA0+CPU", "CPU"], id="Qwen2.5 7B on a laptop's 6 GB"),
        pytest.param(SMOLLM2, LAPTOP_6, ["CUDA0"] * 3, id="SmolLM2 on a laptop's 6 GB"),
        pytest.param(SMOLLM2, CPU_8, ["CPU"] * 3, id="SmolLM2 without a device"),
        pytest.param(SMOLLM2, CONTAINER_4, ["CPU"] * 3, id="SmolLM2 in a container of 4 GB"),
        pytest.param(SMOLLM2, IGPU_16, ["Vulkan0"] * 3, id="SmolLM2 on an integrated GPU"),
    ],
)
def test_what_fits_runs_where_it_should(members: list[Member], machine: Machine, expected: list[str]) -> None:
    made = plan(members, machine, Cache(4096))
    assert made.fits and not made.advice
    assert where(made) == expected
    within(made, machine)


def test_a_base_too_large_for_one_card_is_split_over_two_and_the_pair_stays_whole() -> None:
    base = replace(shapes.LLAMA2_70B, name="Llama-34B", n_layers=30)  # 15 GB
    made = plan(trio(base, shapes.QWEN25_1_5B), TWO_GPUS_12, Cache(4096))
    assert made.fits
    assert where(made)[0] == "CUDA0+CUDA1" and set(where(made)[1:]) <= {"CUDA0", "CUDA1"}
    within(made, TWO_GPUS_12)
    assert made.devices["CUDA0"].total == pytest.approx(made.devices["CUDA1"].total, rel=0.3)


@pytest.mark.parametrize(
    ("members", "machine", "cache", "said"),
    [
        pytest.param(QWEN_7B, AIR_8, Cache(4096), ["7.1 GiB of memory", ", but only 4.3 GiB can be used"], id="an Air"),
        pytest.param(QWEN_7B, CPU_8, Cache(4096), ["models 6.2 GiB", "smaller quantization"], id="8 GB"),
        pytest.param(QWEN_7B, CONTAINER_4, Cache(4096), ["under this container's limit of 4.0 GiB"], id="a container"),
        pytest.param(
            SMOLLM2, AIR_8, Cache(8192, 1, "f32"), ["--ctx 5120 fits", "--kv-type f16 fits"], id="a cache too large"
        ),
        pytest.param(
            SMOLLM2, CONTAINER_4, Cache(8192, 2), ["--kv-type q8_0 fits"], id="a cache that fits when it is quantized"
        ),
        pytest.param(LLAMA_70B, LAPTOP_6, Cache(4096), ["smaller quantization needs less"], id="70B on a laptop"),
    ],
)
def test_what_does_not_fit_is_said_with_the_ways_out(
    members: list[Member], machine: Machine, cache: Cache, said: list[str]
) -> None:
    made = plan(members, machine, cache)
    error = made.error("it")
    assert not made.fits and isinstance(error, FitError)
    assert error.hint is not None and error.hint.endswith("--force loads it anyway.")
    assert "\n" not in error.message and "\n" not in error.hint
    for text in said:
        assert text in str(error)


def test_what_is_advised_does_fit() -> None:
    for members, machine, cache in product(
        (SMOLLM2, QWEN_7B), (AIR_8, CPU_8, CONTAINER_4), (Cache(8192, 1, "f32"), Cache(8192, 4), Cache(30_000))
    ):
        made = plan(members, machine, cache)
        for text in made.advice:
            words = text.split()
            if words[-1] != "fits":
                continue
            options = dict(zip(words[:-1:2], words[1:-1:2], strict=True))
            changed = replace(
                cache,
                n_ctx=int(options.get("--ctx", cache.n_ctx)),
                kv_type=options.get("--kv-type", cache.kv_type),
            )
            assert plan(members, machine, changed).fits, text
            if "--ctx" in options:
                assert not plan(members, machine, replace(changed, n_ctx=changed.n_ctx + 256)).fits, text


def test_a_system_that_does_not_say_refuses_nothing() -> None:
    for members in (QWEN_7B, LLAMA_70B):
        made = plan(members, Machine(4, 0, 0), Cache(4096))
        assert made.fits and made.sequences_that_fit(8) == 8
        silent = Machine(4, 0, 0, (Device("Vulkan0", "a card", "gpu", 0, 0),))
        assert where(plan(members, silent, Cache(4096))) == ["Vulkan0"] * 3


def test_a_tiny_model_is_never_refused() -> None:
    tiny = [Member(header=replace(shapes.SMOLLM2_135M, n_layers=2, n_vocab=500).header(), names=("base",))]
    assert plan(tiny, Machine(4, 8 * GB, 0), Cache(512)).fits


# --- the arithmetic of a plan -----------------------------------------------------------------------------------------


def test_a_file_that_two_roles_share_counts_once_and_each_has_its_cache() -> None:
    base, small = shapes.SMOLLM2_1_7B.header(), shapes.SMOLLM2_135M.header()
    apart = plan([Member(header=h) for h in (base, small)], CPU_8, Cache(4096))
    shared = plan([Member(header=h) for h in (base, small, small)], CPU_8, Cache(4096))
    assert shared.host.weights == apart.host.weights
    assert shared.host.tokenizer == apart.host.tokenizer
    assert shared.host.kv == apart.host.kv + apart.members[1].host.kv
    assert shared.members[2].read == apart.members[1].read


def test_the_host_and_the_devices_hold_together_what_the_cpu_alone_would() -> None:
    whole = plan(QWEN_7B, CPU_8, Cache(4096)).members[0]
    for n in (1, 10, 28, 29):
        part = plan(QWEN_7B, GPU_24, Cache(4096), Wishes(gpu_layers={"base": n})).members[0]
        there = part.devices["CUDA0"]
        assert part.host.weights + there.weights == whole.host.weights
        assert part.host.kv + there.kv == whole.host.kv
        assert (part.read == 0) == (n == 29)


def test_a_tied_embedding_is_copied_to_a_card_and_mapped_again_by_metal() -> None:
    small = [Member(header=shapes.QWEN25_1_5B.header())]
    card, apple = (plan(small, machine, Cache(4096)).members[0] for machine in (GPU_24, MACBOOK_16))
    on_card, on_apple = card.devices["CUDA0"].weights, apple.devices["MTL0"].weights
    embedding = next(t.n_bytes for t in small[0].header.tensors if t.name == "token_embd.weight")
    assert on_card - on_apple == embedding


@pytest.mark.parametrize(("n_layers", "count"), [(29, 29), (29, 7), (81, 81), (3, 9), (2, 1), (1, 0)])
@pytest.mark.parametrize("ratios", [(), (1.0,), (3.0, 1.0), (1.0, 0.0), (0.2, 0.3, 0.5)])
def test_every_layer_is_in_one_place_the_last_on_devices(n_layers: int, count: int, ratios: tuple[float, ...]) -> None:
    names = tuple(f"GPU{i}" for i in range(len(ratios)))
    host, on_devices = layers_by_place(n_layers, Offload(count, names, ratios))
    assert host + [il for layers in on_devices.values() for il in layers] == list(range(n_layers))
    assert len(host) == (max(n_layers - count, 0) if names else n_layers)
    if len(names) > 1 and count >= n_layers > 20:
        for name, ratio in zip(names, ratios, strict=True):
            assert len(on_devices.get(name, [])) == pytest.approx(n_layers * ratio / sum(ratios), abs=1.1)


def test_sequences_that_fit_do_fit_and_one_more_does_not() -> None:
    for members, machine in ((SMOLLM2, AIR_8), (QWEN_7B, MACBOOK_16), (QWEN_7B, GPU_24), (SMOLLM2, CONTAINER_4)):
        made = plan(members, machine, Cache(4096))
        n = made.sequences_that_fit(64)
        offloads = {placed.member.names[0]: placed.offload.layers for placed in made.members}
        assert 1 < n < 64
        for more, fits in ((0, True), (1, False)):
            again = plan(members, machine, Cache(4096, n + more), Wishes(gpu_layers=offloads))
            assert again.fits == fits
    assert plan(LLAMA_70B, CPU_8, Cache(4096)).sequences_that_fit(8) == 1
    assert plan(SMOLLM2, GPU_24, Cache(4096)).sequences_that_fit(4) == 4


def test_a_plan_can_be_moved_to_fewer_layers() -> None:
    made = plan(QWEN_7B, GPU_24, Cache(4096))
    path = QWEN_7B[0].header.path
    offload, seen = made.members[0].offload, []
    while offload.layers:
        offload = offload.halved()
        made = made.moved(path, offload)
        seen.append(made.members[0].offload.layers)
        assert layers(made)[1:] == [29, 29]
    assert seen == [14, 7, 3, 1, 0] and where(made) == ["CPU", "CUDA0", "CUDA0"]


def test_no_plan_takes_long() -> None:
    for members, machine in product((QWEN_7B, LLAMA_70B), (AIR_8, GPU_24, TWO_GPUS_12, CPU_8)):
        started = time.perf_counter()
        plan(members, machine, Cache(4096))
        assert time.perf_counter() - started < 0.5  # it takes 0.03 s on an idle machine


sizes = st.floats(0.5, 40)


@given(
    st.lists(st.sampled_from([shapes.SMOLLM2_135M, shapes.SMOLLM2_1_7B, shapes.QWEN25_1_5B]), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(["gpu", "igpu"]), sizes), max_size=3),
    sizes,
    st.integers(1, 32_000),
    st.sampled_from(["f32", "f16", "q8_0"]),
    st.sampled_from([None, "none", "layer", "row"]),
)
def test_no_place_is_promised_twice(
    models: list[Model], cards: list[tuple[str, float]], free: float, n_ctx: int, kv_type: str, split: str | None
) -> None:
    devices = tuple(
        Device(
            f"D{i}", f"card {i}", "igpu" if kind == "igpu" else "gpu", int(size * GB), int(size * GB), kind == "igpu"
        )
        for i, (kind, size) in enumerate(cards)
    )
    machine = Machine(4, 64 * GB, int(free * GB), devices)
    members = [Member(header=replace(m, name=f"{m.name}-{i}").header()) for i, m in enumerate(models)]
    made = plan(members, machine, Cache(n_ctx, 1, kv_type), Wishes(split=split))
    if made.fits:
        within(made, machine)
    else:
        assert made.advice[-1] == "a smaller quantization needs less" and made.error("it").hint
    for placed in made.members:
        assert set(placed.devices) <= {device.name for device in devices}


def within(made: Plan, machine: Machine) -> None:
    """Checks that each place holds what is put there. Memory that a device shares is the host's."""
    rooms = {device.name: device.free for device in machine.devices}
    shared = {device.name for device in machine.devices if device.shares_memory}
    for name, need in made.devices.items():
        assert need.total <= rooms[name]
    host = made.host.total + total(need for name, need in made.devices.items() if name in shared)
    assert host <= max(machine.free, GB // 4)


def total(needs: Iterable[Need]) -> int:
    return sum(need.total for need in needs)
