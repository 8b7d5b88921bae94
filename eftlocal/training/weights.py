"""Reads the weights of a GGUF model as float32, from every type that the gguf package knows."""

from collections.abc import Iterable
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import TrainingError
from eftlocal.runtime.gguf_header import Header, Tensor

__all__ = ["Matrix", "read", "stored"]

Matrix = NDArray[np.float32]


def read(header: Header, names: Iterable[str] | None = None) -> dict[str, Matrix]:
    """Returns tensors by name (None: all): matrices are (outputs, inputs), in float32.

    `header` is from gguf.check. Raises TrainingError for a type that cannot be read, and for a file that cannot be.
    """
    wanted = None if names is None else set(names)
    return {t.name: _values(header, t) for t in header.tensors if wanted is None or t.name in wanted}


def stored(header: Header, tensor: Tensor) -> NDArray[np.uint8]:
    """Returns the bytes of a tensor as they are in its file: (rows, bytes of a row)."""
    path = header.shards[tensor.shard]
    rows = int(np.prod(tensor.shape[1:], dtype=np.int64))
    try:
        return np.fromfile(path, np.uint8, tensor.n_bytes, offset=tensor.offset).reshape(rows, -1)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: tensor {tensor.name} cannot be read: {error}") from None


def _values(header: Header, tensor: Tensor) -> Matrix:
    data = stored(header, tensor)
    kind: Any = getattr(gguf.GGMLQuantizationType, tensor.type, None)
    try:
        values = gguf.quants.dequantize(data.reshape(-1) if tensor.type == "F32" else data, kind)
    except (KeyError, NotImplementedError, TypeError, ValueError):
        problem = f"{header.path}: tensor {tensor.name} is of type {tensor.type}, which cannot be read"
        raise TrainingError(problem, "Use another file of this model, such as F16, Q8_0 or Q4_K_M.") from None
    return np.ascontiguousarray(values, np.float32).reshape(tensor.shape[::-1])
