"""Loads one model to see whether llama.cpp aborts. `runtime/trial.py` runs it in a process of its own.

The weights are not loaded, but the graphs of a decode are built, and there most assertions stand. A small model is also
loaded whole and decodes two tokens. A model that llama.cpp refuses properly is not told here.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Final

import llama_cpp as lib

from eftlocal.runtime.llama import library

SMALL: Final = 1 << 30  # bytes; a model up to this size is decoded, too


def main(path: str) -> None:
    """Loads the model and makes contexts, with and without flash attention. A large model stays without its weights.

    Ends when standard input does.
    """
    threading.Thread(target=_end_with_input, daemon=True).start()
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort is expected: it must not leave a core file
    library.start()
    _try(path, dry=True)
    if Path(path).stat().st_size <= SMALL:
        _try(path, dry=False)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def _try(path: str, *, dry: bool) -> None:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = False  # the weights stay mapped and are not copied
    if dry:
        params.no_alloc, params.load_mode = True, 0  # LLAMA_LOAD_MODE_NONE
    if not (model := lib.llama_model_load_from_file(os.fsencode(path), params)):
        return
    for flash in (lib.LLAMA_FLASH_ATTN_TYPE_AUTO, lib.LLAMA_FLASH_ATTN_TYPE_DISABLED):
        options = lib.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_threads = 256, 32, 32, 1
        options.flash_attn_type, options.swa_full, options.kv_unified = flash, True, False
        context = lib.llama_init_from_model(model, options)
        if context and not dry:
            lib.llama_decode(context, lib.llama_batch_get_one((lib.llama_token * 2)(0, 0), 2))
