"""Computes what each member needs on the host and on the devices, for a given offload of its layers."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Final

from eftlocal.runtime.gguf import Header
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.memory import CPU_BATCH, GPU_BATCH, Cache, Need, Sizes, layer_bytes

__all__ = ["CPU", "GIB", "UNBOUNDED", "Loads", "Member", "Offload", "Placed", "Shortfall", "layers_by_place"]

GIB: Final = 1 << 30
TINY: Final = GIB // 4  # less than this is never refused, even if the system reports no free memory
HOST_SHARE: Final = 0.95  # the part of the free memory to use; the rest is for the system and the estimate's error
COPIES: Final = 4  # copies of a decode's inputs when several devices work in a pipeline (GGML_SCHED_MAX_COPIES)
UNBOUNDED: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a plan needs to know of a member.

    names    its roles and its model's name, for --gpu-layers
    workers  the devices that hold its layers, and no others do; () lets the plan choose among this machine's
    """

    header: Header
    names: tuple[str, ...] = ()
    lora: Header | None = None
    gpu_layers: int | None = None  # the setting of its model in models.toml
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Offload:
    """Puts the last `layers` layers of a model on devices. The output counts as the last layer.

    devices  the names of the devices
    ratios   the share of the layers of each device; () for equal shares
    rows     whether each matrix is divided among the devices too
    """

    layers: int = 0
    devices: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()
    rows: bool = False

    def halved(self) -> "Offload":
        """Returns this offload with half the layers; with none if there was only one."""
        return replace(self, layers=self.layers // 2) if self.layers > 1 else Offload()


CPU: Final = Offload()


@dataclass(frozen=True, slots=True)
class Placed:
    """One member of a plan: what it needs on the host and on each device.

    When members share a file, its weights count for the first of them. `read` is how many bytes of weights the CPU
    reads for a token; 0 when all layers are on devices.
    """

    member: Member
    offload: Offload
    host: Need
    devices: Mapping[str, Need]
    read: int


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A place without enough memory: the bytes needed and those that can be used. `device` is None for the host."""

    device: str | None
    needed: int
    usable: int


class Loads:
    """Members with their sizes, and the room on the host and on each device of the machine."""

    def __init__(self, members: Sequence[Member], machine: Machine, devices: Sequence[Device]) -> None:
        self.members, self.machine, self.devices = members, machine, devices
        self.sizes: dict[Path, Sizes] = {}
        for member in members:
            if member.header.path not in self.sizes:
                self.sizes[member.header.path] = Sizes.of(member.header)
        self.host_room = machine.free * HOST_SHARE if machine.memory else UNBOUNDED
        self.rooms = {device.name: _room(device, self.host_room) for device in machine.devices}
        self._shared = {device.name for device in machine.devices if device.shares_memory}
        # Other devices copy a tied embedding; Metal maps it from the file a second time, without a copy.
        self._copied = {d.name for d in machine.devices if d.kind == "igpu" or not d.shares_memory}

    def place(self, offloads: Sequence[Offload], cache: Cache) -> list[Placed]:
        """Returns what each member needs in each place, with one offload for each member."""
        found, seen = [], set()
        for member, offload in zip(self.members, offloads, strict=True):
            first = member.header.path not in seen
            seen.add(member.header.path)
            found.append(self._need(member, offload, cache, first))
        return found

    def _need(self, member: Member, offload: Offload, cache: Cache, first: bool) -> Placed:
        sizes = self.sizes[member.header.path]
        own = layer_bytes(member.lora.tensors, len(sizes.layers)) if member.lora else [0] * sizes.n_layers
        host_layers, on_devices = layers_by_place(sizes.n_layers, offload)
        batch = max(GPU_BATCH if offload.layers else CPU_BATCH, cache.n_seq)
        last = sizes.n_layers - 1

        def weights(layers: Sequence[int]) -> int:
            shared = sum(sizes.layers[il] if il < last else sizes.output for il in layers) if first else 0
            return shared + sum(own[il] for il in layers)

        pipeline = COPIES * sizes.held_for_devices(cache, batch) if len(on_devices) > 1 and not host_layers else 0
        needs = {}
        for name, layers in on_devices.items():
            copy = sizes.embedding if first and sizes.tied and last in layers and name in self._copied else 0
            compute = sizes.compute(cache, batch, whole=False, logits=last in layers)
            if host_layers:  # for long prompts, a device also computes the host's layers, with copies of their weights
                compute += 2 * sizes.largest
            needs[name] = Need(weights(layers) + copy, sizes.kv(cache, layers), compute + pipeline)
        if host_layers:
            held = sizes.compute(cache, batch, logits=last in host_layers)
        else:
            held = sizes.held_for_devices(cache, batch) + pipeline // 2
        host = Need(
            weights=weights(host_layers) + (sizes.inputs if first else 0),
            kv=sizes.kv(cache, host_layers),
            compute=held,
            output=sizes.logits(cache),
            tokenizer=sizes.tokenizer if first else 0,
        )
        total = sum(sizes.layers) + sizes.output
        on_host = sum(sizes.layers[il] if il < last else sizes.output for il in host_layers)
        read = sizes.read * on_host // max(total, 1) if on_devices else sizes.read
        return Placed(member, offload, host, needs, read)

    def used(self, placed: Iterable[Placed]) -> dict[str, int]:
        """Returns the bytes used on each device."""
        used: dict[str, int] = {}
        for one in placed:
            for name, need in one.devices.items():
                used[name] = used.get(name, 0) + need.total
        return used

    def fits_on_devices(self, placed: Iterable[Placed]) -> bool:
        return all(size <= self.rooms.get(name, UNBOUNDED) for name, size in self.used(placed).items())

    def shortfalls(self, placed: Sequence[Placed]) -> tuple[Shortfall, ...]:
        used = self.used(placed)
        host = sum(one.host.total for one in placed) + sum(used[name] for name in used if name in self._shared)
        found = []
        if host > max(self.host_room, TINY):
            found.append(Shortfall(None, host, int(self.host_room)))
        for name, size in used.items():
            if size > self.rooms[name]:
                found.append(Shortfall(name, size, max(0, int(self.rooms[name]))))
        return tuple(found)


def _room(device: Device, host_room: float) -> float:
    """Returns the bytes that models may use on a device. Some stay free for the driver, the screen and the kernels."""
    if device.total == 0:  # not known
        return host_room if device.shares_memory else UNBOUNDED
    if device.shares_memory:
        return float(device.free)
    return device.free - min(max(device.total // 20, GIB // 2), GIB)


def layers_by_place(n_layers: int, offload: Offload) -> tuple[list[int], dict[str, list[int]]]:
    """Returns the layers on the host and on each device, as llama.cpp places them.

    The source is llama_model_base::load_tensors in llama-model.cpp.
    """
    count = min(offload.layers, n_layers) if offload.devices else 0
    first = n_layers - count
    ratios = offload.ratios or (1.0,) * len(offload.devices)
    ends = [part / sum(ratios) for part in accumulate(ratios)]
    found: dict[str, list[int]] = {}
    for il in range(first, n_layers):
        place = min(bisect_right(ends, (il - first) / count), len(offload.devices) - 1)
        found.setdefault(offload.devices[place], []).append(il)
    return list(range(first)), found
