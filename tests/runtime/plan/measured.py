"""Reads from llama.cpp's log how many bytes it allocates."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import llama_cpp as lib

from eftlocal.runtime import gguf
from eftlocal.runtime.llama import library
from eftlocal.runtime.llama.context import KV_TYPES, Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.memory import MAX_ROWS, Cache, Need

MIB = 1 << 20


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collects llama.cpp's log of the block. The lines are there when the block has ended."""
    lines: list[str] = []
    with redirect_stderr(io.StringIO()) as log:
        library.set_verbose(True)
        try:
            yield lines
        finally:
            library.set_verbose(False)
            lines += log.getvalue().splitlines()


def _sum(lines: list[str], pattern: str) -> int:
    return int(sum(float(size) for line in lines for size in re.findall(pattern, line)) * MIB)


def _caches(lines: list[str]) -> int:
    return _sum(lines, r"llama_kv_cache: size = +([\d.]+) MiB") + _sum(lines, r"RS buffer size = +([\d.]+)")


def real(path: Path, cache: Cache) -> Need:
    """Loads a model and a context as the runtime does, and returns the bytes that llama.cpp allocated."""
    with logged() as lines:
        model = Model(gguf.check(path))
        try:
            Context(model, n_ctx=cache.n_ctx, n_seq=cache.n_seq, kv_type=cache.kv_type).close()
        finally:
            model.close()
    # Weights that are repacked for the CPU are also mapped from the file; they count once.
    weights = _sum(lines, r"CPU_Mapped model buffer size = +([\d.]+)") or _sum(lines, r"model buffer size = +([\d.]+)")
    return Need(
        weights,
        _caches(lines),
        _sum(lines, r"compute buffer size = +([\d.]+)"),
        _sum(lines, r"output buffer size = +([\d.]+)"),
    )


class Dry:
    """A model loaded without weights. Its contexts allocate nothing, but log what they would allocate."""

    def __init__(self, path: Path) -> None:
        params = lib.llama_model_default_params()
        params.no_alloc, params.load_mode = True, 0  # LLAMA_LOAD_MODE_NONE: maps nothing
        self._handle = lib.llama_model_load_from_file(str(path).encode(), params)
        assert self._handle, f"llama.cpp does not load {path}"

    def need(self, cache: Cache, batch: int) -> Need:
        """Returns the caches, buffers and logits that llama.cpp would allocate. Its log does not count weights here."""
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cache.n_ctx * cache.n_seq, cache.n_seq
        params.n_batch = params.n_ubatch = max(batch, cache.n_seq)
        params.n_outputs_max = max(MAX_ROWS, cache.n_seq)
        params.type_k = params.type_v = KV_TYPES[cache.kv_type]
        if not cache.flash:
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.swa_full, params.kv_unified = True, False
        with logged() as lines:
            context = lib.llama_init_from_model(self._handle, params)
            assert context
            lib.llama_free(context)
        return Need(
            kv=_caches(lines),
            compute=_sum(lines, r"compute buffer size = +([\d.]+)"),
            output=_sum(lines, r"output buffer size = +([\d.]+)"),
        )

    def close(self) -> None:
        lib.llama_model_free(self._handle)
