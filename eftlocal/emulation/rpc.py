"""The workers of llama.cpp's RPC that hold layers of an emulator's models: asked before anything is loaded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from eftlocal.catalog.endpoints import Endpoint
from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import CatalogError
from eftlocal.runtime.plan.loads import Placed, layers_by_place
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.memory import Sizes
from eftlocal.runtime.plan.placement import gib
from eftlocal.runtime.rpc.build import must_support
from eftlocal.runtime.rpc.hello import Memory, Worker, probe

__all__ = ["NONE", "Workers", "asked", "device_names", "layers", "with_workers"]

Workers = Mapping[Endpoint, Worker]

NONE: Final[Workers] = MappingProxyType({})
CPU_SHARE: Final = 0.75  # of the memory of a worker's CPU, which says that all of it is free


def asked(specs: Iterable[MemberSpec]) -> Workers:
    """Asks all workers that these members name. Raises WorkerError, and CatalogError for workers that cannot be shared.

    A build without RPC is an error, too.
    """
    owners: dict[Endpoint, MemberSpec] = {}
    members = list(specs)
    for spec in members:
        for endpoint in spec.rpc or ():
            other = owners.setdefault(endpoint, spec)
            if other.header.path != spec.header.path:
                problem = f"{other.model} and {spec.model} have layers on the same worker, {endpoint}"
                raise CatalogError(problem, "A worker serves one model at a time: start a second one on another port.")
    for spec in members:
        here = next((one for one in members if one.header.path == spec.header.path and one.rpc != spec.rpc), None)
        if here is not None:
            problem = f"{spec.model} and {here.model} are the same file, {spec.header.path}, on different workers"
            raise CatalogError(problem, "Give both models the same `rpc`, or a copy of the file.")
    if owners:
        must_support()
    return {endpoint: probe(endpoint) for endpoint in owners}


def device_names(endpoints: Iterable[Endpoint], workers: Workers) -> tuple[str, ...]:
    """The names of the devices of these workers in a plan; a worker that was not asked counts as one device."""
    known = [(endpoint, workers.get(endpoint)) for endpoint in endpoints]
    return tuple(name for endpoint, worker in known for name in (worker.names if worker else (endpoint.device(0),)))


def with_workers(machine: Machine, specs: Sequence[MemberSpec], workers: Workers) -> Machine:
    """The machine with the workers of these members as further devices."""
    found: dict[str, Device] = {}
    for endpoint in dict.fromkeys(endpoint for spec in specs for endpoint in spec.rpc or ()):
        worker = workers.get(endpoint)
        memories = worker.devices if worker else (Memory(0, 0),)  # 0: not known
        for name, memory in zip(device_names([endpoint], workers), memories, strict=True):
            free = int(memory.total * CPU_SHARE) if memory.free == memory.total else memory.free
            found[name] = Device(name, "a worker of llama.cpp's RPC", "rpc", free, memory.total)
    return replace(machine, devices=(*machine.devices, *found.values()))


def layers(placed: Placed) -> str:
    """Which layers of a member run where: "13 layers on 127.0.0.1:50052 (80 MiB), 18 here"."""
    here, there = layers_by_place(Sizes.of(placed.member.header).n_layers, placed.offload)
    parts = [f"{len(own)} layers on {name} ({gib(placed.devices[name].total)})" for name, own in there.items()]
    return ", ".join([*parts, f"{len(here)} here" if here else "none here"])
