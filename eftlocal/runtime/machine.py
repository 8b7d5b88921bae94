"""What this machine has: cores, memory and devices, and how much of them this process may use."""

import os
import platform
import re
from pathlib import Path

from eftlocal.runtime.cgroup import NO_LIMIT, limits
from eftlocal.runtime.plan.machine import Device, Machine

__all__ = ["here", "processor", "usable_cores"]


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


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's share of the CPU where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = limits().cores
    return cores if share is None else max(1, min(cores, int(share)))


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
