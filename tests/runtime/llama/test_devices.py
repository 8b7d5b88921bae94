"""Tests of llama.cpp's devices: how they are listed, and how a model is put on them. No device is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import llama_cpp as lib
import pytest

from eftlocal.errors import ModelLoadError
from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama import devices
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.machine import Device
from eftlocal.runtime.plan.memory import CPU_BATCH
from tests.families import Family

GB = 1 << 30
LISTED = [  # kind in ggml-backend.h, backend, name, description, free, total
    (0, b"CPU", b"CPU", b"AMD EPYC", GB, 2 * GB),
    (1, b"CUDA", b"CUDA0", b"NVIDIA GeForce RTX 4090", 22 * GB, 24 * GB),
    (1, b"CUDA", b"CUDA1", b"NVIDIA GeForce RTX 4090", 23 * GB, 24 * GB),
    (1, b"Vulkan", b"Vulkan0", b"NVIDIA GeForce RTX 4090", 22 * GB, 24 * GB),
    (2, b"Vulkan", b"Vulkan1", b"Intel UHD Graphics 770", 8 * GB, 16 * GB),
    (1, b"MTL", b"MTL0", b"Apple M2", 5 * GB, 5 * GB),
    (3, b"BLAS", b"BLAS", b"OpenBLAS", 0, 0),
]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replaces ggml by one with each kind of device. A handle is the index in LISTED plus 1."""

    def memory(handle: int, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = LISTED[handle - 1][4:]  # _obj: what ctypes.byref was given

    functions: dict[str, Callable[..., Any]] = {
        "ggml_backend_dev_count": lambda: len(LISTED),
        "ggml_backend_dev_get": lambda i: i + 1,
        "ggml_backend_dev_type": lambda handle: LISTED[handle - 1][0],
        "ggml_backend_dev_backend_reg": lambda handle: handle,
        "ggml_backend_reg_name": lambda handle: LISTED[handle - 1][1],
        "ggml_backend_dev_name": lambda handle: LISTED[handle - 1][2],
        "ggml_backend_dev_description": lambda handle: LISTED[handle - 1][3],
        "ggml_backend_dev_memory": memory,
    }
    # private: the one place where ggml's functions come from, and a loaded library has no seam of its own
    monkeypatch.setattr(devices, "ggml_function", lambda name, *types: functions[name])
    yield


@pytest.mark.usefixtures("library")
def test_devices_are_those_beside_the_cpu_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert devices.found() == (
        Device("CUDA0", "NVIDIA GeForce RTX 4090", "gpu", 22 * GB, 24 * GB),
        Device("CUDA1", "NVIDIA GeForce RTX 4090", "gpu", 23 * GB, 24 * GB),
        Device("Vulkan1", "Intel UHD Graphics 770", "igpu", 8 * GB, 16 * GB, shares_memory=True),
        Device("MTL0", "Apple M2", "gpu", 5 * GB, 5 * GB, shares_memory=True),
        Device("BLAS", "OpenBLAS", "accel", 0, 0),
    )
    monkeypatch.setattr("platform.machine", lambda: "x86_64")  # the GPU of an Intel Mac has its own memory
    assert [device.name for device in devices.found() if device.shares_memory] == ["Vulkan1"]


def test_a_library_that_does_not_tell_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *types: Any) -> Any:
        raise AttributeError(name)

    monkeypatch.setattr(devices, "ggml_function", missing)
    assert devices.found() == ()


def test_the_library_that_is_loaded_answers() -> None:
    # private: whether the functions are found in the library that is loaded is what is tested here
    count = devices.ggml_function("ggml_backend_dev_count", ctypes.c_size_t)
    get = devices.ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = devices.ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    kinds = [kind(get(i)) for i in range(count())]
    assert 0 in kinds  # the CPU
    assert len(devices.found()) <= sum(one != 0 for one in kinds)
    with pytest.raises(AttributeError):
        devices.ggml_function("ggml_there_is_no_such_function", ctypes.c_int)


# --- where a model is put ---------------------------------------------------------------------------------------------


def handles(params: Any) -> list[int | None]:
    """Returns the devices that llama.cpp would read from its parameters, up to the NULL at the end."""
    listed = ctypes.cast(params.devices, ctypes.POINTER(ctypes.c_void_p))
    found: list[int | None] = []
    while (handle := listed[len(found)]) is not None:
        found.append(handle)
    return found


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("offload", "chosen", "layers", "split", "ratios"),
    [
        pytest.param(Offload(), [], 0, lib.LLAMA_SPLIT_MODE_LAYER, None, id="the CPU alone, whatever there is"),
        pytest.param(Offload(0, ("CUDA0",)), [], 0, lib.LLAMA_SPLIT_MODE_LAYER, None, id="no layers"),
        pytest.param(Offload(33, ("CUDA1",)), [3], 33, lib.LLAMA_SPLIT_MODE_NONE, None, id="one device"),
        pytest.param(
            Offload(20, ("CUDA1", "CUDA0"), (3.0, 1.0)), [3, 2], 20, lib.LLAMA_SPLIT_MODE_LAYER, [0.75, 0.25], id="two"
        ),
        pytest.param(
            Offload(9, ("CUDA0", "CUDA1"), rows=True), [2, 3], 9, lib.LLAMA_SPLIT_MODE_ROW, [0.5, 0.5], id="by rows"
        ),
    ],
)
def test_an_offload_becomes_llama_cpps_parameters(
    offload: Offload, chosen: list[int], layers: int, split: int, ratios: list[float] | None
) -> None:
    params = lib.llama_model_default_params()
    kept = devices.set_offload(params, offload)
    assert kept and handles(params) == chosen
    assert (params.n_gpu_layers, params.split_mode, params.main_gpu) == (layers, split, 0)
    assert (params.tensor_split[: len(ratios)] if ratios else None) == ratios


@pytest.mark.usefixtures("library")
def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModelLoadError, match="no device named CUDA7"):
        devices.set_offload(lib.llama_model_default_params(), Offload(1, ("CUDA7",)))


def test_a_model_on_the_cpu_alone_decodes(family: Family) -> None:
    model = Model(gguf.check(family.base), Offload())
    context = Context(model, n_ctx=64)
    assert not model.on_device and context.n_batch == CPU_BATCH
    assert context.feed([Feed(0, [1, 2, 3], 1)]).shape == (1, model.n_vocab)
    context.close()
    model.close()
