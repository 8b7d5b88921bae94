"""llama.cpp's RPC backend: makes workers' devices known in this process, and serves this machine's devices."""

import ctypes
from collections.abc import Iterator
from typing import Any

import llama_cpp as lib

from eftlocal.errors import ModelLoadError
from eftlocal.runtime.llama import devices, library

__all__ = ["add_worker", "is_supported", "local_devices", "serve"]

CPU, ACCELERATOR = 0, 3  # ggml-backend.h

_pointer, _text, _size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t


def is_supported() -> bool:
    """Whether this build of llama.cpp has the RPC backend (GGML_RPC)."""
    library.start()
    return bool(lib.llama_supports_rpc()) and bool(_backend())


def add_worker(endpoint: str) -> list[str]:
    """Makes the devices of a worker known in this process for good. Returns their names ("RPC0").

    llama.cpp ends the process if the worker is not there, or of another version. Raises ModelLoadError if it has none.
    """
    add = _procedure("ggml_backend_rpc_add_server", _pointer, _text)
    count = devices.ggml_function("ggml_backend_reg_dev_count", _size, _pointer)
    get = devices.ggml_function("ggml_backend_reg_dev_get", _pointer, _pointer, _size)
    name = devices.ggml_function("ggml_backend_dev_name", _text, _pointer)
    if not (registry := add(endpoint.encode())):
        raise ModelLoadError(f"The worker {endpoint} has no devices.")
    devices.ggml_function("ggml_backend_register", None, _pointer)(registry)
    return [name(get(registry, i)).decode() for i in range(count(registry))]


def local_devices() -> list[tuple[str, str, int]]:
    """What this machine offers: its GPUs, or else its CPU. Each as name, description and handle."""
    found = list(_devices())
    return [(name, about, handle) for name, about, kind, handle in found if kind not in (CPU, ACCELERATOR)] or [
        (name, about, handle) for name, about, kind, handle in found if kind == CPU
    ][:1]


def _devices() -> Iterator[tuple[str, str, int, int]]:
    library.start()
    get = devices.ggml_function("ggml_backend_dev_get", _pointer, _size)
    kind = devices.ggml_function("ggml_backend_dev_type", ctypes.c_int, _pointer)
    name, about = (
        devices.ggml_function(f"ggml_backend_dev_{what}", _text, _pointer) for what in ("name", "description")
    )
    for i in range(devices.ggml_function("ggml_backend_dev_count", _size)()):
        handle = get(i)
        yield name(handle).decode("utf-8", "replace"), about(handle).decode("utf-8", "replace"), kind(handle), handle


def serve(endpoint: str, *, threads: int, cache: str | None) -> None:
    """Serves this machine's devices at an IPv4 address and port. It returns only if that fails."""
    start = _procedure("ggml_backend_rpc_start_server", None, _text, _text, _size, _size, ctypes.POINTER(_pointer))
    handles = [handle for _, _, handle in local_devices()]
    start(
        endpoint.encode(),
        None if cache is None else cache.encode(),
        threads,
        len(handles),
        (_pointer * len(handles))(*handles),
    )


def _backend() -> int | None:
    found: int | None = devices.ggml_function("ggml_backend_reg_by_name", _pointer, _text)(b"RPC")
    return found


def _procedure(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the RPC backend. Only a build with it may be asked."""
    library.start()
    address = devices.ggml_function("ggml_backend_reg_get_proc_address", _pointer, _pointer, _text)(
        _backend(), name.encode()
    )
    return ctypes.CFUNCTYPE(result, *arguments)(address)
