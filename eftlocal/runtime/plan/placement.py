"""What fits, and which member runs where: a pure function over headers and a described machine.

Rules: everything on one device where it fits; else whole members, the base first and then by what a token reads, each
on the device with the most room or, if none holds it, split by layers over all; what still does not fit whole puts as
many layers on devices as there is room for; the rest runs on the CPU. Files are loaded once, whoever shares them.
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

ALL: Final = 1 << 20  # layers: more than any model has
FEW: Final = 10  # a tenth of the layers or less on a device is not worth its buffers


# --- what goes in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asked for; None is: as it fits best.

    gpu_layers  layers on devices, of every model or by name; negative is all
    device      "none" for the CPU alone, or names of devices with commas between
    main_gpu    which of the devices, by number, is filled first (and alone, without a split)
    split       none (each model on one device), layer, row, or proportions as "3,1"
    """

    gpu_layers: int | Mapping[str, int] | None = None
    device: str | None = None
    main_gpu: int | None = None
    split: str | None = None


# --- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Who runs where, and whether it fits; members in the order they were given.

    advice: what would fit, best first, as phrases that go on one line.
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
        """What all members need of the host's memory; devices that share it not counted."""
        return Need.sum(placed.host for placed in self.members)

    @property
    def devices(self) -> Mapping[str, Need]:
        """What all members need of each device that is used."""
        names = dict.fromkeys(name for placed in self.members for name in placed.devices)
        return {n: Need.sum(p.devices[n] for p in self.members if n in p.devices) for n in names}

    @property
    def total(self) -> Need:
        return self.host + Need.sum(self.devices.values())

    def sequences_that_fit(self, most: int) -> int:
        """How many sequences there is room for, once the models are where this plan puts them; at least 1."""
        offloads = [placed.offload for placed in self.members]

        def fits(n: int) -> bool:
            return not self._loads.shortfalls(self._loads.place(offloads, replace(self.cache, n_seq=n)))

        return max(_largest(1, most, fits), 1)

    def moved(self, path: Path, offload: Offload) -> "Plan":
        """This plan with one file placed otherwise; whether it fits is not asked again."""
        offloads = [offload if placed.member.header.path == path else placed.offload for placed in self.members]
        return replace(self, members=tuple(self._loads.place(offloads, self.cache)))

    def error(self, name: str) -> FitError:
        """Why the emulator `name` does not fit, and the ways out."""
        problems = " and ".join(_problem(short, self) for short in self.shortfalls)
        hint = "; ".join((*self.advice, "--force loads it anyway"))
        return FitError(f"{name} does not fit: it needs {problems}.", f"{hint[:1].upper()}{hint[1:]}.")


def _problem(short: Shortfall, made: Plan) -> str:
    needed, usable = gib(short.needed), gib(short.usable)
    if short.device is not None:
        return f"{needed} on {short.device}, where {usable} can be used"
    need = made.total if all(_shares(made.machine, name) for name in made.devices) else made.host
    buffers = need.compute + need.output + need.tokenizer
    parts = f"models {gib(need.weights)}, caches {gib(need.kv)}, buffers {gib(buffers)}"
    limit = ""
    if made.machine.limited_by:
        limit = f" under {made.machine.limited_by} of {gib(made.machine.memory)}"
    return f"{needed} of memory ({parts}), and {usable} can be used{limit}"


def gib(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.0f} MiB"


def _shares(machine: Machine, name: str) -> bool:
    return any(device.shares_memory for device in machine.devices if device.name == name)


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan(members: Sequence[Member], machine: Machine, cache: Cache, wishes: Wishes = Wishes()) -> Plan:
    """Place `members` (the base first) on `machine`. Raises SettingError for a wish that names what is not there."""
    devices = _wanted_devices(machine, wishes)
    loads = Loads(members, machine, devices)
    asked = _wanted_layers(members, loads, wishes)
    offloads = _offloads(loads, cache, wishes, asked)
    placed = loads.place(offloads, cache)
    shortfalls = loads.shortfalls(placed)
    advice = tuple(_advice(loads, cache, wishes, asked, shortfalls)) if shortfalls else ()
    return Plan(members=tuple(placed), machine=machine, cache=cache, shortfalls=shortfalls, advice=advice, _loads=loads)


# --- who goes where ---------------------------------------------------------------------------------------------------


def _offloads(loads: Loads, cache: Cache, wishes: Wishes, asked: Mapping[Path, int | None]) -> list[Offload]:
    """An offload for each member, by the rules at the top."""
    search = _Search(loads, cache, wishes)
    wanted = {
        path: min(ALL if asked[path] is None else asked[path] or 0, s.n_layers) for path, s in loads.sizes.items()
    }
    order = [path for path in _order(loads) if wanted[path] > 0]
    if loads.devices and not search.take_together({path: wanted[path] for path in order}):
        left = [path for path in order if not search.take_whole(path, wanted[path])]
        for path in left:
            search.take_part(path, wanted[path], asked=asked[path] is not None)
    return [search.chosen[member.header.path] for member in loads.members]


def _order(loads: Loads) -> list[Path]:
    """The files as they are placed: the base's, then by what a token reads."""
    base = loads.members[0].header.path if loads.members else None
    return sorted(loads.sizes, key=lambda path: (path != base, -loads.sizes[path].read))


class _Search:
    """Offloads by file that were chosen so far, and what can still be chosen."""

    def __init__(self, loads: Loads, cache: Cache, wishes: Wishes) -> None:
        self._loads, self._cache, self._wishes = loads, cache, wishes
        self.chosen: dict[Path, Offload] = dict.fromkeys(loads.sizes, CPU)

    def take_together(self, layers: Mapping[Path, int]) -> bool:
        """Put all files on one device, where there is one that holds them."""
        for spot in self._spots():
            if len(spot.devices) > 1 and self._wishes.split is None:
                continue  # a device for each model is better than every model over all devices
            together = {path: replace(spot, layers=n) for path, n in layers.items()}
            if self._fits(together):
                self.chosen |= together
                return True
        return False

    def take_whole(self, path: Path, layers: int) -> bool:
        """Put one file on the first spot that holds it."""
        for spot in self._spots():
            if self._fits({path: replace(spot, layers=layers)}):
                self.chosen[path] = replace(spot, layers=layers)
                return True
        return False

    def take_part(self, path: Path, layers: int, *, asked: bool) -> None:
        """Put as many layers on devices as fit; those that were asked for in any case: it will be said."""
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
        """Where a model can go (without its layers): each device, the roomiest first, then all of them together."""
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
    """The largest number of `least` to `most` that fits, where more never fits better; least - 1 where none does."""
    return bisect_left(range(least, most + 1), True, key=lambda n: not fits(n)) + least - 1


# --- wishes -----------------------------------------------------------------------------------------------------------


def _wanted_devices(machine: Machine, wishes: Wishes) -> list[Device]:
    """The devices to use. Integrated ones stand back where there are others, as in llama.cpp."""
    able = [device for device in machine.devices if device.kind != "accel"]
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
        raise SettingError(f"split is {text!r}; it must be none, layer, row or a proportion for each device, as 3,1.")
    if n_devices and len(ratios) != n_devices:
        raise SettingError(f"split is {text!r}; it must have a proportion for each of the {n_devices} devices.")
    return ratios


def _wanted_layers(members: Sequence[Member], loads: Loads, wishes: Wishes) -> dict[Path, int | None]:
    """The layers that were asked for, by file; None is: as many as fit."""
    by_name = wishes.gpu_layers if isinstance(wishes.gpu_layers, Mapping) else {}
    names = list(dict.fromkeys(name for member in members for name in member.names))
    if unknown := [name for name in by_name if name not in names]:
        raise SettingError(f"There is no role or model named {unknown[0]!r}.", f"Names: {', '.join(names)}.")
    asked: dict[Path, int | None] = dict.fromkeys(loads.sizes)
    for member in members:
        given = [by_name[name] for name in member.names if name in by_name]
        number = wishes.gpu_layers if isinstance(wishes.gpu_layers, int) else member.gpu_layers
        if (layers := given[0] if given else number) is not None:
            before, layers = asked[member.header.path], ALL if layers < 0 else layers
            asked[member.header.path] = layers if before is None else min(before, layers)
    return asked


# --- ways out ---------------------------------------------------------------------------------------------------------


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
    """The longest context below this one that works, a multiple of 256; 0 where even 512 does not."""
    steps = _largest(2, (cache.n_ctx - 1) // 256, lambda n: works(replace(cache, n_ctx=256 * n)))
    return 256 * steps if steps >= 2 else 0


def _smaller_types(loads: Loads, cache: Cache) -> list[str]:
    """Types of the cache that take less, the largest first; q8_0 needs rows of a multiple of 32."""
    even = all(width % 32 == 0 for sizes in loads.sizes.values() for widths in sizes.keys for width in widths)
    kinds = ["f32", "f16", *(["q8_0"] if even else [])]
    return kinds[kinds.index(cache.kv_type) + 1 :] if cache.kv_type in kinds else []
