"""Sequences x members in lockstep: each member's KV cache is brought up to its own prompt plus the common tokens.

There is one operation, `forward`: give me logits for the last n positions of these sequences. The engine compares what
each cache holds with what it should hold, rewinds what differs and feeds what is missing. A new turn of a chat, a
rejected draft, a cancelled prefill and a failed step are all the same case: a cache that holds something else.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from eftlocal.emulation.combine import Logits, Rows
from eftlocal.emulation.lanes import Lanes
from eftlocal.emulation.slots import Known, Request, Slot, common_prefix, rows_of, with_known
from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.llama import Cancelled, Context, Feed, Model
from eftlocal.runtime.plan.placement import Offload, Plan
from eftlocal.runtime.plan.threads import LIGHT, MOST_ROWS, Cost, Split, in_turn, split_threads
from eftlocal.runtime.speeds import Speed, Speeds, measure

__all__ = ["Cancelled", "Engine", "Known", "MemberSpec", "Pending", "Request", "Slot"]

MEASURED = 32  # tokens of a sequence in the caches that speeds are measured with
FORK_WORTH = 16  # a prefix shorter than this is computed again sooner than it is copied


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A model taking part: its file, with an adapter or without."""

    name: str
    header: Header
    lora: tuple[Path, float] | None = None
    gpu_layers: int | None = None  # as the catalogue has it; a plan says where it runs
    model: str = ""  # its name in the catalogue


class Engine:
    """Members and their caches. Models are loaded when they are first needed; weights of one file once.

    `n_ctx`: tokens of one sequence. `plan`: where each member runs; None leaves it to llama.cpp. `notes`: what went
    otherwise than planned, by file. `speeds`: what is remembered of models, by which threads are shared; None goes by
    their weights. Not thread-safe: one call at a time.
    """

    def __init__(
        self,
        specs: Sequence[MemberSpec],
        *,
        n_ctx: int,
        n_threads: int,
        n_slots: int = 1,
        kv_type: str = "f16",
        plan: Plan | None = None,
        speeds: Speeds | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.n_ctx = n_ctx
        self.n_threads = n_threads
        self.kv_type = kv_type
        self.plan = plan
        self.notes: dict[Path, str] = {}
        self.slots = [Slot(i) for i in range(n_slots)]
        self._models: dict[Path, Model] = {}
        self._contexts: dict[int, Context] = {}
        self._splits: dict[tuple[object, ...], Split] = {}  # by members, how much each decodes, and whether in turn
        self.in_turn = False  # decode members one after the other, each with all threads: the comparison of `bench`
        self.seconds = 0.0  # spent in forward: what a step takes beyond it is ours
        self._lanes = Lanes(len(self.specs))
        self._memory = speeds
        self._speeds: dict[int, Speed] = {}  # by member

    # --- members ----------------------------------------------------------------------------------------------------

    def model(self, member: int) -> Model:
        """The member's weights and tokenizer, loaded now if they were not. Raises ModelLoadError."""
        header = self.specs[member].header
        while header.path not in self._models:
            try:
                self._models[header.path] = Model(header, self._offload(member))
            except ModelLoadError as error:
                self._fall_back(member, error)
        return self._models[header.path]

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

    @property
    def loaded(self) -> tuple[Model, ...]:
        """The models in memory, each file once."""
        return tuple(self._models.values())

    @property
    def n_fed(self) -> dict[int, int]:
        """Tokens that each running member has decoded so far: what prefix reuse saved does not count."""
        return {member: context.n_fed for member, context in self._contexts.items()}

    @property
    def n_batch(self) -> int:
        """Tokens that one decode of each member takes."""
        return min((context.n_batch for context in self._contexts.values()), default=0)

    def is_eog(self, token: int) -> bool:
        """Whether any loaded member's vocabulary ends a generation at `token`."""
        return any(model.is_eog(token) for model in self._models.values())

    def reserve(self, n_slots: int, n_ctx: int) -> None:
        """Make room for `n_slots` sequences of `n_ctx` tokens; caches are emptied where they have to grow."""
        if n_slots <= len(self.slots) and n_ctx <= self.n_ctx:
            return
        self._lanes.wait(self._contexts)
        self._close_contexts()
        self.n_ctx = n_ctx
        self.slots = [Slot(i) for i in range(n_slots)]

    def prepare(self, members: Iterable[int]) -> None:
        """Make the caches of all these members. Raises ModelLoadError."""
        wanted = list(members)
        while missing := [m for m in wanted if m not in self._contexts]:  # one that falls back takes its file's with it
            for member in missing:
                self._context(member)
        self.measure(wanted)

    def measure(self, members: Iterable[int], *, anew: bool = False) -> None:
        """Know how fast these members decode, where they have threads to share; `anew`: whatever is remembered.

        Takes about a second of each large model that no memory has. Raises ModelLoadError.
        """
        here = [member for member in members if self._read(member) > 0]
        heavy = any(self._read(member) >= LIGHT for member in here)
        if self._memory is None or self.n_threads < 2 or len(here) < 2 or not heavy:
            return
        if wanted := [member for member in here if anew or member not in self._speeds]:
            self._splits.clear()
        for member in wanted:
            name = self._identity(member)
            if (speed := None if anew else self._memory.get(name)) is None:
                context = self._make(member, n_ctx=MEASURED, n_seq=MOST_ROWS)
                try:
                    speed = measure(context, self.n_threads if self._read(member) >= LIGHT else 1)
                finally:
                    context.close()
                self._memory.put(name, speed)
            self._speeds[member] = speed

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

    def _context(self, member: int) -> Context:
        if member not in self._contexts:
            self._contexts[member] = self._make(member, n_ctx=self.n_ctx, n_seq=len(self.slots))
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

    def _unload(self, path: Path) -> None:
        """Free a file's weights, after the caches that use them; a cache made again is filled again."""
        self._lanes.wait(self._contexts)
        for member in [m for m in self._contexts if self.specs[m].header.path == path]:
            self._contexts.pop(member).close()
        if (model := self._models.pop(path, None)) is not None:
            model.close()

    def close(self) -> None:
        """Free every cache, then the weights."""
        self._lanes.close()
        self._close_contexts()
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _close_contexts(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

    # --- sequences --------------------------------------------------------------------------------------------------

    def begin(self, prompts: Mapping[int, list[int]]) -> Slot:
        """A free slot for a sequence whose members start from `prompts`, by member: the one that holds most of them,
        and least else.

        Where another slot holds a longer beginning, that is copied instead of computed again.
        """
        self.prepare(prompts)
        free = [s for s in self.slots if s.free]
        slot = max(free, key=lambda s: (_held(s, prompts), -sum(map(len, s._fed.values()))))
        slot.free = False
        slot._begin(prompts)
        self.share(slot)
        return slot

    def share(self, slot: Slot) -> None:
        """Copy what other slots hold of the beginning of this one's prompts, where that is more than it holds."""
        for member in slot.prompts:
            source, shared = self._longest(slot, member)
            if source is not slot:
                kept = self._context(member).fork(source.index, slot.index, shared)
                slot._fed[member], slot._same[member] = source._fed[member][:kept], kept

    def will_hold_more(self, slot: Slot, others: Sequence[Slot]) -> bool:
        """Whether one of `others`, once its prompts are fed, has more to copy for this one than any slot has now."""
        for member, prompt in slot.prompts.items():
            coming = max((common_prefix(other.prompts.get(member, []), prompt) for other in others), default=0)
            if coming >= FORK_WORTH and self.model(member).rewinds:
                _, shared = self._longest(slot, member)
                if min(coming, len(prompt) - 1) >= shared + FORK_WORTH:
                    return True
        return False

    def lacking(self, slot: Slot) -> int:
        """How many tokens have to be fed for the slot's first row, by the member that lacks most."""
        return max(
            slot._length(m) - min(slot._same[m], self._context(m).held(slot.index), slot._length(m) - 1)
            for m in slot.prompts
        )

    def _longest(self, slot: Slot, member: int) -> tuple[Slot, int]:
        """The slot that holds most of this one's prompt, by enough to be copied, else itself; and how much it holds."""
        context, prompt = self._context(member), slot.prompts[member]
        source, shared = slot, min(slot._same[member], context.held(slot.index))
        for other in self.slots:
            held = context.held(other.index)
            same = min(common_prefix(other._fed.get(member, []), prompt), held)
            if same >= shared + FORK_WORTH and (same == held or context.model.rewinds):
                source, shared = other, same
        return source, shared

    def move(self, slot: Slot, to: Slot) -> None:
        """Let the sequence of one slot go on in another, which is free."""
        for member in slot.prompts:
            context = self._context(member)
            kept = context.fork(slot.index, to.index, context.held(slot.index))
            to._fed[member], to._same[member] = slot._fed[member][:kept], min(slot._same[member], kept)
        to.prompts, to.tokens, to.free = slot.prompts, slot.tokens, False
        slot.prompts, slot.tokens, slot.free = {}, [], True

    def end(self, slot: Slot) -> None:
        """Give the slot back; what its caches hold stays for a sequence that begins alike."""
        slot.free = True

    def forward(
        self, requests: Sequence[Request], cancelled: Callable[[], bool] | None = None
    ) -> dict[int, tuple[Logits, Rows]]:
        """Each member's logits for the wanted positions, and which of all rows they are.

        Rows are numbered over the requests in their order. The arrays are llama.cpp's own (rows, n_vocab): the next
        forward overwrites them. Raises Cancelled, and DecodeError naming the member that failed; after either, and
        after a KeyboardInterrupt, the next forward puts right what the caches hold.
        """
        began = time.perf_counter()
        work = self._work(requests, cancelled)
        self._lanes.run(work.split, work.decode)
        found = work.found()
        self.seconds += time.perf_counter() - began
        return found

    def start(self, requests: Sequence[Request], cancelled: Callable[[], bool] | None = None) -> "Pending":
        """As forward, but what is decoded meanwhile is the caller's to choose: rows of members that are not asked here.

        Slots may change as well: what is to be decoded was taken from them. The result is to be asked for, and before
        any other call that has one of these members; `seconds` counts what the caller waited.
        """
        began = time.perf_counter()
        work = self._work(requests, cancelled)
        future = self._lanes.start(work.split, work.decode)
        self.seconds += time.perf_counter() - began
        return Pending(self, work, future)

    def _work(self, requests: Sequence[Request], cancelled: Callable[[], bool] | None) -> "_Work":
        members = sorted({member for request in requests for member in request.members})
        self._lanes.wait(members)  # an interrupted call may have left them decoding
        feeds = {member: self._feeds(member, requests) for member in members}
        rows = {member: sum(len(feed.tokens) for feed in own) for member, own in feeds.items()}
        return _Work(self, requests, feeds, self._split(rows), cancelled)

    def _feeds(self, member: int, requests: Sequence[Request]) -> list[Feed]:
        """What the member's cache lacks for each request, after a rewind to what it may keep."""
        context, feeds = self._context(member), []
        for request in requests:
            if member not in request.members:
                continue
            slot, rows, piece = request.slot, request.lacking(member), request.rows == 0
            length = slot._length(member)
            if length > self.n_ctx:
                raise DecodeError(
                    f"{self.specs[member].name}: {length} tokens do not fit in a context of {self.n_ctx}."
                )
            kept = context.rewind(slot.index, min(slot._same[member], length - (1 if piece else rows)))
            missing = slot._missing(member, kept)
            if piece:
                missing = missing[: min(request.most, len(missing) - 1)]
            slot._fed[member] = slot._fed.get(member, [])
            slot._fed[member][kept:] = missing
            slot._same[member] = kept
            feeds.append(Feed(slot.index, missing, rows))
        return feeds

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


class _Work:
    """The decodes of one step: what each member is fed, and what comes of it."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Request],
        feeds: Mapping[int, list[Feed]],
        split: Split,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.split = split
        self._engine = engine
        self._requests = requests
        self._feeds = feeds
        self._cancelled = cancelled
        self._logits: dict[int, Logits] = {}  # by member; each thread writes its own keys
        self._fed = [{member: len(r.slot._fed[member]) for member in r.members} for r in requests]

    def decode(self, member: int) -> None:
        """In any thread."""
        try:
            self._logits[member] = self._engine._contexts[member].feed(self._feeds[member], self._cancelled)
        except DecodeError as error:
            raise DecodeError(f"{self._engine.specs[member].name}: {error.message}", error.hint) from error

    def found(self) -> dict[int, tuple[Logits, Rows]]:
        """What forward returns, once all members have decoded."""
        for request, fed in zip(self._requests, self._fed, strict=True):
            request.slot._same.update(fed)
        starts = [0, *accumulate(request.rows for request in self._requests)]
        return {
            m: (with_known(m, self._requests, z), rows_of(m, self._requests, starts)) for m, z in self._logits.items()
        }


class Pending:
    """Decodes that go on in other threads."""

    def __init__(self, engine: Engine, work: _Work, future: Future[None]) -> None:
        self._engine = engine
        self._work = work
        self._future = future

    @property
    def done(self) -> bool:
        """Whether the result need not be waited for."""
        return self._future.done()

    def result(self) -> dict[int, tuple[Logits, Rows]]:
        """What forward would have returned, or raised."""
        began = time.perf_counter()
        try:
            self._future.result()
        finally:
            self._engine.seconds += time.perf_counter() - began
        return self._work.found()


def _held(slot: Slot, prompts: Mapping[int, list[int]]) -> int:
    return sum(common_prefix(slot._fed.get(member, []), prompt) for member, prompt in prompts.items())
