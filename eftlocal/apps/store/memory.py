"""Says whether an emulator fits in this machine's memory, for `show` and `pull`."""

from dataclasses import dataclass

from eftlocal.catalog import models as catalog
from eftlocal.emulation.members import Members
from eftlocal.runtime import machine
from eftlocal.runtime.plan.memory import Cache, Need
from eftlocal.runtime.plan.placement import Plan, gib
from eftlocal.runtime.plan.wishes import Wishes

__all__ = ["Memory", "memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory plan of one emulator with its configured context, on this machine as it is now."""

    name: str
    plan: Plan

    @property
    def fits(self) -> bool:
        return self.plan.fits

    @property
    def line(self) -> str:
        """One line: whether it fits, how much memory it needs, and how much is free.

        Workers are not asked: what lies on them is said apart.
        """
        kinds = {device.name: device.kind for device in self.plan.machine.devices}
        there = {name: need for name, need in self.plan.devices.items() if kinds.get(name) == "rpc"}
        here = [name for name in self.plan.devices if name not in there]
        need = self.plan.host + Need.sum(self.plan.devices[name] for name in here)
        buffers = need.compute + need.output + need.tokenizer
        parts = f"models {gib(need.weights)}, KV caches {gib(need.kv)}, buffers {gib(buffers)}"
        free = self.plan.machine.free
        room = f"; {gib(free)} of memory are free" if free is not None else ""
        verdict = "it fits" if self.fits else "it DOES NOT FIT"
        where = f" ({' and '.join(['memory', *here])})" if here else ""
        if there:
            verdict = "what lies here fits" if self.fits else "what lies here DOES NOT FIT"
            elsewhere = f"{gib(Need.sum(there.values()).total)} on {' and '.join(there)}"
            room += f"; {elsewhere}, whose memory `eftlocal doctor {self.name}` asks for"
        return f"{verdict}{where}: {gib(need.total)} with a context of {self.plan.cache.n_ctx:,} tokens ({parts}){room}"

    @property
    def lacking(self) -> int:
        """How many bytes are needed but not available."""
        return sum(short.needed - short.usable for short in self.plan.shortfalls)

    @property
    def advice(self) -> tuple[str, ...]:
        """Changes with which the emulator would fit, a line each."""
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
    """The memory plan of an emulator, from its models' headers; the models need not be downloaded."""
    cache = Cache(members.context(emulator.context))
    return Memory(emulator.name, members.plan(machine.here(), cache, Wishes()))
