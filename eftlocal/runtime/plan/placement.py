"""Decides where each member runs and whether all fit: a pure function of headers and the description of a machine.

The rules, in order:
1. If one device holds all members, they all go there.
2. Otherwise members are placed whole, the base first, then by the bytes that a token reads. Each goes to the device
   with the most room, or, if none holds it, is split by layers over all devices.
3. Of a member that does not fit whole, as many layers as fit go to devices.
4. The rest runs on the CPU.
A member with workers of llama.cpp's RPC has all its layers there, or as many as were asked for, in shares of their free
memory. It is placed before all others, which never run there.
Members that share a file load it once.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from eftlocal.errors import FitError, SettingError
from eftlocal.runtime.plan.loads import CPU, GIB, UNBOUNDED, Loads, Member, Offload, Placed, Shortfall
from eftlocal.runtime.plan.machine import Device, Machine
from eftlocal.runtime.plan.memory import Cache, Need

__all__ = ["Member", "Offload", "Placed", "Plan", "Shortfall", "Wishes", "plan"]

ALL: Final = 1 << 20  # as a number of layers: more than any model has
FEW: Final = 10  # a tenth of the layers or less on a device is not worth its buffers


# --- input ------------------------------------------------------------------------------------------------------------


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


# --- output -----------------------------------------------------------------------------------------------------------


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

        return max(_largest(1, most, fits), 1)

    def moved(self, path: Path, offload: Offload) -> "Plan":
        """Returns this plan with another offload for one file. It is not checked again whether all fit."""
        offloads = [offload if placed.member.header.path == path else placed.offload for placed in self.members]
        return replace(self, members=tuple(self._loads.place(offloads, self.cache)))

    def error(self, name: str) -> FitError:
        """Returns the error that says why the emulator `name` does not fit, with the plan's advice."""
        problems = ", and ".join(_problem(short, self) for short in self.shortfalls)
        hint = "; ".join((*self.advice, "--force loads it anyway"))
        return FitError(f"{name} does not fit: it needs {problems}.", f"{hint[:1].upper()}{hint[1:]}.")


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


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(members: Sequence[Member], machine: Machine, cache: Cache, wishes: Wishes = Wishes()) -> Plan:
    """Places `members` (the base first) on `machine`. Raises SettingError for a wish that cannot be met or understood.

    A plan that does not fit is returned too: see `Plan.fits`.
    """
    devices = _wanted_devices(machine, wishes)
    loads = Loads(members, machine, devices)
    asked = _wanted_layers(members, loads, wishes)
    offloads = _offloads(loads, cache, wishes, asked)
    placed = loads.place(offloads, cache)
    shortfalls = loads.shortfalls(placed)
    advice = tuple(_advice(loads, cache, wishes, asked, shortfalls)) if shortfalls else ()
    return Plan(members=tuple(placed), machine=machine, cache=cache, shortfalls=shortfalls, advice=advice, _loads=loads)


# --- where each member runs -------------------------------------------------------------------------------------------


def _offloads(loads: Loads, cache: Cache, wishes: Wishes, asked: Mapping[Path, int | None]) -> list[Offload]:
    """Returns an offload for each member, by the rules at the top of this file."""
    search = _Search(loads, cache, wishes)
    wanted = {
        path: min(ALL if asked[path] is None else asked[path] or 0, s.n_layers) for path, s in loads.sizes.items()
    }
    for member in loads.members:
        search.take_workers(member, wanted[member.header.path])
    own = {member.header.path for member in loads.members if member.workers}
    order = [path for path in _order(loads) if wanted[path] > 0 and path not in own]
    if loads.devices and not search.take_together({path: wanted[path] for path in order}):
        left = [path for path in order if not search.take_whole(path, wanted[path])]
        for path in left:
            search.take_part(path, wanted[path], asked=asked[path] is not None)
    return [search.chosen[member.header.path] for member in loads.members]


def _order(loads: Loads) -> list[Path]:
    """Returns the files in the order they are placed: the base's first, then by the bytes that a token reads."""
    base = loads.members[0].header.path if loads.members else None
    return sorted(loads.sizes, key=lambda path: (path != base, -loads.sizes[path].read))


class _Search:
    """The search for offloads. `chosen` maps each file to its offload so far."""

    def __init__(self, loads: Loads, cache: Cache, wishes: Wishes) -> None:
        self._loads, self._cache, self._wishes = loads, cache, wishes
        self.chosen: dict[Path, Offload] = dict.fromkeys(loads.sizes, CPU)

    def take_workers(self, member: Member, layers: int) -> None:
        """Puts a member's layers on its workers, in shares of their free memory. Whether they fit is not looked at."""
        if not (names := member.workers) or layers < 1:
            return
        rooms = tuple(max(self._loads.rooms[name], 0.0) for name in names)
        ratios = rooms if all(0 < room < UNBOUNDED for room in rooms) else (1.0,) * len(names)
        self.chosen[member.header.path] = Offload(layers, names, ratios if len(names) > 1 else ())

    def take_together(self, layers: Mapping[Path, int]) -> bool:
        """Puts all files on one device, or over all devices if a split was asked for. False if they do not fit."""
        for spot in self._spots():
            if len(spot.devices) > 1 and self._wishes.split is None:
                continue  # whole models on single devices are better than each model split over all
            together = {path: replace(spot, layers=n) for path, n in layers.items()}
            if self._fits(together):
                self.chosen |= together
                return True
        return False

    def take_whole(self, path: Path, layers: int) -> bool:
        """Puts one file on the first spot that holds it. False if there is none."""
        for spot in self._spots():
            if self._fits({path: replace(spot, layers=layers)}):
                self.chosen[path] = replace(spot, layers=layers)
                return True
        return False

    def take_part(self, path: Path, layers: int, *, asked: bool) -> None:
        """Puts as many layers of a file on devices as fit; all `layers` if the user `asked` for them."""
        spots = self._spots()
        if asked:
            self.chosen[path] = replace(spots[-1], layers=layers)
            return
        best = CPU
        for spot in spots:
            n = self._most_layers(path, spot, layers - 1)
            if n > best.layers and n * FEW > layers:
                best = replace(spot, layers=n)
        self.chosen[path] = best

    def _most_layers(self, path: Path, spot: Offload, most: int) -> int:
        return _largest(1, most, lambda n: self._fits({path: replace(spot, layers=n)}))

    def _fits(self, changes: Mapping[Path, Offload]) -> bool:
        return self._loads.fits_on_devices(self._place(changes))

    def _place(self, changes: Mapping[Path, Offload]) -> list[Placed]:
        offloads = self.chosen | dict(changes)
        return self._loads.place([offloads[member.header.path] for member in self._loads.members], self._cache)

    def _spots(self) -> list[Offload]:
        """Returns where a model can go: each device, the one with the most room first, then all devices together.

        The offloads do not yet say how many layers.
        """
        loads, wishes = self._loads, self._wishes
        used = loads.used(self._place({}))
        left = {d.name: max(loads.rooms[d.name] - used.get(d.name, 0), 0.0) for d in loads.devices}
        main = None if wishes.main_gpu is None else loads.devices[wishes.main_gpu].name
        names = sorted(left, key=lambda name: (name != main, -left[name]))
        single = [Offload(devices=(name,)) for name in names]
        if len(names) == 1:
            return single
        if wishes.split == "none":
            return single if main is None else single[:1]
        ratios = tuple(left[name] for name in names)
        if not all(0 < ratio < UNBOUNDED for ratio in ratios):
            ratios = (1.0,) * len(names)
        if wishes.split not in (None, "layer", "row"):
            names, ratios = list(left), _ratios(wishes.split or "", len(left))
        spread = Offload(devices=tuple(names), ratios=ratios, rows=wishes.split == "row")
        return [*single, spread] if wishes.split is None else [spread]


def _largest(least: int, most: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest number from `least` to `most` that fits; least - 1 when none does.

    If a number fits, all smaller numbers must fit.
    """
    return bisect_left(range(least, most + 1), True, key=lambda n: not fits(n)) + least - 1


# --- wishes -----------------------------------------------------------------------------------------------------------


def _wanted_devices(machine: Machine, wishes: Wishes) -> list[Device]:
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
        _ratios(wishes.split, len(devices))
    if wishes.main_gpu is not None and devices and not 0 <= wishes.main_gpu < len(devices):
        raise SettingError(f"main_gpu is {wishes.main_gpu}; it must be between 0 and {len(devices) - 1}.")
    return devices


def _ratios(text: str, n_devices: int) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        ratios = ()
    if not ratios or min(ratios) < 0 or not 0 < sum(ratios) < UNBOUNDED:
        raise SettingError(f"split is {text!r}; it must be none, layer, row or a proportion for each device, like 3,1.")
    if n_devices and len(ratios) != n_devices:
        raise SettingError(f"split is {text!r}; it must have a proportion for each of the {n_devices} devices.")
    return ratios


def _wanted_layers(members: Sequence[Member], loads: Loads, wishes: Wishes) -> dict[Path, int | None]:
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


# --- advice -----------------------------------------------------------------------------------------------------------


def _advice(
    loads: Loads, cache: Cache, wishes: Wishes, asked: Mapping[Path, int | None], shortfalls: Sequence[Shortfall]
) -> Iterator[str]:
    def works(changed: Cache = cache, layers: Mapping[Path, int | None] = asked) -> bool:
        return not loads.shortfalls(loads.place(_offloads(loads, changed, wishes, layers), changed))

    if any(asked.values()) and any(short.device is not None for short in shortfalls):
        most = max(sizes.n_layers for sizes in loads.sizes.values())
        n = _largest(0, most, lambda n: works(layers={p: None if a is None else min(a, n) for p, a in asked.items()}))
        if n >= 0:
            yield f"--gpu-layers {n} fits"
    n_ctx = _longest(cache, works)
    if n_ctx:
        yield f"--ctx {n_ctx} fits"
    smaller = next((kind for kind in _smaller_types(loads, cache) if works(replace(cache, kv_type=kind))), None)
    if smaller:
        yield f"--kv-type {smaller} fits"
    elif not n_ctx:
        for kind in _smaller_types(loads, cache):
            if longest := _longest(replace(cache, kv_type=kind), works):
                yield f"--kv-type {kind} --ctx {longest} fits"
    yield "a smaller quantization needs less"


def _longest(cache: Cache, works: Callable[[Cache], bool]) -> int:
    """Returns the longest context below this one that works, a multiple of 256; 0 when even 512 does not."""
    steps = _largest(2, (cache.n_ctx - 1) // 256, lambda n: works(replace(cache, n_ctx=256 * n)))
    return 256 * steps if steps >= 2 else 0


def _smaller_types(loads: Loads, cache: Cache) -> list[str]:
    """Returns the types of the KV cache that take less memory, the largest first.

    q8_0 needs rows of a multiple of 32 values.
    """
    even = all(width % 32 == 0 for sizes in loads.sizes.values() for widths in sizes.keys for width in widths)
    kinds = ["f32", "f16", *(["q8_0"] if even else [])]
    return kinds[kinds.index(cache.kv_type) + 1 :] if cache.kv_type in kinds else []
