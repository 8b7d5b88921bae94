"""What the user asked for about devices and layers, and what it means for a machine and its models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eftlocal.errors import SettingError
from eftlocal.runtime.plan.loads import UNBOUNDED, Loads, Member
from eftlocal.runtime.plan.machine import Device, Machine

__all__ = ["ALL", "NO_WISHES", "Wishes", "wanted_devices", "wanted_layers", "wanted_ratios"]

ALL: Final = 1 << 20  # as a number of layers: more than any model has


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for. None leaves the choice to the plan.

    gpu_layers  the number of layers on devices, for all models or by name; negative means all
    device      "none" for the CPU alone, or names of devices separated by commas
    main_gpu    the number of the device to fill first; with split none, the only one
    split       none (each model on one device), layer, row, or proportions such as "3,1"
    """

    gpu_layers: int | Mapping[str, int] | None = None
    device: str | None = None
    main_gpu: int | None = None
    split: str | None = None


NO_WISHES: Final = Wishes()


def wanted_devices(machine: Machine, wishes: Wishes) -> list[Device]:
    """Returns the devices to use. Integrated GPUs are left out when there are other GPUs, as in llama.cpp."""
    able = [device for device in machine.devices if device.kind not in ("accel", "rpc")]
    if wishes.device == "none":
        return []
    if wishes.device is None:
        devices = [device for device in able if device.kind == "gpu"] or able
    else:
        known = {device.name.casefold(): device for device in able}
        names = [name.strip() for name in wishes.device.split(",")]
        if unknown := [name for name in names if name.casefold() not in known]:
            there = ", ".join(device.name for device in able)
            hint = f"Devices: none, {there}." if there else "This build of llama.cpp sees no device: eftlocal doctor."
            raise SettingError(f"There is no device named {unknown[0]!r}.", hint)
        devices = [known[name.casefold()] for name in dict.fromkeys(names)]
    if wishes.split not in (None, "none", "layer", "row"):
        wanted_ratios(wishes.split, len(devices))
    if wishes.main_gpu is not None and devices and not 0 <= wishes.main_gpu < len(devices):
        raise SettingError(f"main_gpu is {wishes.main_gpu}; it must be between 0 and {len(devices) - 1}.")
    return devices


def wanted_ratios(split: str, n_devices: int) -> tuple[float, ...]:
    """Returns the proportions that `split` asks for, one for each device. Raises SettingError for another text."""
    try:
        ratios = tuple(float(part) for part in split.split(","))
    except ValueError:
        ratios = ()
    if not ratios or min(ratios) < 0 or not 0 < sum(ratios) < UNBOUNDED:
        raise SettingError(
            f"split is {split!r}; it must be none, layer, row or a proportion for each device, like 3,1."
        )
    if n_devices and len(ratios) != n_devices:
        raise SettingError(f"split is {split!r}; it must have a proportion for each of the {n_devices} devices.")
    return ratios


def wanted_layers(members: Sequence[Member], loads: Loads, wishes: Wishes) -> dict[Path, int | None]:
    """Returns the number of layers that was asked for, for each file; None means as many as fit."""
    by_name = wishes.gpu_layers if isinstance(wishes.gpu_layers, Mapping) else {}
    names = list(dict.fromkeys(name for member in members for name in member.names))
    if unknown := [name for name in by_name if name not in names]:
        raise SettingError(f"There is no role or model named {unknown[0]!r}.", f"Names: {', '.join(names)}.")
    asked: dict[Path, int | None] = dict.fromkeys(loads.sizes)
    for member in members:
        given = [by_name[name] for name in member.names if name in by_name]
        number = wishes.gpu_layers if isinstance(wishes.gpu_layers, int) else member.gpu_layers
        number = ALL if number is None and member.workers else number
        if (layers := given[0] if given else number) is not None:
            before, layers = asked[member.header.path], ALL if layers < 0 else layers
            asked[member.header.path] = layers if before is None else min(before, layers)
    return asked
