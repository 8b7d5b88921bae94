"""Decides where each member runs and whether all fit: a pure function of headers and the description of a machine.

`search` has the rules of what goes where, `advice` says what would fit where this does not, and `wishes` what the user
asked for. Members that share a file load it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eftlocal.errors import FitError
from eftlocal.runtime.plan.advice import advise
from eftlocal.runtime.plan.loads import GIB, Loads, Member, Offload, Placed, Shortfall
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.memory import Cache, Need
from eftlocal.runtime.plan.search import find_offloads, largest
from eftlocal.runtime.plan.wishes import NO_WISHES, Wishes, wanted_devices, wanted_layers

__all__ = ["Plan", "gib", "plan"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Where each member runs, and whether all fit. The members are in the order they were given.

    `advice` says what would fit, the best first, in phrases that are joined to one line.
    """

    members: tuple[Placed, ...]
    machine: Machine
    cache: Cache
    shortfalls: tuple[Shortfall, ...] = ()
    advice: tuple[str, ...] = ()
    _loads: Loads = field(repr=False)

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    @property
    def host(self) -> Need:
        """What all members need of the host's memory, without devices that share it."""
        return Need.sum(placed.host for placed in self.members)

    @property
    def devices(self) -> Mapping[str, Need]:
        """What all members need of each device in use."""
        names = dict.fromkeys(name for placed in self.members for name in placed.devices)
        return {n: Need.sum(p.devices[n] for p in self.members if n in p.devices) for n in names}

    @property
    def total(self) -> Need:
        return self.host + Need.sum(self.devices.values())

    def sequences_that_fit(self, most: int) -> int:
        """Returns how many sequences fit, from 1 to `most`, when the models are placed by this plan."""
        offloads = [placed.offload for placed in self.members]

        def fits(n: int) -> bool:
            return not self._loads.shortfalls(self._loads.place(offloads, replace(self.cache, n_seq=n)))

        return max(largest(1, most, fits), 1)

    def moved(self, path: Path, offload: Offload) -> "Plan":
        """Returns this plan with another offload for one file. It is not checked again whether all fit."""
        offloads = [offload if placed.member.header.path == path else placed.offload for placed in self.members]
        return replace(self, members=tuple(self._loads.place(offloads, self.cache)))

    def error(self, name: str) -> FitError:
        """Returns the error that says why the emulator `name` does not fit, with the plan's advice."""
        problems = ", and ".join(_problem(short, self) for short in self.shortfalls)
        hint = "; ".join((*self.advice, "--force loads it anyway"))
        return FitError(f"{name} does not fit: it needs {problems}.", f"{hint[:1].upper()}{hint[1:]}.")


def plan(members: Sequence[Member], machine: Machine, cache: Cache, wishes: Wishes = NO_WISHES) -> Plan:
    """Places `members` (the base first) on `machine`. Raises SettingError for a wish that cannot be met or understood.

    A plan that does not fit is returned too: see `Plan.fits`.
    """
    devices = wanted_devices(machine, wishes)
    loads = Loads(members, machine, devices)
    asked = wanted_layers(members, loads, wishes)
    offloads = find_offloads(loads, cache, wishes, asked)
    placed = loads.place(offloads, cache)
    shortfalls = loads.shortfalls(placed)
    advice = tuple(advise(loads, cache, wishes, asked, shortfalls)) if shortfalls else ()
    return Plan(members=tuple(placed), machine=machine, cache=cache, shortfalls=shortfalls, advice=advice, _loads=loads)


def _problem(short: Shortfall, made: Plan) -> str:
    needed, usable = gib(short.needed), gib(short.usable)
    if any(device.name == short.device and device.kind == "rpc" for device in made.machine.devices):
        return f"{needed} on the worker {short.device}, where only {usable} can be used"
    if short.device is not None:
        return f"{needed} on {short.device}, where only {usable} can be used"
    need = made.total if all(_shares(made.machine, name) for name in made.devices) else made.host
    buffers = need.compute + need.output + need.tokenizer
    parts = f"models {gib(need.weights)}, caches {gib(need.kv)}, buffers {gib(buffers)}"
    limit = ""
    if made.machine.limited_by:
        limit = f" under {made.machine.limited_by} of {gib(made.machine.memory)}"
    return f"{needed} of memory ({parts}), but only {usable} can be used{limit}"


def gib(size: float) -> str:
    """Returns bytes in words for people: "7.1 GiB", "80 MiB"."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.0f} MiB"


def _shares(machine: Machine, name: str) -> bool:
    return any(device.shares_memory for device in machine.devices if device.name == name)
