"""Machines and emulators that plans are made for in tests, and short words for a plan."""

from __future__ import annotations

from dataclasses import replace

from eftlocal.runtime.plan.loads import Member
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.placement import Plan
from tests.runtime.plan import shapes
from tests.runtime.plan.shapes import Model

GB = 1 << 30


def gpu(name: str, size: float, description: str = "a card") -> Device:
    return Device(name, description, "gpu", int((size - 0.3) * GB), int(size * GB))


def metal(size: float) -> Device:
    return Device("MTL0", "Apple M2", "gpu", int(size * GB), int(size * GB), shares_memory=True)


AIR_8 = Machine(8, 8 * GB, int(4.5 * GB), (metal(5.3),))
MACBOOK_16 = Machine(10, 16 * GB, 10 * GB, (metal(10.6),))
GPU_24 = Machine(16, 64 * GB, 50 * GB, (gpu("CUDA0", 24),))
TWO_GPUS_12 = Machine(16, 64 * GB, 50 * GB, (gpu("CUDA0", 12), gpu("CUDA1", 12)))
LAPTOP_6 = Machine(8, 32 * GB, 24 * GB, (gpu("CUDA0", 6),))
CPU_8 = Machine(4, 8 * GB, int(5.5 * GB))
CONTAINER_4 = Machine(2, 4 * GB, int(3.7 * GB), (), "this container's limit", 16, 64 * GB)
IGPU_16 = Machine(8, 16 * GB, 12 * GB, (Device("Vulkan0", "Iris Xe", "igpu", 8 * GB, 12 * GB, shares_memory=True),))


def trio(base: Model, small: Model) -> list[Member]:
    """Returns a base, and a tuned and a reference model of one shape in two files."""
    models = {"base": base, "tuned": replace(small, name="tuned"), "reference": replace(small, name="reference")}
    return [Member(header=model.header(), names=(role, model.name)) for role, model in models.items()]


SMOLLM2 = trio(shapes.SMOLLM2_1_7B, shapes.SMOLLM2_135M)
QWEN_7B = trio(shapes.QWEN25_7B, shapes.QWEN25_1_5B)
LLAMA_70B = trio(shapes.LLAMA2_70B, shapes.LLAMA2_7B)
LLAMA_7B = trio(shapes.LLAMA2_7B, shapes.LLAMA2_7B)


def layers(made: Plan) -> list[int]:
    return [placed.offload.layers for placed in made.members]


def where(made: Plan) -> list[str]:
    """Returns each member's devices: "CUDA0", or "CUDA0+CPU" when only a part of it is there, or "CPU"."""
    found = []
    for placed in made.members:
        whole = placed.read == 0
        found.append("+".join([*placed.offload.devices, *([] if whole else ["CPU"])]))
    return found
