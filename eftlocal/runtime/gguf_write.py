"""Writes GGUF files: keys as another file has them, some of them changed, and tensors that are made one at a time.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eftlocal.runtime.gguf_arrays import FIXED, TYPE_NAMES, Array
from eftlocal.runtime.gguf_header import TENSOR_TYPES, Header

__all__ = ["Key", "NewTensor", "keys_of", "write"]

VERSION: Final = 3
ALIGNMENT: Final = 32
STRING, ARRAY = TYPE_NAMES.index("string"), TYPE_NAMES.index("array")
TYPE_NUMBERS: Final = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
SPLIT: Final = "split."  # keys of a file that is one of several shards


class Key(NamedTuple):
    """A value of the metadata with its type in the file: "u32", "f32", "bool", "string", or "array"."""

    type: str
    value: "bool | int | float | str | Array"


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to write. `data` gives its values when their turn comes, so that not all have to be in memory at once.

    shape  in ggml's order, with the row length first
    type   a type of ggml, such as F32 or Q8_0
    data   the values as they stand in the file: an array of the tensor's size in bytes, in C order
    """

    name: str
    shape: tuple[int, ...]
    type: str
    data: Callable[[], NDArray[np.generic]]

    @classmethod
    def of(cls, name: str, values: NDArray[np.float32]) -> "NewTensor":
        """An F32 tensor of an array in memory, (outputs, inputs)."""
        return cls(name, values.shape[::-1], "F32", lambda: values)

    @property
    def n_bytes(self) -> int:
        _, block, block_bytes = TENSOR_TYPES[TYPE_NUMBERS[self.type]]
        return math.prod(self.shape) // block * block_bytes


def keys_of(header: Header) -> dict[str, Key]:
    """The keys of a file with their types, without those of a file that is one of several shards."""
    return {
        name: Key(header.types[name], value)
        for name, value in header.metadata.items()
        if not name.startswith(SPLIT) and name != "general.alignment"
    }


def write(path: Path, keys: Mapping[str, Key], tensors: Sequence[NewTensor]) -> None:
    """Writes a GGUF file. It has its name only when it is complete; a file of that name is replaced then.

    Raises OSError, as for a full disk.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            _write(file, keys, tensors)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, keys: Mapping[str, Key], tensors: Sequence[NewTensor]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", VERSION, len(tensors), len(keys)))
    for name, key in keys.items():
        file.write(_string(name) + _encoded(key))
    offset = 0
    for tensor in tensors:
        file.write(_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
        file.write(struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, TYPE_NUMBERS[tensor.type], offset))
        offset += _aligned(tensor.n_bytes)
    file.write(bytes(_aligned(file.tell()) - file.tell()))
    for tensor in tensors:
        data = np.ascontiguousarray(tensor.data())
        assert data.nbytes == tensor.n_bytes, f"{tensor.name} has {data.nbytes} bytes, expected {tensor.n_bytes}"
        file.write(data.data)
        file.write(bytes(_aligned(data.nbytes) - data.nbytes))


def _encoded(key: Key) -> bytes:
    kind, value = TYPE_NAMES.index(key.type), key.value
    if isinstance(value, Array):
        return struct.pack("<IIQ", ARRAY, TYPE_NAMES.index(value.type), value.count) + value.raw
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    return struct.pack("<I" + FIXED[kind], kind, value)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
