"""What a GGUF file says of a model: its metadata, and the list of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eftlocal.runtime.gguf_arrays import Array

__all__ = ["TENSOR_TYPES", "Header", "Tensor"]

# fmt: off
# ggml.h: number -> (name, weights in a block, bytes of a block). The missing numbers are types that ggml has removed.
TENSOR_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}

# fmt: on


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place: `offset` bytes from the start of the file `Header.shards[shard]`."""

    name: str
    shape: tuple[int, ...]  # in ggml's order, with the row length first
    type: str
    offset: int
    n_bytes: int
    shard: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Header:
    """The metadata and the list of tensors of a GGUF file. From `gguf.check`: of all shards of the model together.

    `end` is where the last tensor and its padding end in the file; 0 if it is unknown.
    """

    path: Path
    version: int
    metadata: Mapping[str, "bool | int | float | str | Array"]
    tensors: tuple[Tensor, ...]
    file_bytes: int
    shards: tuple[Path, ...]
    end: int = 0
    types: Mapping[str, str] = field(default_factory=dict)  # key -> type of its value in the file: "u32", "string", ...

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.tensors)

    def text(self, key: str) -> str:
        """Returns a string of the metadata; "" when there is no string with that key."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def array(self, key: str) -> Array | None:
        """Returns an array of the metadata; None when there is no array with that key."""
        value = self.metadata.get(key)
        return value if isinstance(value, Array) else None
