"""How a run trains, decided once and kept beside its checkpoint: what goes on must go on in the same way."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from eftlocal.errors import TrainingError

__all__ = ["Plan", "load", "save"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run found before its first step.

    fed, checkpointed  how a step is computed (training.memory.Way): it depends on the memory that was free
    half               whether layers are computed in bfloat16 (training.precision): that depends on what was measured
    lr                 the learning rate that a trial found, or that was given
    """

    fed: int
    checkpointed: bool
    half: bool
    lr: float


def load(path: Path, identity: str) -> Plan | None:
    """The plan of a run that began; None if there is none. Raises TrainingError for one of another `identity`."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("identity") == identity:
            return Plan(**fields)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise TrainingError(f"{path} cannot be read.", f"Delete {path.parent} to start again.") from None
    raise TrainingError(
        f"{path.parent} is of a run with other data, models or settings.",
        "Delete it to start again, or give another --output.",
    )


def save(plan: Plan, path: Path, identity: str) -> None:
    """Keeps a plan. Raises TrainingError, as for a full disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump({"identity": identity, **asdict(plan)}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        problem = f"{path} could not be written: {error.strerror or error}."
        raise TrainingError(problem, "Free some room, and give the same command again.") from None
