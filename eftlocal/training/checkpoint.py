"""Checkpoints: a trainer's state in a file, which is whole at every moment, also when the process is killed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from eftlocal.errors import TrainingError

__all__ = ["load", "save"]


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state beside the earlier one, and then in its place. Raises TrainingError, as for a full disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"{path}: the checkpoint could not be written: {getattr(error, 'strerror', None) or error}.",
            "The run goes on from the checkpoint before, once there is room on the disk.",
        ) from None


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
