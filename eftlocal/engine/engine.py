"""Sequences x members in lockstep: each member's KV cache is brought up to its own prompt plus the common tokens.

There is one operation, `forward`: give me logits for the last n positions of these sequences. The engine compares what
each cache holds with what it should hold, rewinds what differs and feeds what is missing. A new turn of a chat, a
rejected draft, a cancelled prefill and a failed step are all the same case: a cache that holds something else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import accumulate

from eftlocal.arithmetic.combine import Logits, Rows
from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.engine.slots import Known, Request, Slot, rows_of, with_known
from eftlocal.engine.workers import MemberSpec, Workers
from eftlocal.errors import DecodeError
from eftlocal.runtime.llama.context import Cancelled, Feed
from eftlocal.runtime.plan.placement import Plan
from eftlocal.runtime.plan.threads import Split
from eftlocal.runtime.speeds import Speeds

__all__ = ["Cancelled", "Engine", "Known", "Pending", "Request", "Slot"]

FORK_WORTH = 16  # a prefix shorter than this is computed again sooner than it is copied


class Engine(Workers):
    """A crew with slots for sequences. Not thread-safe: one call at a time.

    `seconds`: spent in forward; what a step takes beyond it is ours.
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
        super().__init__(
            specs, n_ctx=n_ctx, n_seq=n_slots, n_threads=n_threads, kv_type=kv_type, plan=plan, speeds=speeds
        )
        self.slots = [Slot(i) for i in range(n_slots)]
        self.seconds = 0.0

    def reserve(self, n_seq: int, n_ctx: int) -> None:
        """Room for `n_seq` sequences of `n_ctx` tokens at least; caches are emptied where they have to grow."""
        if n_seq > len(self.slots) or n_ctx > self.n_ctx:
            super().reserve(n_seq, n_ctx)
            self.slots = [Slot(i) for i in range(n_seq)]

    # --- sequences --------------------------------------------------------------------------------------------------

    def begin(self, prompts: Mapping[int, list[int]]) -> Slot:
        """A free slot for a sequence whose members start from `prompts`, by member: the one that holds most of them,
        and least else.

        Where another slot holds a longer beginning, that is copied instead of computed again.
        """
        self.prepare(prompts)
        free = [s for s in self.slots if s.free]
        slot = max(free, key=lambda s: (_held(s, prompts), -sum(map(len, s.fed.values()))))
        slot.free = False
        slot.begin(prompts)
        self.share(slot)
        return slot

    def share(self, slot: Slot) -> None:
        """Copy what other slots hold of the beginning of this one's prompts, where that is more than it holds."""
        for member in slot.prompts:
            source, shared = self._longest(slot, member)
            if source is not slot:
                kept = self._context(member).fork(source.index, slot.index, shared)
                slot.fed[member], slot.valid[member] = source.fed[member][:kept], kept

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
            slot.length(m) - min(slot.valid[m], self._context(m).held(slot.index), slot.length(m) - 1)
            for m in slot.prompts
        )

    def _longest(self, slot: Slot, member: int) -> tuple[Slot, int]:
        """The slot that holds most of this one's prompt, by enough to be copied, else itself; and how much it holds."""
        context, prompt = self._context(member), slot.prompts[member]
        source, shared = slot, min(slot.valid[member], context.held(slot.index))
        for other in self.slots:
            held = context.held(other.index)
            same = min(common_prefix(other.fed.get(member, []), prompt), held)
            if same >= shared + FORK_WORTH and (same == held or context.model.rewinds):
                source, shared = other, same
        return source, shared

    def move(self, slot: Slot, to: Slot) -> None:
        """Let the sequence of one slot go on in another, which is free."""
        for member in slot.prompts:
            context = self._context(member)
            kept = context.fork(slot.index, to.index, context.held(slot.index))
            # (a sequence that has only begun was fed nothing)
            to.fed[member], to.valid[member] = slot.fed.get(member, [])[:kept], min(slot.valid[member], kept)
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
        self._executor.run(work.split, work.decode)
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
        future = self._executor.start(work.split, work.decode)
        self.seconds += time.perf_counter() - began
        return Pending(self, work, future)

    def _work(self, requests: Sequence[Request], cancelled: Callable[[], bool] | None) -> "_Work":
        members = sorted({member for request in requests for member in request.members})
        self._executor.wait(members)  # an interrupted call may have left them decoding
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
            length = slot.length(member)
            if length > self.n_ctx:
                raise DecodeError(
                    f"{self.specs[member].name}: {length} tokens do not fit in a context of {self.n_ctx}."
                )
            kept = context.rewind(slot.index, min(slot.valid[member], length - (1 if piece else rows)))
            missing = slot.missing(member, kept)
            if piece:
                missing = missing[: min(request.most, len(missing) - 1)]
            slot.fed[member] = slot.fed.get(member, [])
            slot.fed[member][kept:] = missing
            slot.valid[member] = kept
            feeds.append(Feed(slot.index, missing, rows))
        return feeds


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
        self._fed = [{member: len(r.slot.fed[member]) for member in r.members} for r in requests]

    def decode(self, member: int) -> None:
        """In any thread."""
        try:
            self._logits[member] = self._engine._contexts[member].feed(self._feeds[member], self._cancelled)
        except DecodeError as error:
            raise DecodeError(f"{self._engine.specs[member].name}: {error.message}", error.hint) from error

    def found(self) -> dict[int, tuple[Logits, Rows]]:
        """What forward returns, once all members have decoded."""
        for request, fed in zip(self._requests, self._fed, strict=True):
            request.slot.valid.update(fed)
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
    return sum(common_prefix(slot.fed.get(member, []), prompt) for member, prompt in prompts.items())
