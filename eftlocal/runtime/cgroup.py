"""Reads the limits that a container or a service sets on its processes (Linux control groups, versions 2 and 1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "limits"]

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
NO_LIMIT = 1 << 60  # without a limit, version 1 writes a number near 2^63


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a group. None means that there is no limit.

    cores   how many cores' worth of CPU time the processes may use, such as 2.5
    memory  bytes
    free    bytes of `memory` that are still available
    """

    cores: float | None = None
    memory: int | None = None
    free: int | None = None


def limits(root: Path = ROOT, membership: Path = MEMBERSHIP) -> Limits:
    """Returns the narrowest limits of this process's group and the groups above it; no limits without groups."""
    groups = _groups(membership)
    found = [_version2(folder) for folder in _upwards(root, groups.get("", "/"))]
    for controller in ("memory", "cpu"):
        found += [_version1(folder) for folder in _upwards(root / controller, groups.get(controller, "/"))]
    return Limits(
        min((f.cores for f in found if f.cores is not None), default=None),
        min((f.memory for f in found if f.memory is not None), default=None),
        min((f.free for f in found if f.free is not None), default=None),
    )


def _groups(membership: Path) -> dict[str, str]:
    """Returns this process's group for each controller. Version 2 has one group for all, with the controller "".

    The lines of the file are `id:controllers:path`.
    """
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {name: line[2] for line in lines if len(line) == 3 for name in line[1].split(",")}


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """Yields the folders of the group and of the groups above it.

    A container sees its own group as the root, but may be told the host's path of it. Folders that do not exist are
    left out.
    """
    folder = root / group.lstrip("/")
    yield from (f for f in (folder, *folder.parents) if f.is_relative_to(root) and f.is_dir())


def _version2(folder: Path) -> Limits:
    cores = None
    try:
        quota, period = _text(folder / "cpu.max").split()  # "200000 100000" is two cores, "max 100000" is no limit
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        pass
    return _with_memory(folder, cores, "memory.max", "memory.current", "")


def _version1(folder: Path) -> Limits:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    cores = quota / period if quota is not None and quota > 0 and period else None
    return _with_memory(folder, cores, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _with_memory(folder: Path, cores: float | None, limit: str, usage: str, prefix: str) -> Limits:
    memory, used = _number(folder / limit), _number(folder / usage)
    if memory is None or memory >= NO_LIMIT or used is None:
        return Limits(cores)
    # The kernel drops cached file pages before it refuses memory. So the pages of a model file that ran a minute ago
    # count as free.
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    cached = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
    return Limits(cores, memory, max(0, memory - max(0, used - cached)))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:  # "max", or the file does not exist
        return None
