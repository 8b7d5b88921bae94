"""Finds out what this machine has: its cores, memory and devices, and how much of them this process may use."""

import os
import platform
import re
from pathlib import Path

from eftlocal.runtime.cgroup import NO_LIMIT, limits
from eftlocal.runtime.plan.machine import Device, Machine

__all__ = ["here", "processor", "usable_cores"]


def here(*, devices: bool = True) -> Machine:
    """Describes this machine as it is now. `devices` asks llama.cpp for its devices, which loads its library."""
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
    """Returns how many cores this process may use: at most its CPU affinity and its container's share, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = limits().cores
    return cores if share is None else max(1, min(cores, int(share)))


def processor() -> str:
    """Returns the system, the processor's architecture and its name: "Linux x86_64 (AMD EPYC)"."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor()
    kind = platform.machine()
    return f"{platform.system()} {kind}" + (f" ({name})" if name and name != kind else "")


def _memory() -> tuple[int, int]:
    """Returns the bytes of memory, and those that new processes can use without swapping; (0, 0) when not known."""
    try:
        import psutil  # imported here, so that commands without a plan need not wait for it

        found = psutil.virtual_memory()
        return int(found.total), int(found.available)
    except Exception:  # on some platforms the counters fail; then memory is not checked and nothing is refused
        return 0, 0


def _devices() -> tuple[Device, ...]:
    from eftlocal.runtime.llama import devices  # imported here, because it loads llama.cpp's library

    return devices.found()
