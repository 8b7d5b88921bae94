"""Writes altered copies of models, and shows what llama.cpp does with a file when nothing checks it before."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import gguf

_LOAD = """
import os, resource, sys
import llama_cpp as lib
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for path in sys.argv[1:]:
    if (pid := os.fork()) == 0:
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if model:
            text = "\\u00e9  a".encode()
            lib.llama_tokenize(lib.llama_model_get_vocab(model), text, 5, (lib.llama_token * 9)(), 9, False, False)
            options = lib.llama_context_default_params()
            options.n_ctx = 64
            lib.llama_init_from_model(model, options)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


Changes = Mapping[str, bool | int | str | list[bool] | list[int]]


def altered(source: Path, target: Path, changes: Changes) -> Path:
    """Writes a copy of the model with other metadata and returns `target`."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, str(architecture))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in changes:
            continue
        writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for key, value in changes.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def ends_llama_cpp(paths: Iterable[Path]) -> list[bool]:
    """Loads each file in a process of its own, without our checks. Says for each whether a signal ended that process.

    A process also tokenizes a character that is not ASCII and two spaces, and makes a context.
    """
    quiet = os.environ | {"GGML_NO_BACKTRACE": "1"}
    command = [sys.executable, "-c", _LOAD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, check=True, env=quiet, timeout=120)
    return [int(code) < 0 for code in done.stdout.split()]
