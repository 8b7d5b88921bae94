"""Checkpoints: a trainer's state in a file, which is whole at every moment, also when the process is killed."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from eftlocal.errors import TrainingError

__all__ = ["load", "save"]


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state beside the earlier one, and then in its place. Raises TrainingError, as for a full disk."""
    part = path.with_name(f".{path.name}.part")
    told: list[OSError] = []
    try:
        with part.open("wb", buffering=0) as file:
            torch.save(dict(state), cast(IO[bytes], _Whole(file, told)))
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        cause = told[0] if told else error
        raise TrainingError(
            f"{path}: the checkpoint could not be written: {getattr(cause, 'strerror', None) or cause}.",
            "Free some room, and give the same command again: it goes on from the checkpoint before, if there is one.",
        ) from None


class _Whole(io.RawIOBase):
    """A file for torch.save, which reports a full disk as a RuntimeError of its own: it keeps the error in `told`."""

    def __init__(self, file: io.FileIO, told: list[OSError]) -> None:
        self._file, self._told = file, told

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        n = len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._told.append(error)
            raise
        return n


def load(path: Path) -> dict[str, Any] | None:
    """The state in a file; None if there is no such file. Raises TrainingError for a file that is no checkpoint."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged in any way
        raise TrainingError(f"{path}: is not a checkpoint: {error}", "Delete it to train from the start.") from None
    if not isinstance(state, dict):
        raise TrainingError(f"{path}: is not a checkpoint.", "Delete it to train from the start.")
    return state
