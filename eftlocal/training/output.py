"""Writes what was trained as GGUF: an adapter of the reference, or a whole model with its tokenizer and template."""

import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

import gguf
import numpy as np
from torch import Tensor

from eftlocal.errors import ModelFileError, TrainingError
from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.gguf_write import Key, NewTensor, keys_of, write
from eftlocal.runtime.llama.library import quantize
from eftlocal.training.network import Adapter
from eftlocal.training.weights import Matrix, stored

__all__ = ["KINDS", "RECORD", "Kind", "kind_of", "write_adapter", "write_model"]

Kind = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
RECORD: Final = "eftlocal.tune."  # begins the keys that say how a file was made
HALF: Final = float(np.finfo(np.float16).max)
PLAIN: Final[Mapping[str, int]] = {"f32": 0, "f16": 1, "bf16": 32}  # what is not quantized: its llama_ftype


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


def kind_of(header: Header) -> Kind:
    """The type in which a trained model of this one is written, if none is named: its own, and at least 8 bits.

    A fine-tuning moves weights by less than a step of 4 bits, and the reward is the difference of two such models.
    """
    counts: Counter[str] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) > 1:
            counts[tensor.type.lower()] += math.prod(tensor.shape)
    most = counts.most_common(1)[0][0]
    return next((kind for kind in KINDS if kind == most and kind in PLAIN), "q8_0")


def write_model(
    path: Path,
    header: Header,
    changed: Mapping[str, Tensor],
    *,
    kind: Kind,
    name: str,
    record: Mapping[str, str],
    template: str | None = None,
) -> None:
    """Writes the model with this header with other values of some tensors: matrices as `kind`, vectors in F32.

    All other tensors are copied as they are; a quantized `kind` is llama.cpp's mixture of that name. `template` is the
    chat template that it was trained with, for programs that take it from the file; None keeps that of `header`, if
    there is one. `header` is from gguf.check. The file has its name only when it is complete. Raises TrainingError, as
    for a full disk.
    """
    plain = kind if kind in PLAIN else "f16"
    tensors = []
    for tensor in header.tensors:
        if tensor.name in changed:
            tensors.append(_tensor(tensor.name, _values(changed[tensor.name]), plain))
        else:
            copied = lambda tensor=tensor: stored(header, tensor)  # noqa: E731 - read when its turn comes
            tensors.append(NewTensor(tensor.name, tensor.shape, tensor.type, copied))
    keys = {**keys_of(header), "general.name": Key("string", name), "general.file_type": Key("u32", PLAIN[plain])}
    if template is not None:
        keys["tokenizer.chat_template"] = Key("string", template)
    if kind in PLAIN:
        _written(path, {**keys, **_record(record)}, tensors)
        return
    whole = path.with_name(f".{path.name}.whole")
    try:
        _written(whole, {**keys, **_record(record)}, tensors)
        _quantized(whole, path, kind)
    finally:
        whole.unlink(missing_ok=True)


def _quantized(whole: Path, path: Path, kind: str) -> None:
    """Lets llama.cpp quantize the file `whole` to `path`."""
    part = path.with_name(f".{path.name}.part")
    try:
        quantize(whole, part, kind.upper())
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (ModelFileError, OSError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(f"{path}: could not be written: {getattr(error, 'message', None) or error}.") from None


def _tensor(name: str, values: Matrix, kind: str) -> NewTensor:
    """A matrix as `kind`, one of PLAIN; a vector, and what is not in the range of F16, in F32."""
    if values.ndim < 2 or kind == "f32" or (kind == "f16" and np.abs(values).max() > HALF):
        return NewTensor.of(name, values)
    if kind == "f16":
        return NewTensor(name, values.shape[::-1], "F16", lambda: values.astype(np.float16))
    return NewTensor(
        name, values.shape[::-1], "BF16", lambda: gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
    )


def _values(tensor: Tensor) -> Matrix:
    return np.asarray(tensor.detach().cpu().float().numpy())


def _record(record: Mapping[str, str]) -> dict[str, Key]:
    return {f"{RECORD}{name}": Key("string", value) for name, value in record.items()}


def _written(path: Path, keys: Mapping[str, Key], tensors: list[NewTensor]) -> None:
    try:
        write(path, keys, tensors)
    except OSError as error:
        raise TrainingError(f"{path}: could not be written: {error.strerror or error}.") from None
