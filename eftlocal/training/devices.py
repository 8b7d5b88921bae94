"""Where torch computes: the CPU, or one device. What it is called, and the memory that is free on it."""

import gc
from typing import Final, Literal, get_args

import torch

from eftlocal.errors import SettingError

__all__ = ["CPU", "DEVICES", "Device", "DeviceName", "chosen", "described", "free", "release"]

Device = torch.device
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: Final[tuple[DeviceName, ...]] = get_args(DeviceName)
CPU: Final = Device("cpu")


def chosen(wanted: DeviceName) -> Device:
    """The device of that name; auto is the fastest kind that this torch can use. Raises SettingError for another."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if wanted not in there:
        raise SettingError(f"device is {wanted!r}; it must be one of {', '.join(DEVICES)}.")
    if not there[wanted]:
        raise SettingError(
            f"torch {torch.__version__} finds no {wanted} device.",
            "Take --device cpu, or install a torch that is built for it: https://pytorch.org/get-started/locally",
        )
    return torch.device(wanted)


def described(device: Device) -> str:
    """A device as a person knows it: cuda (NVIDIA H100 80GB HBM3)."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def free(device: Device) -> int | None:
    """The bytes that are free on a device. None for the CPU: its memory is the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return max(0, int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory()))
    return None


def release(device: Device) -> None:
    """Gives back the memory that torch keeps on a device for itself: what runs next may be another program's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
