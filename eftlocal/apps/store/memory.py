"""Whether an emulator fits in this machine's memory, in a line or a few."""

from dataclasses import dataclass

from eftlocal.catalog import models as catalog
from eftlocal.emulation.members import Members
from eftlocal.runtime import machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import Plan, Wishes, gib

__all__ = ["Memory", "memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """The plan of one emulator at its usual context, on this machine as it is now."""

    plan: Plan

    @property
    def fits(self) -> bool:
        return self.plan.fits

    @property
    def line(self) -> str:
        """What it needs, what there is, and whether that is enough."""
        need = self.plan.total
        rest = need.compute + need.output + need.tokenizer
        parts = f"models {gib(need.weights)}, caches {gib(need.kv)}, the rest {gib(rest)}"
        free = self.plan.machine.free
        room = f"; {gib(free)} of memory are free" if free is not None else ""
        verdict = "it fits" if self.fits else "it DOES NOT FIT"
        where = f" ({' and '.join(['memory', *self.plan.devices])})" if self.plan.devices else ""
        return f"{verdict}{where}: {gib(need.total)} with a context of {self.plan.cache.n_ctx:,} tokens ({parts}){room}"

    @property
    def lacking(self) -> int:
        """Bytes that are needed beyond what can be used."""
        return sum(short.needed - short.usable for short in self.plan.shortfalls)

    @property
    def advice(self) -> tuple[str, ...]:
        """What would fit."""
        return self.plan.advice

    def as_json(self) -> dict[str, object]:
        need = self.plan.total
        return {
            "fits": self.fits,
            "context": self.plan.cache.n_ctx,
            "needed": need.total,
            "weights": need.weights,
            "kv": need.kv,
            "buffers": need.compute + need.output + need.tokenizer,
            "free": self.plan.machine.free,
            "devices": {name: on.total for name, on in self.plan.devices.items()},
            "advice": list(self.advice),
        }


def memory(emulator: catalog.Emulator, members: Members) -> Memory:
    """The plan for an emulator that may be far away still."""
    cache = Cache(members.context(emulator.context))
    return Memory(members.plan(machine.here(), cache, Wishes()))
