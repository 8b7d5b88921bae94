"""Where the members run: as the plan says, or with fewer layers on a device that turned out too small."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import ModelLoadError
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.placement import Plan

__all__ = ["Placing"]


class Placing:
    """The plan, kept true to what could be loaded. Members are named by their index in `specs`.

    plan   where each member runs; None leaves it to llama.cpp
    notes  file -> what did not go as planned when it was loaded
    """

    def __init__(self, specs: Sequence[MemberSpec], plan: Plan | None) -> None:
        self.plan = plan
        self.notes: dict[Path, str] = {}
        self._specs = tuple(specs)

    def offload(self, member: int) -> Offload | None:
        """The layers that the member has on devices; None without a plan."""
        return None if self.plan is None else self.plan.members[member].offload

    def read(self, member: int) -> int:
        """Bytes of weights that the CPU reads when the member decodes a token."""
        return self.plan.members[member].read if self.plan else self._specs[member].header.tensor_bytes

    def apart(self, member: int, others: Iterable[int]) -> bool:
        """Whether none of the others runs where this member runs, on the same device or on the CPU."""
        return self._places(member).isdisjoint(place for other in others for place in self._places(other))

    def fall_back(self, member: int, error: ModelLoadError) -> None:
        """Plan half as many layers of the member's file on devices. Raises `error` if there are none on devices.

        Layers on workers stay there: this machine may have no memory for them, and the plan did not count any.
        """
        offload, spec = self.offload(member), self._specs[member]
        if self.plan is None or offload is None or not offload.layers or spec.rpc:
            raise error
        path, fewer = spec.header.path, offload.halved()
        self.plan = self.plan.moved(path, fewer)
        rest = f"{fewer.layers} of its layers run there, the rest on the CPU" if fewer.layers else "it runs on the CPU"
        reason = error.message.rpartition(": ")[2]
        self.notes[path] = f"{spec.model or spec.name} did not load as planned on a device ({reason}): {rest}"

    def _places(self, member: int) -> set[str]:
        """The devices on which a member runs, "CPU" included."""
        offload = self.offload(member)
        devices = set(offload.devices) if offload is not None and offload.layers else set()
        return devices | ({"CPU"} if self.read(member) > 0 else set())
