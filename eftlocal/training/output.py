"""Writes what was trained as GGUF: an adapter of the reference, or a whole model with its tokenizer and template."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from eftlocal.errors import TrainingError
from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.gguf_write import Key, NewTensor, keys_of, write
from eftlocal.training.network import Adapter
from eftlocal.training.weights import Matrix, stored

__all__ = ["RECORD", "write_adapter", "write_model"]

RECORD = "eftlocal.tune."  # begins the keys that say how a file was made
HALF = float(np.finfo(np.float16).max)
F16 = 1  # llama_ftype: LLAMA_FTYPE_MOSTLY_F16


def write_adapter(path: Path, header: Header, adapter: Adapter, *, name: str, record: Mapping[str, str]) -> None:
    """Writes a LoRA adapter for the model with this header, in F32. Raises TrainingError, as for a full disk.

    llama.cpp adds `alpha / rank * B A` to a matrix (llama_adapter_lora_weight::get_scale).
    """
    ranks = {len(a) for a, _ in adapter.pairs.values()}
    assert len(ranks) == 1, "each matrix has the same rank"
    keys = {
        "general.architecture": Key("string", header.architecture),
        "general.type": Key("string", "adapter"),
        "general.name": Key("string", name),
        "adapter.type": Key("string", "lora"),
        "adapter.lora.alpha": Key("f32", adapter.scale * ranks.pop()),
        **_record(record),
    }
    tensors = [
        NewTensor.of(f"{matrix}.{part}", _values(values))
        for matrix, pair in adapter.pairs.items()
        for part, values in zip(("lora_a", "lora_b"), pair, strict=True)
    ]
    _written(path, keys, tensors)


def write_model(
    path: Path, header: Header, changed: Mapping[str, Tensor], *, name: str, record: Mapping[str, str]
) -> None:
    """Writes the model with this header with other values of some tensors: matrices in F16, vectors in F32.

    All other tensors are copied as they are. `header` is from gguf.check. Raises TrainingError, as for a full disk.
    """
    tensors = []
    for tensor in header.tensors:
        if tensor.name in changed:
            tensors.append(_half(tensor.name, _values(changed[tensor.name])))
        else:
            copied = lambda tensor=tensor: stored(header, tensor)  # noqa: E731 - read when its turn comes
            tensors.append(NewTensor(tensor.name, tensor.shape, tensor.type, copied))
    keys = {**keys_of(header), "general.name": Key("string", name), "general.file_type": Key("u32", F16)}
    _written(path, {**keys, **_record(record)}, tensors)


def _half(name: str, values: Matrix) -> NewTensor:
    """A matrix in F16 if its values are in the range of that; else, and a vector, in F32."""
    if values.ndim < 2 or np.abs(values).max() > HALF:
        return NewTensor.of(name, values)
    return NewTensor(name, values.shape[::-1], "F16", lambda: values.astype(np.float16))


def _values(tensor: Tensor) -> Matrix:
    return np.asarray(tensor.detach().cpu().float().numpy())


def _record(record: Mapping[str, str]) -> dict[str, Key]:
    return {f"{RECORD}{name}": Key("string", value) for name, value in record.items()}


def _written(path: Path, keys: Mapping[str, Key], tensors: list[NewTensor]) -> None:
    try:
        write(path, keys, tensors)
    except OSError as error:
        raise TrainingError(f"{path}: could not be written: {error.strerror or error}.") from None
