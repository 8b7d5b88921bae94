"""Tests of what this process may use: the limits of control groups, and a machine that does not tell its memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from eftlocal.runtime import cgroup, machine
from eftlocal.runtime.cgroup import Limits, limits
from eftlocal.runtime.llama import devices
from eftlocal.runtime.plan.machine import Device

GB = 1 << 30


def tree(folder: Path, files: Mapping[str, object], membership: str = "0::/") -> tuple[Path, Path]:
    """Writes a control group file system. Returns its root and the file that says this process's group."""
    root, place = folder / "cgroup", folder / "self"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    place.write_text(f"{membership}\n")
    return root, place


STAT = f"anon {GB}\nfile {GB}\ninactive_file {GB // 2}\nactive_file {GB // 4}\n"
OLD_STAT = f"cache {GB}\ntotal_inactive_file {GB // 2}\ntotal_active_file {GB // 4}\n"


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        pytest.param({}, "0::/", Limits(), id="no groups"),
        pytest.param({"cpu.max": "max 100000", "memory.max": "max"}, "0::/", Limits(), id="no limits"),
        pytest.param(
            {
                "cpu.max": "250000 100000",
                "memory.max": 4 * GB,
                "memory.current": 2 * GB,
                "memory.stat": STAT,
            },
            "0::/",
            Limits(2.5, 4 * GB, 2 * GB + 3 * GB // 4),
            id="a container: its group is the root, and cached files are free",
        ),
        pytest.param(
            {"memory.max": 4 * GB, "memory.current": 2 * GB},
            "0::/docker/0123",
            Limits(None, 4 * GB, 2 * GB),
            id="a container that sees the host's name of its group",
        ),
        pytest.param(
            {
                "user.slice/memory.max": 8 * GB,
                "user.slice/memory.current": 7 * GB,
                "user.slice/me/memory.max": 6 * GB,
                "user.slice/me/memory.current": 2 * GB,
                "user.slice/me/cpu.max": "100000 100000",
                "user.slice/cpu.max": "400000 100000",
                "other/memory.max": GB,
                "other/memory.current": GB,
            },
            "0::/user.slice/me",
            Limits(1.0, 6 * GB, GB),
            id="groups in groups: the narrowest of each",
        ),
        pytest.param(
            {"memory.max": GB, "memory.current": 3 * GB}, "0::/", Limits(None, GB, 0), id="more used than allowed"
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": 3 * GB,
                "memory/memory.usage_in_bytes": 2 * GB,
                "memory/memory.stat": OLD_STAT,
                "cpu/cpu.cfs_quota_us": 150_000,
                "cpu/cpu.cfs_period_us": 100_000,
            },
            "7:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123",
            Limits(1.5, 3 * GB, GB + 3 * GB // 4),
            id="version 1",
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": 9223372036854771712,
                "memory/memory.usage_in_bytes": GB,
                "cpu/cpu.cfs_quota_us": -1,
                "cpu/cpu.cfs_period_us": 100_000,
            },
            "7:memory:/",
            Limits(),
            id="version 1 without limits",
        ),
        pytest.param({"cpu.max": "nonsense", "memory.max": "1e9", "memory.current": ""}, "??", Limits(), id="nonsense"),
        pytest.param({"cpu.max": "100 0"}, "0::/", Limits(), id="a period of nothing"),
    ],
)
def test_limits_are_the_narrowest_on_the_way_up(
    tmp_path: Path, files: Mapping[str, object], membership: str, expected: Limits
) -> None:
    assert limits(*tree(tmp_path, files, membership)) == expected


def test_there_are_no_limits_where_there_are_no_control_groups(tmp_path: Path) -> None:
    assert limits(tmp_path / "missing", tmp_path / "missing, too") == Limits()


@pytest.mark.parametrize(("share", "cores"), [(None, 8), (2.5, 2), (0.3, 1), (64.0, 8)])
def test_cores_are_a_containers_share_of_them(monkeypatch: pytest.MonkeyPatch, share: float | None, cores: int) -> None:
    monkeypatch.setattr(machine, "limits", lambda: Limits(cores=share))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.usable_cores() == cores


def test_this_machine_has_something() -> None:
    here = machine.here()
    assert 1 <= here.cores <= here.cores_present
    assert 0 < here.free <= here.memory <= here.memory_present
    assert here.devices == devices.found()


def test_a_container_is_told_from_the_machine_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    total = psutil.virtual_memory().total
    monkeypatch.setattr(machine, "limits", lambda: Limits(None, total // 4, total // 8))
    here = machine.here(devices=False)
    assert (here.memory, here.free, here.memory_present) == (total // 4, total // 8, total)
    assert here.limited_by == "this container's limit"
    monkeypatch.setattr(machine, "limits", lambda: Limits(None, total * 2, total * 2))
    assert machine.here(devices=False).limited_by is None


def test_a_system_that_does_not_say_says_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Any:
        raise RuntimeError("no counters here")

    monkeypatch.setattr(psutil, "virtual_memory", fails)
    monkeypatch.setattr(machine, "limits", Limits)
    here = machine.here(devices=False)
    assert (here.memory, here.free, here.memory_present, here.limited_by) == (0, 0, 0, None)


def test_devices_are_not_asked_for_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (Device("GPU0", "A GPU", "gpu", GB, GB),)
    monkeypatch.setattr(devices, "found", lambda: found)
    assert machine.here(devices=False).devices == ()
    assert machine.here().devices == found


def test_the_usual_places_are_the_kernels() -> None:
    assert (str(cgroup.ROOT), str(cgroup.MEMBERSHIP)) == ("/sys/fs/cgroup", "/proc/self/cgroup")
