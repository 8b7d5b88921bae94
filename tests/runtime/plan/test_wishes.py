"""Tests of what users ask for: devices, numbers of layers, and how models are split."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eftlocal.errors import SettingError
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import plan
from eftlocal.runtime.plan.wishes import Wishes
from tests.runtime.plan.machines import CPU_8, GPU_24, LLAMA_70B, QWEN_7B, TWO_GPUS_12, layers, where


@pytest.mark.parametrize(
    ("wishes", "machine", "expected"),
    [
        pytest.param(Wishes(device="none"), GPU_24, ["CPU"] * 3, id="--device none"),
        pytest.param(Wishes(gpu_layers=0), GPU_24, ["CPU"] * 3, id="--gpu-layers 0"),
        pytest.param(Wishes(gpu_layers=-1), GPU_24, ["CUDA0"] * 3, id="--gpu-layers -1"),
        pytest.param(Wishes(gpu_layers=999), GPU_24, ["CUDA0"] * 3, id="more than there are"),
        pytest.param(Wishes(gpu_layers={"base": 0}), GPU_24, ["CPU", "CUDA0", "CUDA0"], id="base=0"),
        pytest.param(
            Wishes(gpu_layers={"base": 10, "reference": 0}), GPU_24, ["CUDA0+CPU", "CUDA0", "CPU"], id="base=10 ..."
        ),
        pytest.param(Wishes(gpu_layers={"Qwen2.5-7B": 0}), GPU_24, ["CPU", "CUDA0", "CUDA0"], id="a model's name"),
        pytest.param(Wishes(device="cuda1"), TWO_GPUS_12, ["CUDA1"] * 3, id="--device CUDA1"),
        pytest.param(Wishes(main_gpu=1), TWO_GPUS_12, ["CUDA1"] * 3, id="--main-gpu 1"),
        pytest.param(Wishes(main_gpu=1, split="none"), TWO_GPUS_12, ["CUDA1"] * 3, id="--main-gpu 1 --split none"),
        pytest.param(Wishes(split="layer"), TWO_GPUS_12, ["CUDA0+CUDA1"] * 3, id="--split layer"),
        pytest.param(Wishes(split="row"), TWO_GPUS_12, ["CUDA0+CUDA1"] * 3, id="--split row"),
        pytest.param(Wishes(split="3,1"), TWO_GPUS_12, ["CUDA0+CUDA1"] * 3, id="--split 3,1"),
        pytest.param(Wishes(device="none", main_gpu=3), GPU_24, ["CPU"] * 3, id="no device, so no main one"),
    ],
)
def test_wishes_are_kept(wishes: Wishes, machine: Machine, expected: list[str]) -> None:
    made = plan(QWEN_7B, machine, Cache(4096), wishes)
    assert made.fits and where(made) == expected
    assert all(placed.offload.rows == (wishes.split == "row") for placed in made.members)
    if wishes.split == "3,1":
        assert made.devices["CUDA0"].weights > 2 * made.devices["CUDA1"].weights


def test_a_models_own_setting_counts_unless_another_is_given() -> None:
    own = [replace(QWEN_7B[0], gpu_layers=5), *QWEN_7B[1:]]
    assert layers(plan(own, GPU_24, Cache(4096))) == [5, 29, 29]
    assert layers(plan(own, GPU_24, Cache(4096), Wishes(gpu_layers=7))) == [7, 7, 7]
    assert layers(plan(own, GPU_24, Cache(4096), Wishes(gpu_layers={"tuned": 3}))) == [5, 3, 29]


def test_layers_that_were_asked_for_and_do_not_fit_are_said_and_not_changed() -> None:
    made = plan(LLAMA_70B, GPU_24, Cache(4096), Wishes(gpu_layers=60))
    assert not made.fits and layers(made)[0] == 60
    assert [short.device for short in made.shortfalls] == ["CUDA0"]
    error = made.error("it")
    assert "on CUDA0, where only 22." in error.message
    n = int(made.advice[0].split()[1])
    assert made.advice[0] == f"--gpu-layers {n} fits"
    assert plan(LLAMA_70B, GPU_24, Cache(4096), Wishes(gpu_layers=n)).fits
    assert not plan(LLAMA_70B, GPU_24, Cache(4096), Wishes(gpu_layers=n + 1)).fits


@pytest.mark.parametrize(
    ("wishes", "machine", "said"),
    [
        (Wishes(device="CUDA7"), GPU_24, "There is no device named 'CUDA7'.\nDevices: none, CUDA0."),
        (Wishes(device="CUDA0"), CPU_8, "This build of llama.cpp sees no device"),
        (Wishes(gpu_layers={"bose": 3}), GPU_24, "no role or model named 'bose'.\nNames: base, Qwen2.5-7B, tuned"),
        (Wishes(main_gpu=2), TWO_GPUS_12, "main_gpu is 2; it must be between 0 and 1."),
        (Wishes(split="1,2,3"), TWO_GPUS_12, "a proportion for each of the 2 devices"),
        (Wishes(split="diagonal"), TWO_GPUS_12, "it must be none, layer, row or a proportion"),
        (Wishes(split="0,0"), TWO_GPUS_12, "it must be none, layer, row or a proportion"),
        (Wishes(split="nan,1"), TWO_GPUS_12, "it must be none, layer, row or a proportion"),
    ],
)
def test_a_wish_for_what_is_not_there_is_a_mistake(wishes: Wishes, machine: Machine, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        plan(QWEN_7B, machine, Cache(4096), wishes)
    assert said in str(caught.value)
