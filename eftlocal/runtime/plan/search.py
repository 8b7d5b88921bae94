"""The search for what runs where: how many layers of each model on which devices.

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
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from eftlocal.runtime.plan.loads import CPU, UNBOUNDED, Loads, Member, Offload, Placed
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.wishes import ALL, Wishes, wanted_ratios

__all__ = ["find_offloads", "largest"]

FEW: Final = 10  # a tenth of the layers or less on a device is not worth its buffers


def find_offloads(loads: Loads, cache: Cache, wishes: Wishes, asked: Mapping[Path, int | None]) -> list[Offload]:
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
        return largest(1, most, lambda n: self._fits({path: replace(spot, layers=n)}))

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
            names, ratios = list(left), wanted_ratios(wishes.split or "", len(left))
        spread = Offload(devices=tuple(names), ratios=ratios, rows=wishes.split == "row")
        return [*single, spread] if wishes.split is None else [spread]


def largest(least: int, most: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest number from `least` to `most` that fits; least - 1 when none does.

    If a number fits, all smaller numbers must fit.
    """
    return bisect_left(range(least, most + 1), True, key=lambda n: not fits(n)) + least - 1
