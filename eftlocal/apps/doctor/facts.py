"""Gathers the facts about this machine and installation for `eftlocal doctor`."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

from eftlocal.apps.doctor.checks import Facts
from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.errors import EftError
from eftlocal.runtime import machine
from eftlocal.runtime.llama import library
from eftlocal.runtime.rpc import build

__all__ = ["gather", "not_writable"]

VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}  # PCI vendor ids, as sysfs writes them


def gather(models: Path | None) -> Facts:
    """Look at everything. A failure is not raised but becomes a fact: the doctor looks for failures."""
    cat, mistakes = catalog.Catalog(), list[tuple[str, str | None]]()
    try:
        cat = catalog.load(models)
        mistakes = [(mistake.line, mistake.error.hint) for mistake in cat.mistakes]
    except EftError as error:
        mistakes = [(error.message, error.hint)]
    here = machine.here()
    folder = hub.cache_folder()
    unfinished, unreadable = 0, None
    try:
        unfinished = hub.unfinished_bytes()
    except EftError as error:
        unreadable = error.message
    return Facts(
        system={"Darwin": "macOS"}.get(platform.system(), platform.system()),
        python=sys.version_info[:3],
        architecture=platform.machine(),
        translated=_translated(),
        bindings=library.version(),
        features=library.build_features(),
        rpc=build.command(),
        offload=library.can_offload(),
        gpus=_gpus(),
        cuda=_cuda(),
        machine=here,
        threads=f"{here.cores} threads, divided among the members by their cost",
        cache=str(folder),
        cache_free=_free(folder),
        cache_problem=not_writable(folder) or unreadable,
        unfinished=unfinished,
        endpoint=hub.endpoint(),
        network=hub.reachable(),
        token=hub.token_source(),
        token_problem=hub.token_problem(),
        emulators=len(cat.emulators),
        here=[emulator.name for emulator in cat.emulators.values() if cat.is_local(emulator)],
        mistakes=mistakes,
    )


def _free(folder: Path) -> int:
    """The free bytes of the disk of `folder`; 0 if they cannot be found out."""
    try:
        return hub.free_bytes(folder)
    except (EftError, OSError):
        return 0


def _translated() -> bool:
    """Whether this is an Intel Python that runs on Apple Silicon under Rosetta."""
    if sys.platform != "darwin" or platform.machine() != "x86_64":
        return False
    return _output("sysctl", "-n", "sysctl.proc_translated").strip() == "1"


def _gpus() -> tuple[str, ...]:
    """The makers of the GPUs that the system shows, even if llama.cpp is not built for them."""
    if sys.platform == "darwin":
        return ("apple",) if platform.machine() == "arm64" or _translated() else ()
    found = set()
    for file in Path("/sys/class/drm").glob("card*/device/vendor"):
        try:
            found.add(VENDORS.get(file.read_text(encoding="ascii").strip(), ""))
        except (OSError, ValueError):
            continue
    if Path("/proc/driver/nvidia/version").exists() or "GPU" in _output("nvidia-smi", "-L"):
        found.add("nvidia")
    return tuple(sorted(found - {""}))


def _cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver supports; None if it is unknown."""
    version = re.search(r"CUDA Version: (\d+)\.(\d+)", _output("nvidia-smi"))
    return (int(version[1]), int(version[2])) if version else None


def _output(*command: str) -> str:
    """What a program prints; nothing if it is not installed or cannot be run."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""


def not_writable(folder: Path) -> str | None:
    """Why nothing can be downloaded into `folder`, or None. The folder need not exist yet."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is not a folder"
        with TemporaryFile(dir=folder):  # only writing shows that a disk is full or read-only
            return None
    except OSError as error:
        return f"{folder} is not writable: {error.strerror}"
