"""Whether this build of llama.cpp has RPC, and how to get one that has."""

import platform

from eftlocal.errors import WorkerError

__all__ = ["command", "must_support"]


def command() -> str:
    """The command that builds llama-cpp-python with RPC, of the version that is installed."""
    from eftlocal.runtime.llama import library

    pip = "pip install --no-binary llama-cpp-python --force-reinstall --no-deps --no-cache-dir"
    build = f"{pip} llama-cpp-python=={library.version()}"
    flag = "-DGGML_RPC=on"
    return f'$env:CMAKE_ARGS = "{flag}"; {build}' if platform.system() == "Windows" else f'CMAKE_ARGS="{flag}" {build}'


def must_support() -> None:
    """Raises WorkerError when this build of llama.cpp has no RPC; the hint is the command that builds it."""
    from eftlocal.runtime.llama import rpc

    if not rpc.is_supported():
        raise WorkerError("This llama-cpp-python is built without RPC, which a base on workers needs.", command())
