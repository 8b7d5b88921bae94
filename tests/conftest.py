"""What all tests share: tiny models, the real one, and a silent llama.cpp."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

import llama_cpp
import pytest

from tests import families
from tests.families import Family, Trio


def _drop(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp's log goes nowhere."""


_DROP = llama_cpp.llama_log_callback(_drop)  # llama.cpp keeps the pointer: it must outlive every call
llama_cpp.llama_log_set(_DROP, ctypes.c_void_p())


# What is measured of models is remembered apart from the user's own; set here, since subprocesses inherit it.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="eftlocal-cache-")


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Tiny models of one vocabulary, and those that are odd in one way each."""
    return families.write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct."""
    return families.smollm2()


@pytest.fixture(scope="session")
def smollm2_trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """SmolLM2 as base (Q8_0), tuned (Q4_1, as it came) and reference (Q4_0)."""
    folder, tuned = tmp_path_factory.mktemp("smollm2"), families.smollm2()
    return Trio(
        base=families.quantized(tuned, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, folder / "base-Q8_0.gguf"),
        tuned=tuned,
        reference=families.quantized(tuned, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, folder / "reference-Q4_0.gguf"),
    )
