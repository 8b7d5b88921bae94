"""What a machine has, as a plan reads it: values only. `runtime.machine` finds them out."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Device", "Machine"]


@dataclass(frozen=True, slots=True)
class Device:
    """What llama.cpp can put layers on. `free` and `total` in bytes; both are 0 where the device does not say.

    shares_memory: its memory is the host's (Apple silicon, integrated GPUs); `total` is what it may take of that.
    """

    name: str
    description: str
    kind: Literal["gpu", "igpu", "accel"]
    free: int
    total: int
    shares_memory: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """Bytes and cores that this process may use, and those that are there; 0 where the system does not say.

    limited_by: what makes `memory` less than what is there ("this container's limit"); None where nothing does.
    """

    cores: int
    memory: int
    free: int
    devices: tuple[Device, ...] = ()
    limited_by: str | None = None
    cores_present: int = 0
    memory_present: int = 0
