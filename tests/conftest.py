"""What all tests share: tiny models, a real model, and llama.cpp without its log."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from tests import families
from tests.families import Family, Trio


def _drop(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drops a line of llama.cpp's log."""


_DROP = llama_cpp.llama_log_callback(_drop)  # llama.cpp keeps the pointer, so the callback must stay alive
llama_cpp.llama_log_set(_DROP, ctypes.c_void_p())


# Measured speeds go to a cache folder of the tests' own, not the user's. Subprocesses inherit the variable.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="eftlocal-cache-")


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Tiny models that share one vocabulary, and models that each differ from them in one way."""
    return families.write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct."""
    return families.smollm2()


@pytest.fixture(scope="session")
def smollm2_trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """SmolLM2-135M-Instruct as base (Q8_0), tuned (Q4_1, the file as it is) and reference (Q4_0)."""
    folder, tuned = tmp_path_factory.mktemp("smollm2"), families.smollm2()
    return Trio(
        base=families.quantized(tuned, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, folder / "base-Q8_0.gguf"),
        tuned=tuned,
        reference=families.quantized(tuned, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, folder / "reference-Q4_0.gguf"),
    )


@pytest.fixture(autouse=True)
def ctrl_c_stays_pytests() -> Iterator[None]:
    """The program takes Ctrl-C for itself when its `main` runs in this process."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)
