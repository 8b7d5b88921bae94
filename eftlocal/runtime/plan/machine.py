"""The description of a machine that a plan is made for: only values. `runtime.machine` finds them out."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Device", "Machine"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device that llama.cpp can put layers on. `free` and `total` are bytes; both are 0 when not known.

    An "rpc" device is a worker of llama.cpp's RPC; only members that name it run there.
    With `shares_memory`, it uses the host's memory (Apple silicon, integrated GPUs); `total` is how much it may use.
    """

    name: str
    description: str
    kind: Literal["gpu", "igpu", "accel", "rpc"]
    free: int
    total: int
    shares_memory: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's cores, memory and devices. Memory is in bytes, and 0 when not known.

    cores, memory                  what this process may use
    free                           how much of `memory` is free now
    limited_by                     why `memory` is less than `memory_present` ("this container's limit"), or None
    cores_present, memory_present  what the machine has
    """

    cores: int
    memory: int
    free: int
    devices: tuple[Device, ...] = ()
    limited_by: str | None = None
    cores_present: int = 0
    memory_present: int = 0
