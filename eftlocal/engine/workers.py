"""Members at work: their weights and caches, made when they are first needed, and the threads they decode with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eftlocal.engine.executor import Executor
from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.placement import Offload, Plan
from eftlocal.runtime.plan.threads import MOST_ROWS, SINGLE_THREADED, Cost, Split, in_turn, split_threads
from eftlocal.runtime.speeds import Speed, Speeds, measure

__all__ = ["MemberSpec", "Workers"]

MEASURED = 32  # tokens of a sequence in the caches that speeds are measured with


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A model taking part: its file, with an adapter or without."""

    name: str
    header: Header
    lora: tuple[Path, float] | None = None
    gpu_layers: int | None = None  # as the catalogue has it; a plan says where it runs
    model: str = ""  # its name in the catalogue


class Workers:
    """The members of an emulator; weights of one file are loaded once.

    `n_ctx`: tokens of one of `n_seq` sequences. `plan`: where each member runs; None leaves it to llama.cpp. `notes`:
    what went otherwise than planned, by file. `speeds`: what is remembered of models, by which threads are shared; None
    goes by their weights. `in_turn`: members decode one after the other, each with all threads: what `bench` compares.
    """

    def __init__(
        self,
        specs: Sequence[MemberSpec],
        *,
        n_ctx: int,
        n_seq: int,
        n_threads: int,
        kv_type: str = "f16",
        plan: Plan | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.n_ctx = n_ctx
        self.n_seq = n_seq
        self.n_threads = n_threads
        self.kv_type = kv_type
        self.plan = plan
        self.notes: dict[Path, str] = {}
        self.in_turn = False
        self._executor = Executor(len(self.specs))
        self._models: dict[Path, Model] = {}
        self._contexts: dict[int, Context] = {}
        self._ends: dict[int, bool] = {}  # of the tokens that were asked for: a token passes here at every step
        self._memory = speeds
        self._speeds: dict[int, Speed] = {}  # by member
        self._splits: dict[tuple[object, ...], Split] = {}  # by members, how much each decodes, and whether in turn

    # --- weights ----------------------------------------------------------------------------------------------------

    def model(self, member: int) -> Model:
        """The member's weights and tokenizer, loaded now if they were not. Raises ModelLoadError."""
        header = self.specs[member].header
        while header.path not in self._models:
            try:
                self._models[header.path] = Model(header, self._offload(member))
                self._ends.clear()
            except ModelLoadError as error:
                self._fall_back(member, error)
        return self._models[header.path]

    @property
    def loaded(self) -> tuple[Model, ...]:
        """The models in memory, each file once."""
        return tuple(self._models.values())

    def is_eog(self, token: int) -> bool:
        """Whether any loaded member's vocabulary ends a generation at `token`."""
        if (known := self._ends.get(token)) is None:
            known = self._ends[token] = any(model.is_eog(token) for model in self._models.values())
        return known

    def _offload(self, member: int) -> Offload | None:
        return None if self.plan is None else self.plan.members[member].offload

    def _fall_back(self, member: int, error: ModelLoadError) -> None:
        """Plan half the layers on devices for the member's file; `error`, why not all of them, where there are none."""
        offload, spec = self._offload(member), self.specs[member]
        if self.plan is None or offload is None or not offload.layers:
            raise error
        path, fewer = spec.header.path, offload.halved()
        self.plan = self.plan.moved(path, fewer)
        self._splits.clear()
        self._speeds.clear()
        rest = f"{fewer.layers} are there, and the rest is on the CPU" if fewer.layers else "it runs on the CPU"
        reason = error.message.rpartition(": ")[2]
        self.notes[path] = f"{spec.model or spec.name} did not load as planned on a device ({reason}): {rest}"

    def _unload(self, path: Path) -> None:
        """Free a file's weights, after the caches that use them; a cache made again is filled again."""
        self._executor.wait(self._contexts)
        for member in [m for m in self._contexts if self.specs[m].header.path == path]:
            self._contexts.pop(member).close()
        if (model := self._models.pop(path, None)) is not None:
            model.close()

    # --- caches -----------------------------------------------------------------------------------------------------

    @property
    def n_fed(self) -> dict[int, int]:
        """Tokens that each running member has decoded so far: what prefix reuse saved does not count."""
        return {member: context.n_fed for member, context in self._contexts.items()}

    @property
    def n_batch(self) -> int:
        """Tokens that one decode of each member takes."""
        return min((context.n_batch for context in self._contexts.values()), default=0)

    def prepare(self, members: Iterable[int]) -> None:
        """Make the caches of all these members. Raises ModelLoadError."""
        wanted = list(members)
        while missing := [m for m in wanted if m not in self._contexts]:  # one that falls back takes its file's with it
            for member in missing:
                self._context(member)
        self.measure(wanted)

    def reserve(self, n_seq: int, n_ctx: int) -> None:
        """Make room for `n_seq` sequences of `n_ctx` tokens, in caches that are made anew."""
        self._executor.wait(self._contexts)
        self._close_contexts()
        self.n_ctx, self.n_seq = n_ctx, n_seq

    def _context(self, member: int) -> Context:
        if member not in self._contexts:
            self._contexts[member] = self._make(member, n_ctx=self.n_ctx, n_seq=self.n_seq)
        return self._contexts[member]

    def _make(self, member: int, *, n_ctx: int, n_seq: int) -> Context:
        """A cache of the member, which falls back to fewer layers on devices until there is one."""
        while True:
            try:
                return Context(
                    self.model(member),
                    n_ctx=n_ctx,
                    n_seq=n_seq,
                    n_threads=self.n_threads,
                    lora=self.specs[member].lora,
                    kv_type=self.kv_type,
                )
            except ModelLoadError as error:
                self._fall_back(member, error)
                self._unload(self.specs[member].header.path)

    def close(self) -> None:
        """Free every cache, then the weights."""
        self._executor.close()
        self._close_contexts()
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _close_contexts(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    # --- threads ----------------------------------------------------------------------------------------------------

    def measure(self, members: Iterable[int], *, anew: bool = False) -> None:
        """Know how fast these members decode, where they have threads to share; `anew`: whatever is remembered.

        Takes about a second of each large model that no memory has. What cannot be measured is done without.
        """
        here = [member for member in members if self._read(member) > 0]
        heavy = any(self._read(member) >= SINGLE_THREADED for member in here)
        if self._memory is None or self.n_threads < 2 or len(here) < 2 or not heavy:
            return
        if wanted := [member for member in here if anew or member not in self._speeds]:
            self._splits.clear()
        try:
            for member in wanted:
                self._speeds[member] = self._speed(member, self._memory, anew=anew)
        except (ModelLoadError, DecodeError):  # no room for its caches: what is in use may have room all the same
            self._memory = None
            self._speeds.clear()

    def _speed(self, member: int, memory: Speeds, *, anew: bool) -> Speed:
        """A member's speed: as remembered, or measured now in a small cache of its own."""
        name = self._identity(member)
        if not anew and (known := memory.get(name)) is not None:
            return known
        context = self._make(member, n_ctx=MEASURED, n_seq=MOST_ROWS)
        try:
            speed = measure(context, self.n_threads if self._read(member) >= SINGLE_THREADED else 1)
        finally:
            context.close()
        memory.put(name, speed)
        return speed

    def _split(self, rows: Mapping[int, int]) -> Split:
        """Who of these members decodes when, each of which is told its threads. `rows`: what each decodes."""
        about = {member: max(1, min(1 << n.bit_length() >> 1, MOST_ROWS)) for member, n in rows.items()}
        key = (*about.items(), self.in_turn)
        if key not in self._splits:
            costs = {member: self._cost(member, n) for member, n in about.items()}
            self._splits[key] = (in_turn if self.in_turn else split_threads)(costs, self.n_threads)
        split = self._splits[key]
        for member, threads in split.threads.items():
            self._contexts[member].set_threads(threads)
        return split

    def _cost(self, member: int, rows: int) -> Cost:
        speed = self._speeds.get(member)
        return Cost.estimated(self._read(member), rows) if speed is None else speed.cost(rows, self.n_threads)

    def apart(self, member: int, others: Iterable[int]) -> bool:
        """Whether a member decodes where none of the others does: on a device of its own, or alone on the CPU."""
        return self._places(member).isdisjoint(place for other in others for place in self._places(other))

    def _places(self, member: int) -> set[str]:
        offload = self._offload(member)
        devices = set(offload.devices) if offload is not None and offload.layers else set()
        return devices | ({"CPU"} if self._read(member) > 0 else set())

    def _read(self, member: int) -> int:
        """Bytes of weights that the CPU reads for a token of a member."""
        return self.plan.members[member].read if self.plan else self.specs[member].header.tensor_bytes

    def _identity(self, member: int) -> str:
        """What a member's speed depends on, the machine apart."""
        spec, offload = self.specs[member], self._offload(member)
        parts = [spec.header.path.name, f"{spec.header.path.stat().st_size} bytes", self.kv_type]
        parts += [f"with {spec.lora[0].name}"] if spec.lora is not None else []
        parts += [f"{offload.layers} layers on {', '.join(offload.devices)}"] if offload and offload.layers else []
        return ", ".join(parts)
