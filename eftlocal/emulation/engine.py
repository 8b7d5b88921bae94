"""Sequences x members in lockstep: each member's KV cache is brought up to its own prompt plus the common tokens.

There is one operation, `forward`: give me logits for the last n positions of these sequences. The engine compares what
each cache holds with what it should hold, rewinds what differs and feeds what is missing. A new turn of a chat, a
rejected draft, a cancelled prefill and a failed step are all the same case: a cache that holds something else.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eftlocal.emulation.combine import Logits, Rows
from eftlocal.errors import DecodeError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.llama import Cancelled, Context, Feed, Model
from eftlocal.runtime.plan.threads import Split, split_threads

__all__ = ["Cancelled", "Engine", "Known", "MemberSpec", "Request", "Slot"]

LIGHT = 32_000_000  # bytes of weights below which threads wait for each other longer than they compute
FORK_WORTH = 16  # a prefix shorter than this is computed again sooner than it is copied


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A model taking part: its file, with an adapter or without."""

    name: str
    header: Header
    lora: tuple[Path, float] | None = None
    gpu_layers: int | None = None


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one sequence in every member's cache: what each should hold, and what it was fed."""

    index: int
    prompts: dict[int, list[int]] = field(default_factory=dict)  # by member: its own rendering of the conversation
    tokens: list[int] = field(default_factory=list)  # what all members have in common after their prompts
    free: bool = True
    _fed: dict[int, list[int]] = field(default_factory=dict)  # by member: what its cache was given, in order
    _same: dict[int, int] = field(default_factory=dict)  # by member: how much of that is known to be what it should be

    def truncate(self, n: int) -> None:
        """Keep the first `n` common tokens; the caches follow at the next forward."""
        del self.tokens[n:]
        for member, prompt in self.prompts.items():
            self._same[member] = min(self._same[member], len(prompt) + n)

    def _begin(self, prompts: Mapping[int, list[int]]) -> None:
        self.prompts, self.tokens = dict(prompts), []
        self._same.update({m: common_prefix(self._fed.get(m, []), prompt) for m, prompt in prompts.items()})

    def _missing(self, member: int, start: int) -> list[int]:
        prompt = self.prompts[member]
        return self.tokens[start - len(prompt) :] if start >= len(prompt) else prompt[start:] + self.tokens

    def _length(self, member: int) -> int:
        return len(self.prompts[member]) + len(self.tokens)


class Known(NamedTuple):
    """Logits that the caller has of one member already: for the first `n` of the positions it will ask for.

    `logits`: (rows or more, n_real or more) float32; forward writes the rows that lack into it.
    """

    member: int
    logits: Logits
    n: int


class Request(NamedTuple):
    """Logits wanted for the last `rows` positions of a slot, from these members."""

    slot: Slot
    rows: int
    members: Sequence[int]
    known: Known | None = None

    def lacking(self, member: int) -> int:
        """How many of the rows have to be computed for `member`: the last ones."""
        return self.rows - (self.known.n if self.known is not None and self.known.member == member else 0)


class Engine:
    """Members and their caches. Models are loaded when they are first needed; weights of one file once.

    `n_ctx`: tokens of one sequence. Not thread-safe: one call at a time.
    """

    def __init__(
        self, specs: Sequence[MemberSpec], *, n_ctx: int, n_threads: int, n_slots: int = 1, kv_type: str = "f16"
    ) -> None:
        self.specs = tuple(specs)
        self.n_ctx = n_ctx
        self.n_threads = n_threads
        self.kv_type = kv_type
        self.slots = [Slot(i) for i in range(n_slots)]
        self._models: dict[Path, Model] = {}
        self._contexts: dict[int, Context] = {}
        self._splits: dict[tuple[int, ...], Split] = {}
        self.in_turn = False  # decode members one after the other, each with all threads: the comparison of `bench`
        self.seconds = 0.0  # spent in forward: what a step takes beyond it is ours
        self._pool = ThreadPoolExecutor(max(1, len(self.specs)), thread_name_prefix="eftlocal-member")
        self._running: list[Future[None]] = []

    # --- members ----------------------------------------------------------------------------------------------------

    def model(self, member: int) -> Model:
        """The member's weights and tokenizer, loaded now if they were not. Raises ModelLoadError."""
        spec = self.specs[member]
        if spec.header.path not in self._models:
            self._models[spec.header.path] = Model(spec.header, gpu_layers=spec.gpu_layers)
        return self._models[spec.header.path]

    @property
    def loaded(self) -> tuple[Model, ...]:
        """The models in memory, each file once."""
        return tuple(self._models.values())

    @property
    def n_fed(self) -> dict[int, int]:
        """Tokens that each running member has decoded so far: what prefix reuse saved does not count."""
        return {member: context.n_fed for member, context in self._contexts.items()}

    def is_eog(self, token: int) -> bool:
        """Whether any loaded member's vocabulary ends a generation at `token`."""
        return any(model.is_eog(token) for model in self._models.values())

    def reserve(self, n_slots: int, n_ctx: int) -> None:
        """Make room for `n_slots` sequences of `n_ctx` tokens; caches are emptied where they have to grow."""
        if n_slots <= len(self.slots) and n_ctx <= self.n_ctx:
            return
        wait(self._running)
        self._close_contexts()
        self.n_ctx = n_ctx
        self.slots = [Slot(i) for i in range(n_slots)]

    def _context(self, member: int) -> Context:
        if member not in self._contexts:
            self._contexts[member] = Context(
                self.model(member),
                n_ctx=self.n_ctx,
                n_seq=len(self.slots),
                n_threads=self.n_threads,
                lora=self.specs[member].lora,
                kv_type=self.kv_type,
            )
        return self._contexts[member]

    def close(self) -> None:
        """Free every cache, then the weights."""
        wait(self._running)
        self._pool.shutdown()
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
        """A free slot for a sequence whose members start from `prompts`, by member: the one that holds most of them.

        Where another slot holds a longer beginning, that is copied instead of computed again.
        """
        slot = max((s for s in self.slots if s.free), key=lambda s: _held(s, prompts))
        slot.free = False
        slot._begin(prompts)
        for member, prompt in prompts.items():
            context = self._context(member)
            source, shared = slot, min(slot._same[member], context.held(slot.index))
            for other in self.slots:
                same = min(common_prefix(other._fed.get(member, []), prompt), context.held(other.index))
                if same >= shared + FORK_WORTH:
                    source, shared = other, same
            if source is not slot:
                kept = context.fork(source.index, slot.index, shared)
                slot._fed[member], slot._same[member] = source._fed[member][:kept], kept
        return slot

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
        wait(self._running)  # an interrupted call may have left members decoding
        starts = [0, *accumulate(request.rows for request in requests)]
        members = tuple(sorted({member for request in requests for member in request.members}))
        feeds = {member: self._feeds(member, requests) for member in members}
        split = self._split(members)
        logits: dict[int, Logits] = {}  # by member; each thread writes its own keys

        def run(lane: Iterable[int]) -> None:
            for member in lane:
                try:
                    logits[member] = self._contexts[member].feed(feeds[member], cancelled)
                except DecodeError as error:
                    raise DecodeError(f"{self.specs[member].name}: {error.message}", error.hint) from error

        lanes = [[members[i] for i in lane] for lane in split.lanes]
        self._running = [self._pool.submit(run, lane) for lane in lanes[1:]]
        try:
            run(lanes[0])
        finally:
            wait(self._running)
        for future in self._running:
            future.result()
        for request in requests:
            request.slot._same.update({member: request.slot._length(member) for member in request.members})
        self.seconds += time.perf_counter() - began
        return {m: (_with_known(m, requests, logits[m]), _rows(m, requests, starts)) for m in members}

    def _feeds(self, member: int, requests: Sequence[Request]) -> list[Feed]:
        """What the member's cache lacks for each request, after a rewind to what it may keep."""
        context, feeds = self._context(member), []
        for request in requests:
            if member not in request.members:
                continue
            slot, rows = request.slot, request.lacking(member)
            length = slot._length(member)
            if length > self.n_ctx:
                raise DecodeError(
                    f"{self.specs[member].name}: {length} tokens do not fit in a context of {self.n_ctx}."
                )
            kept = context.rewind(slot.index, min(slot._same[member], length - rows))
            missing = slot._missing(member, kept)
            slot._fed[member] = slot._fed.get(member, [])
            slot._fed[member][kept:] = missing
            slot._same[member] = kept
            feeds.append(Feed(slot.index, missing, rows))
        return feeds

    def _split(self, members: tuple[int, ...]) -> Split:
        """The lanes of these members, each of which is told its threads."""
        if members not in self._splits:
            self._splits[members] = split_threads([self.specs[m].header.tensor_bytes for m in members], self.n_threads)
        in_turn = Split((tuple(range(len(members))),), (self.n_threads,) * len(members))
        split = in_turn if self.in_turn else self._splits[members]
        for member, threads in zip(members, split.threads, strict=True):
            light = self.specs[member].header.tensor_bytes < LIGHT
            self._contexts[member].set_threads(1 if light else threads)
        return split


def _held(slot: Slot, prompts: Mapping[int, list[int]]) -> int:
    return sum(common_prefix(slot._fed.get(member, []), prompt) for member, prompt in prompts.items())


def _rows(member: int, requests: Sequence[Request], starts: Sequence[int]) -> Rows:
    if all(member in request.members for request in requests):
        return slice(None)
    mine = [np.arange(start, start + r.rows) for start, r in zip(starts, requests, strict=False) if member in r.members]
    return np.concatenate(mine)


def _with_known(member: int, requests: Sequence[Request], computed: Logits) -> Logits:
    """A member's rows of all requests, (rows, at least n_real): those just computed, and those that were known."""
    mine = [request for request in requests if member in request.members]
    if all(request.lacking(member) == request.rows for request in mine):
        return computed
    parts, start = [], 0
    for request in mine:
        lacking = request.lacking(member)
        part = computed[start : start + lacking]
        start += lacking
        if request.known is not None and request.known.member == member:
            buffer = request.known.logits
            buffer[request.known.n : request.rows] = part[:, : buffer.shape[1]]
            part = buffer[: request.rows]
        parts.append(part)
    width = min(part.shape[1] for part in parts)
    return parts[0] if len(parts) == 1 else np.concatenate([part[:, :width] for part in parts])


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens `a` and `b` begin with alike."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
