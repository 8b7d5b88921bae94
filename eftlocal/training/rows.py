"""Rows of log-probabilities on disk: what base and reference say of each trained token, computed once for all steps.

A folder holds two files of half-precision rows, and one that says what they are of. Rows are appended in order. After
an interruption, those that both files hold completely are kept.
"""

import json
import math
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eftlocal.arithmetic.combine import log_softmax
from eftlocal.errors import TrainingError

__all__ = ["Rows", "bytes_of", "remove"]

FILES: Final = ("base.f16", "reference.f16")
IDENTITY: Final = "rows.json"
LEAST: Final = float(np.finfo(np.float16).min)


def bytes_of(count: int, vocabulary: int) -> int:
    """The size of `count` rows on disk."""
    return count * vocabulary * np.dtype(np.float16).itemsize * len(FILES)


class Rows:
    """The rows of some examples. `have` of the `count` rows are there; `append` adds the next ones.

    A half-precision log-probability is exact to a thousandth of its value. Likely tokens have small values, so it is
    their probabilities that are most exact.
    """

    def __init__(self, folder: Path, count: int, vocabulary: int, identity: str) -> None:
        """Opens a folder. Rows of another `identity` (models, views, examples) are dropped. Raises TrainingError."""
        self.count, self.vocabulary = count, vocabulary
        self._folder = folder
        self._row_bytes = vocabulary * np.dtype(np.float16).itemsize
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._identity() != (wanted := [identity, count, vocabulary]):
                for name in FILES:
                    (folder / name).write_bytes(b"")
                (folder / IDENTITY).write_text(json.dumps(wanted), encoding="utf-8")
            self.have = min(count, *((folder / name).stat().st_size // self._row_bytes for name in FILES))
            for name in FILES:
                with (folder / name).open("r+b") as file:
                    file.truncate(self.have * self._row_bytes)
        except OSError as error:
            raise self._failed(error) from None
        self._maps: list[NDArray[np.float16]] | None = None

    def _identity(self) -> object:
        try:
            return json.loads((self._folder / IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def append(self, base: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
        """Adds rows of logits, (n, vocabulary or more). Raises TrainingError for a full disk, and for a NaN."""
        assert len(base) == len(reference) and self.have + len(base) <= self.count
        try:
            for name, z in zip(FILES, (base, reference), strict=True):
                with (self._folder / name).open("r+b") as file:
                    self._write(file, name, z)
        except OSError as error:
            raise self._failed(error) from None
        self.have += len(base)
        self._maps = None

    def _write(self, file: BinaryIO, name: str, z: NDArray[np.float32]) -> None:
        if not np.isfinite(z).all():
            raise TrainingError(f"The {name.partition('.')[0]} gave logits that are not finite.")
        logs = log_softmax(z[:, : self.vocabulary])
        file.seek(self.have * self._row_bytes)
        file.write(np.maximum(logs, LEAST).astype(np.float16).tobytes())

    def rows(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """`count` rows of base and reference from the row `first` on: log-probabilities, (count, vocabulary)."""
        assert first + count <= self.have, "these rows were not computed yet"
        if self._maps is None:
            shape = (self.have, self.vocabulary)
            self._maps = [np.memmap(self._folder / name, np.float16, "r", shape=shape) for name in FILES]
        base, reference = (torch.from_numpy(m[first : first + count].astype(np.float32)) for m in self._maps)
        return base, reference

    def _failed(self, error: OSError) -> TrainingError:
        need = math.ceil(bytes_of(self.count, self.vocabulary) / 1e6)
        return TrainingError(
            f"{self._folder}: the logits of base and reference could not be written: {error.strerror or error}.",
            f"They take {need:,} MB. Free some room, or use fewer examples.",
        )


def remove(folder: Path) -> None:
    """Removes the files of rows from a folder, if it has them."""
    for name in (*FILES, IDENTITY):
        (folder / name).unlink(missing_ok=True)
