"""llama.cpp's library itself: its log, the features of this build, and its quantizer."""

import ctypes
import os
import sys
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import llama_cpp as lib

from eftlocal.errors import ModelFileError
from eftlocal.runtime.llama.interrupt import survives
from eftlocal.text import printable

QUANTIZED = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": lib.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": lib.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
}

recent: deque[str] = deque(maxlen=50)  # the last warnings and errors in the log; they explain a load that failed
_verbose = False


@lib.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes function type
@survives(None)
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace")
    if level >= 3:  # GGML_LOG_LEVEL_WARN; ERROR is 4, and CONT (5) continues a line
        recent.append(line.strip())
    if _verbose:
        sys.stderr.write("\n".join(map(printable, line.split("\n"))))


lib.llama_log_set(_log, ctypes.c_void_p(0))


def set_verbose(verbose: bool) -> None:
    """Chooses whether llama.cpp's log is written to stderr. It is silent by default."""
    global _verbose
    _verbose = verbose


def reason() -> str:
    """Returns the line of llama.cpp's log that says what went wrong since `recent` was cleared."""
    errors = [line for line in recent if "error" in line.lower() or "fail" in line.lower()]
    return (errors or list(recent) or ["no reason given"])[0]


@cache
def start() -> None:
    """Initializes the library. Further calls do nothing."""
    lib.llama_backend_init()


def can_offload() -> bool:
    """Whether this build of llama.cpp can run layers on a device (CUDA, Metal, Vulkan, ...)."""
    start()
    return bool(lib.llama_supports_gpu_offload())


def version() -> str:
    """The version of llama-cpp-python."""
    return str(lib.__version__)


def build_features() -> Mapping[str, str]:
    """Returns what this build of llama.cpp can use here: backends other than the CPU ("CUDA"), and features ("AVX2").

    The value is "1", or the feature's own value ("ARCHS" -> "890").
    """
    start()
    found = {}
    for part in lib.llama_print_system_info().decode("utf-8", "replace").split("|"):
        backend, named, rest = part.rpartition(" : ")  # "CUDA : ARCHS = 890 | CPU : SSE3 = 1 | AVX = 1 | "
        name, equals, value = (rest if named else part).partition("=")
        if named and backend.strip() != "CPU":
            found[backend.strip()] = "1"
        if equals and value.strip() != "0":
            found[name.strip()] = value.strip()
    if lib.llama_supports_rpc():
        found["RPC"] = "1"
    return found


def quantize(source: Path, target: Path, kind: str) -> None:
    """Writes `source` to `target` with its weights quantized as `kind`, one of QUANTIZED. Raises ModelFileError."""
    start()
    params = lib.llama_model_quantize_default_params()
    params.ftype = QUANTIZED[kind]
    if lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params)) != 0:
        raise ModelFileError(f"{source}: llama.cpp could not quantize it to {kind}: {reason()}")
