"""What this machine has: cores, memory and devices, and how much of them this process may use."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eftlocal.runtime.plan.cgroup import NO_LIMIT, limits
from eftlocal.runtime.plan.threads import usable_cores

__all__ = ["Device", "Machine", "here", "processor"]


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


def here(*, devices: bool = True) -> Machine:
    """This machine, now. `devices`: ask llama.cpp for them, which loads its library."""
    present, available = _memory()
    group = limits()
    memory = min(present or NO_LIMIT, group.memory or NO_LIMIT)
    free = min(available, NO_LIMIT if group.free is None else group.free) if present else group.free or 0
    cores = usable_cores()
    return Machine(
        cores=cores,
        memory=memory if memory < NO_LIMIT else 0,
        free=free,
        devices=_devices() if devices else (),
        limited_by="this container's limit" if memory < present else None,
        cores_present=os.cpu_count() or cores,
        memory_present=present,
    )


def processor() -> str:
    """The system, and the processor's architecture and name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor()
    kind = platform.machine()
    return f"{platform.system()} {kind}" + (f" ({name})" if name and name != kind else "")


def _memory() -> tuple[int, int]:
    """Total memory, and what new processes can have of it without swapping; 0 where the system does not say."""
    try:
        import psutil  # imported here: commands that plan nothing need not wait for it

        found = psutil.virtual_memory()
        return int(found.total), int(found.available)
    except Exception:  # whatever a platform's counters do: then nothing is checked, and nothing refused
        return 0, 0


def _devices() -> tuple[Device, ...]:
    from eftlocal.runtime.llama import devices  # imported here: it loads llama.cpp's library

    return devices.found()
