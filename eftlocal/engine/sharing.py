"""How the members share the CPU's threads: by their measured speeds, or else by the size of their models."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from eftlocal.engine.placing import Placing
from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime.child.context import ChildContext
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.plan.threads import MOST_ROWS, SINGLE_THREADED, Cost, Split, in_turn, split_threads
from eftlocal.runtime.speeds import Speed, Speeds, measure

__all__ = ["Sharing"]


class Sharing:
    """Says which members decode at the same time, and with how many threads each.

    in_turn  let members decode one after the other, each with all threads; `bench` compares this
    """

    def __init__(
        self, specs: Sequence[MemberSpec], placing: Placing, *, n_threads: int, kv_type: str, speeds: Speeds | None
    ) -> None:
        self.in_turn = False
        self._specs = tuple(specs)
        self._placing = placing
        self._n_threads = n_threads
        self._kv_type = kv_type
        self._remembered = speeds
        self._speeds: dict[int, Speed] = {}
        self._splits: dict[tuple[object, ...], Split] = {}  # key: (member, rows) pairs and in_turn

    def measure(
        self, members: Iterable[int], cache: Callable[[int], Context | ChildContext], *, again: bool = False
    ) -> None:
        """Measure how fast these members decode, if they share threads. `again` also measures known speeds again.

        `cache` makes a KV cache of a member with MOST_ROWS sequences, for measuring in. If a member cannot be measured,
        threads are shared by model size instead.
        """
        here = [member for member in members if self._placing.read(member) > 0]
        heavy = any(self._placing.read(member) >= SINGLE_THREADED for member in here)
        if self._remembered is None or self._n_threads < 2 or len(here) < 2 or not heavy:
            return
        if wanted := [member for member in here if again or member not in self._speeds]:
            self._splits.clear()
        try:
            for member in wanted:
                self._speeds[member] = self._speed(member, cache, self._remembered, again=again)
        except (ModelLoadError, DecodeError):  # no memory for a cache to measure with; decoding may still work
            self._remembered = None
            self._speeds.clear()

    def forget(self) -> None:
        """Forget the speeds of the members where they ran until now. What was saved of them stays."""
        self._speeds.clear()
        self._splits.clear()

    def split(self, tokens: Mapping[int, int]) -> Split:
        """Which members decode when, and with how many threads. `tokens`: member -> how many tokens it decodes."""
        rows = {member: max(1, min(1 << n.bit_length() >> 1, MOST_ROWS)) for member, n in tokens.items()}
        key = (*rows.items(), self.in_turn)
        if key not in self._splits:
            costs = {member: self._cost(member, n) for member, n in rows.items()}
            self._splits[key] = (in_turn if self.in_turn else split_threads)(costs, self._n_threads)
        return self._splits[key]

    def _cost(self, member: int, rows: int) -> Cost:
        speed = self._speeds.get(member)
        read = self._placing.read(member)
        return Cost.estimated(read, rows) if speed is None else speed.cost(rows, self._n_threads)

    def _speed(
        self, member: int, cache: Callable[[int], Context | ChildContext], remembered: Speeds, *, again: bool
    ) -> Speed:
        """A member's speed: remembered, or measured now."""
        name = self._identity(member)
        if not again and (known := remembered.get(name)) is not None:
            return known
        context = cache(member)
        try:
            speed = measure(context, self._n_threads if self._placing.read(member) >= SINGLE_THREADED else 1)
        finally:
            context.close()
        remembered.put(name, speed)
        return speed

    def _identity(self, member: int) -> str:
        """The name under which a member's speed is remembered: all that it depends on, apart from the machine."""
        spec, offload = self._specs[member], self._placing.offload(member)
        parts = [spec.header.path.name, f"{spec.header.path.stat().st_size} bytes", self._kv_type]
        parts += [f"with {spec.lora[0].name}"] if spec.lora is not None else []
        parts += [f"{offload.layers} layers on {', '.join(offload.devices)}"] if offload and offload.layers else []
        return ", ".join(parts)
