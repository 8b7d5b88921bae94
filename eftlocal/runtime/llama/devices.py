"""The devices other than the CPU that llama.cpp can put layers on, and the parameters that put layers there."""

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import llama_cpp as lib

from eftlocal.errors import ModelLoadError
from eftlocal.runtime.llama import library
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.machine import Device

KINDS: Mapping[int, Literal["gpu", "igpu", "accel"]] = {1: "gpu", 2: "igpu", 3: "accel"}  # ggml-backend.h


def found() -> tuple[Device, ...]:
    """Returns the devices other than the CPU; () when llama.cpp's library cannot list them."""
    return tuple(device for device, _ in _with_handles())


def _with_handles() -> list[tuple[Device, int]]:
    """Returns the devices with their handles (ggml_backend_dev_t)."""
    library.start()
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    try:
        count, get = ggml_function("ggml_backend_dev_count", size), ggml_function("ggml_backend_dev_get", pointer, size)
        name, describe = (ggml_function(f"ggml_backend_dev_{what}", text, pointer) for what in ("name", "description"))
        kind = ggml_function("ggml_backend_dev_type", ctypes.c_int, pointer)
        backend = ggml_function("ggml_backend_dev_backend_reg", pointer, pointer)
        backend_name = ggml_function("ggml_backend_reg_name", text, pointer)
        memory = ggml_function("ggml_backend_dev_memory", None, pointer, ctypes.POINTER(size), ctypes.POINTER(size))
    except AttributeError:
        return []
    listed: list[tuple[Device, int]] = []
    owners: dict[str, str] = {}
    for i in range(count()):
        handle = get(i)
        if (which := KINDS.get(kind(handle))) is None:  # the CPU
            continue
        free, total = size(), size()
        memory(handle, ctypes.byref(free), ctypes.byref(total))
        owner, description = _text(backend_name(backend(handle))), _text(describe(handle))
        if owners.setdefault(description, owner) != owner:  # the same GPU, listed by a second backend
            continue
        shared = which == "igpu" or (owner in ("MTL", "Metal") and platform.machine() == "arm64")
        listed.append((Device(_text(name(handle)), description, which, free.value, total.value, shared), handle))
    return listed


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace").strip()


def ggml_function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Returns a function of ggml that the Python bindings do not declare. Raises AttributeError if it is missing.

    The function must come from the library that is already loaded, because a second copy would have its own list of
    devices. On Windows, a library does not give access to the functions of the libraries that it was linked with, so
    those are found by their names.
    """
    libraries = [lib.llama_cpp._lib]
    if sys.platform == "win32":
        folder = lib.llama_cpp._base_path
        paths = (folder / f"{prefix}ggml{part}.dll" for prefix in ("", "lib") for part in ("", "-base"))
        libraries += [ctypes.CDLL(str(path)) for path in paths if path.exists()]
    for loaded in libraries:
        try:
            function = loaded[name]
        except AttributeError:
            continue
        function.restype, function.argtypes = result, arguments
        return function  # type: ignore[no-any-return]  # a ctypes function pointer
    raise AttributeError(name)


def set_offload(params: lib.llama_model_params, offload: Offload) -> list[Any]:
    """Sets the parameters that place a model's layers. Returns the arrays that they point to, which must stay alive.

    Raises ModelLoadError for a device that does not exist.
    """
    handles = {device.name: handle for device, handle in _with_handles()}
    if missing := [name for name in offload.devices if name not in handles]:
        raise ModelLoadError(f"There is no device named {missing[0]}.", f"Devices: {', '.join(handles) or 'none'}.")
    names = offload.devices if offload.layers > 0 else ()
    chosen = (ctypes.c_void_p * (len(names) + 1))(*(handles[name] for name in names), None)  # ends with NULL
    params.devices = ctypes.addressof(chosen)  # type: ignore[assignment]  # the bindings name another type
    params.n_gpu_layers = offload.layers if names else 0
    params.main_gpu = 0
    if len(names) < 2:
        params.split_mode = lib.LLAMA_SPLIT_MODE_NONE if names else lib.LLAMA_SPLIT_MODE_LAYER
        return [chosen]
    params.split_mode = lib.LLAMA_SPLIT_MODE_ROW if offload.rows else lib.LLAMA_SPLIT_MODE_LAYER
    ratios = offload.ratios or (1.0,) * len(names)
    shares = (ctypes.c_float * max(lib.LLAMA_MAX_DEVICES, len(names)))(*(ratio / sum(ratios) for ratio in ratios))
    params.tensor_split = shares  # ctypes takes an array for a pointer to its first element
    return [chosen, shares]
