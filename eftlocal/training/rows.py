"""What base and reference say of each trained token, on disk: computed once for all steps.

The emulator's logits are base + beta (tuned - reference), and only tuned changes. So a row holds base - beta reference,
which is added to beta times tuned's logits. With a large vocabulary, a row holds this for two sets of tokens: the
likeliest at its place, and those that are trained anywhere, which are what a training raises. All others share one
value, with which they have, together, the probability that the base gives them while tuned is the reference.

A folder holds a file of rows, and one that says what they are of. Rows are appended in order. After an interruption,
those that are whole are kept.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eftlocal.arithmetic.combine import log_softmax
from eftlocal.errors import TrainingError

__all__ = ["Rows", "bytes_of", "remove"]

FILE: Final = "rows.bin"
IDENTITY: Final = "rows.json"
KEPT: Final = 1024  # likeliest tokens of a row
SHARED: Final = 2048  # tokens that are trained, at most: the most frequent
WHOLE: Final = 4096  # vocabularies up to this size have all tokens in a row
LARGEST: Final = float(np.finfo(np.float16).max)

Ids = NDArray[np.int64]
Matrix = NDArray[np.float32]


def bytes_of(targets: Ids, vocabulary: int) -> int:
    """The size on disk of a row for each of the tokens that are trained."""
    return len(targets) * _record(vocabulary, _shared(targets, vocabulary)).itemsize


def _shared(targets: Ids, vocabulary: int) -> Ids:
    """The tokens that every row holds."""
    if vocabulary <= WHOLE:
        return np.arange(vocabulary)
    ids, counts = np.unique(targets, return_counts=True)
    return np.sort(ids[np.argsort(-counts, kind="stable")[:SHARED]])


def _record(vocabulary: int, shared: Ids) -> np.dtype[Any]:
    """The form of a row. trained: the value of the token that is trained there; rest: of those that are not held."""
    of: list[tuple[Any, ...]] = [("trained", np.float32), ("shared", np.float16, len(shared))]
    if len(shared) < vocabulary:
        id_type = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        of += [("rest", np.float32), ("ids", id_type, KEPT), ("values", np.float16, KEPT)]
    return np.dtype(of)


@dataclass(slots=True)
class Rows:
    """A row for each token that is trained. `have` of them are there; `append` adds the next ones.

    targets   the tokens that are trained, in order
    identity  what the rows are of (models, views, examples): rows of something else are dropped
    """

    folder: Path
    targets: Ids
    vocabulary: int
    identity: str
    beta: float
    have: int = field(init=False)
    _shared: Ids = field(init=False)
    _map: NDArray[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Opens the folder. Raises TrainingError if it cannot be written, or the disk has no room for the rows."""
        self._shared = _shared(self.targets, self.vocabulary)
        form = f"{self._record} {hashlib.sha256(self.targets.tobytes()).hexdigest()}"
        wanted = [self.identity, self.vocabulary, self.beta, form]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._known() != wanted:
                self._path.write_bytes(b"")
                (self.folder / IDENTITY).write_text(json.dumps(wanted), encoding="utf-8")
            self.have = min(self.count, self._path.stat().st_size // self._record.itemsize)
            with self._path.open("r+b") as file:
                file.truncate(self.have * self._record.itemsize)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self._failed(error) from None
        if (need := (self.count - self.have) * self._record.itemsize) > free:
            raise TrainingError(
                f"{self.folder}: what base and reference say takes {need / 1e6:,.0f} MB, "
                f"and {free / 1e6:,.0f} MB are free.",
                "Free some room, use fewer examples, or write the output to another disk.",
            )

    @property
    def count(self) -> int:
        return len(self.targets)

    @property
    def _path(self) -> Path:
        return self.folder / FILE

    @property
    def _record(self) -> np.dtype[Any]:
        return _record(self.vocabulary, self._shared)

    def _known(self) -> object:
        try:
            return json.loads((self.folder / IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def append(self, base: Matrix, reference: Matrix) -> None:
        """Adds rows of logits, (n, vocabulary or more). Raises TrainingError for a full disk, and for a NaN."""
        assert len(base) == len(reference) and self.have + len(base) <= self.count
        for name, z in (("base", base), ("reference", reference)):
            if not np.isfinite(z).all():
                raise TrainingError(f"The {name} gave logits that are not finite.")
        logs = [log_softmax(z[:, : self.vocabulary]) for z in (base, reference)]
        made = self._made(logs[0], logs[1], self.targets[self.have : self.have + len(base)])
        try:
            with self._path.open("r+b") as file:
                file.seek(self.have * made.itemsize)
                file.write(made.tobytes())
        except OSError as error:
            raise self._failed(error) from None
        self.have += len(base)
        self._map = None

    def _made(self, base: Matrix, reference: Matrix, targets: Ids) -> NDArray[Any]:
        """Records of rows of log-probabilities."""
        made = np.zeros(len(base), self._record)
        fixed = base - np.float32(self.beta) * reference
        made["trained"] = fixed[np.arange(len(base)), targets]
        halves = np.clip(fixed, -LARGEST, LARGEST).astype(np.float16)
        made["shared"] = halves[:, self._shared]
        if "ids" not in (made.dtype.names or ()):
            return made
        likely = np.maximum(base, reference)
        likely[:, self._shared] = -np.inf  # they are held already
        ids = np.argpartition(likely, -KEPT, axis=1)[:, -KEPT:]
        made["ids"], made["values"] = ids, np.take_along_axis(halves, ids, 1)
        masses = []
        for logs in (base, np.float32(self.beta) * reference):
            others = logs.copy()
            others[:, self._shared] = -np.inf
            np.put_along_axis(others, ids, -np.inf, 1)
            others[np.arange(len(base)), targets] = -np.inf
            masses.append(np.logaddexp.reduce(others, axis=1))
        made["rest"] = masses[0] - masses[1]
        return made

    def added(self, first: int, count: int, device: torch.device) -> Tensor:
        """`count` rows from the row `first` on, (count, vocabulary): what is added to beta times tuned's logits."""
        assert first + count <= self.have, "these rows were not computed yet"
        if self._map is None:
            self._map = np.memmap(self._path, self._record, "r", shape=(self.have,))
        rows = self._map[first : first + count]

        def there(values: NDArray[Any], dtype: type[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype)).to(device)

        found = there(rows["shared"], np.float16).float()
        if "ids" in (rows.dtype.names or ()):
            shared, found = found, there(rows["rest"], np.float32)[:, None].repeat(1, self.vocabulary)
            found[:, there(self._shared, np.int64)] = shared
            found.scatter_(1, there(rows["ids"], np.int64), there(rows["values"], np.float16).float())
        trained = there(self.targets[first : first + count], np.int64)
        return found.scatter_(1, trained[:, None], there(rows["trained"], np.float32)[:, None])

    def _failed(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"{self.folder}: what base and reference say could not be written: {error.strerror or error}.",
            f"It takes {bytes_of(self.targets, self.vocabulary) / 1e6:,.0f} MB. Free some room, or use fewer examples.",
        )


def remove(folder: Path) -> None:
    """Removes the files of rows from a folder, if it has them."""
    for name in (FILE, IDENTITY):
        (folder / name).unlink(missing_ok=True)
