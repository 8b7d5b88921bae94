"""The engine: sequences x members in lockstep. Each KV cache follows its member's prompt plus the common tokens.

Its one operation is `forward`: it returns logits for the last n positions of some sequences. The engine compares what
each cache holds with what it should hold, rewinds what differs and feeds what is missing. So a new turn of a chat, a
rejected draft, a cancelled prefill and a failed step are one case: the cache holds other tokens than it should.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from itertools import accumulate

from eftlocal.arithmetic.arrays import Logits, Rows
from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.engine.slots import Request, Slot, rows_of, with_known
from eftlocal.engine.workers import Feeds, Workers
from eftlocal.errors import DecodeError
from eftlocal.runtime.feed import Feed

__all__ = ["Engine", "Pending", "not_finished"]

FORK_WORTH = 16  # tokens; computing a shorter prefix again is faster than copying it


class Engine:
    """Holds sequences in slots, and decodes them with the members' workers. Not thread-safe: make one call at a time.

    `seconds` is the total time that callers waited for decodes.
    """

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.slots = [Slot(i) for i in range(workers.n_seq)]
        self.seconds = 0.0

    @property
    def n_ctx(self) -> int:
        """The most tokens of one sequence."""
        return self.workers.n_ctx

    def reserve(self, n_seq: int, n_ctx: int) -> None:
        """Make room for at least `n_seq` sequences of `n_ctx` tokens. Caches that have to grow keep what they hold.

        Raises DecodeError where they have to grow while a sequence is running, and ModelLoadError.
        """
        if n_seq > len(self.slots) or n_ctx > self.n_ctx:
            if not all(slot.free for slot in self.slots):
                raise not_finished()
            n_seq, n_ctx = max(n_seq, len(self.slots)), max(n_ctx, self.n_ctx)
            self.workers.resize(n_ctx=n_ctx, n_seq=n_seq)
            self.slots += [Slot(i) for i in range(len(self.slots), n_seq)]

    def close(self) -> None:
        """Free the models and their KV caches."""
        self.workers.close()

    # --- sequences --------------------------------------------------------------------------------------------------

    def begin(self, prompts: Mapping[int, list[int]], *, fresh: bool = False) -> Slot:
        """Start a sequence in a free slot; there must be one. `prompts`: member -> its token ids.

        The engine takes the slot whose caches hold most of the prompts, and among equal ones the least other tokens. If
        another slot holds a longer beginning, it is copied. A `fresh` sequence uses no cache: all its tokens are fed,
        in the slot that holds the least. Raises ModelLoadError.
        """
        self.workers.prepare(prompts)
        free = [s for s in self.slots if s.free]
        if not free:
            raise not_finished()
        slot = max(free, key=lambda s: (not fresh and _held(s, prompts), -sum(map(len, s.fed.values()))))
        slot.begin(prompts)
        if fresh:
            slot.valid.update(dict.fromkeys(prompts, 0))
        else:
            self.share(slot)
        slot.free = False  # last: what is interrupted before has taken no slot
        return slot

    def forget(self) -> None:
        """Use nothing that the caches of free slots hold: what follows is computed as if it were the first."""
        for slot in self.slots:
            if slot.free:
                slot.fed.update((member, []) for member in slot.fed)
                slot.valid.update(dict.fromkeys(slot.valid, 0))

    def share(self, slot: Slot) -> None:
        """Copy the beginning of this slot's prompts from another slot that holds more of it."""
        for member in slot.prompts:
            source, shared = self._longest(slot, member)
            if source is not slot:
                slot.fed[member], slot.valid[member] = [], 0  # until the copy is done: it may be interrupted
                kept = self.workers.context(member).fork(source.index, slot.index, shared)
                slot.fed[member], slot.valid[member] = source.fed[member][:kept], kept

    def will_hold_more(self, slot: Slot, others: Sequence[Slot]) -> bool:
        """Whether one of `others` will hold more of this slot's prompts than any slot now, when its own are fed."""
        for member, prompt in slot.prompts.items():
            coming = max((common_prefix(other.prompts.get(member, []), prompt) for other in others), default=0)
            if coming >= FORK_WORTH and self.workers.model(member).rewinds:
                _, shared = self._longest(slot, member)
                if min(coming, len(prompt) - 1) >= shared + FORK_WORTH:
                    return True
        return False

    def n_to_feed(self, slot: Slot) -> int:
        """How many tokens must be fed before the slot has logits, for the member that needs the most."""
        return max(
            slot.length(m) - min(slot.valid[m], self.workers.context(m).held(slot.index), slot.length(m) - 1)
            for m in slot.prompts
        )

    def _longest(self, slot: Slot, member: int) -> tuple[Slot, int]:
        """The slot that holds most of this prompt (itself if a copy is not worth it), and how many tokens it holds."""
        context, prompt = self.workers.context(member), slot.prompts[member]
        source, shared = slot, min(slot.valid[member], context.held(slot.index))
        for other in self.slots:
            held = context.held(other.index)
            alike = min(common_prefix(other.fed.get(member, []), prompt), held)
            if alike >= shared + FORK_WORTH and (alike == held or context.rewinds):
                source, shared = other, alike
        return source, shared

    def move(self, slot: Slot, to: Slot) -> None:
        """Move a sequence to another slot, which must be free."""
        for member in slot.prompts:
            context = self.workers.context(member)
            to.fed[member], to.valid[member] = [], 0  # until the copy is done: it may be interrupted
            kept = context.fork(slot.index, to.index, context.held(slot.index))
            # a sequence that has just begun was fed nothing
            to.fed[member], to.valid[member] = slot.fed.get(member, [])[:kept], min(slot.valid[member], kept)
        to.prompts, to.tokens, to.free = slot.prompts, slot.tokens, False
        slot.prompts, slot.tokens, slot.free = {}, [], True

    def end(self, slot: Slot) -> None:
        """Free the slot. Its caches keep their tokens for a later sequence that begins in the same way."""
        self.workers.expect_nothing(slot.index)
        slot.free = True

    # --- decoding ---------------------------------------------------------------------------------------------------

    def forward(self, requests: Sequence[Request]) -> dict[int, tuple[Logits, Rows]]:
        """Decode. Returns member -> (logits for the requested positions, which of all rows they are).

        Rows are numbered over all requests, in their order. The logits are (rows, n_vocab), in llama.cpp's own memory:
        the next forward overwrites them. Raises DecodeError with the name of the member that failed. After an error or
        a KeyboardInterrupt, the next forward corrects the caches.
        """
        began = time.perf_counter()
        work = _Work(requests, self._feeds(requests))
        self.workers.decode(work.feeds, work.logits)
        found = work.found()
        self.seconds += time.perf_counter() - began
        return found

    def start(self, requests: Sequence[Request]) -> "Pending":
        """As forward, but in other threads. Meanwhile the caller may call `forward` for members that it does not use.

        Slots may change in the meantime. Take the result before any other call that uses one of these members.
        `seconds` counts only the time that the caller waits.
        """
        began = time.perf_counter()
        work = _Work(requests, self._feeds(requests))
        future = self.workers.start(work.feeds, work.logits)
        self.seconds += time.perf_counter() - began
        return Pending(self, work, future)

    def more(self, slot: Slot, member: int, tokens: Sequence[int], known: int) -> Logits | None:
        """The member's row after its prompt and `tokens`, with more tokens known than `known` (context.py).

        Raises DecodeError.
        """
        began = time.perf_counter()
        try:
            return self.workers.more(member, slot.index, [*slot.prompts[member], *tokens], known)
        finally:
            self.seconds += time.perf_counter() - began

    def _feeds(self, requests: Sequence[Request]) -> Feeds:
        members = sorted({member for request in requests for member in request.members})
        self.workers.wait(members)
        return {member: self._feed(member, requests) for member in members}

    def _feed(self, member: int, requests: Sequence[Request]) -> list[Feed]:
        """Rewind the member's cache for each request, and return the tokens that it has to be fed."""
        context, feeds = self.workers.context(member), []
        for request in requests:
            if member not in request.members:
                continue
            slot, rows, chunk = request.slot, request.unknown(member), request.most > 0
            length = slot.length(member)
            if length > self.n_ctx:
                raise DecodeError(
                    f"{self.workers.specs[member].name}: {length} tokens do not fit in a context of {self.n_ctx}."
                )
            kept = context.rewind(slot.index, min(slot.valid[member], length - (1 if chunk else rows)))
            missing = slot.tokens_after(member, kept)
            if chunk:
                if not rows:
                    context.expect(slot.index, slot.tokens_after(member, 0))
                missing = missing[: min(request.most, len(missing) - 1)]
                assert len(missing) >= rows, "a chunk that is scored has a row for each token"
            slot.fed[member] = slot.fed.get(member, [])
            slot.fed[member][kept:] = missing
            slot.valid[member] = kept
            feeds.append(Feed(slot.index, missing, rows, request.whole))
        return feeds


class _Work:
    """The decodes of one forward: what each member is fed, and the logits that it computes."""

    def __init__(self, requests: Sequence[Request], feeds: Feeds) -> None:
        self.feeds = feeds
        self.logits: dict[int, Logits] = {}
        self._requests = requests
        self._fed = [{member: len(r.slot.fed[member]) for member in r.members} for r in requests]

    def found(self) -> dict[int, tuple[Logits, Rows]]:
        """The result of forward. It is called after all decodes, so it counts the fed tokens as valid."""
        for request, fed in zip(self._requests, self._fed, strict=True):
            request.slot.valid.update(fed)
        starts = [0, *accumulate(request.rows for request in self._requests)]
        return {
            m: (with_known(m, self._requests, z), rows_of(m, self._requests, starts)) for m, z in self.logits.items()
        }


class Pending:
    """A forward that runs in other threads."""

    def __init__(self, engine: Engine, work: _Work, future: Future[None]) -> None:
        self._engine = engine
        self._work = work
        self._future = future

    @property
    def done(self) -> bool:
        """Whether the result is ready. Does not wait."""
        return self._future.done()

    def result(self) -> dict[int, tuple[Logits, Rows]]:
        """Wait for the result. Returns or raises what forward would."""
        began = time.perf_counter()
        try:
            self._future.result()
        finally:
            self._engine.seconds += time.perf_counter() - began
        return self._work.found()


def not_finished() -> DecodeError:
    """The error where another answer holds what this one needs."""
    return DecodeError(
        "Another answer of this emulator is not finished.", "Read its stream to the end or close it first."
    )


def _held(slot: Slot, prompts: Mapping[int, list[int]]) -> int:
    """How many tokens of these prompts the slot's caches hold, over all members."""
    return sum(common_prefix(slot.fed.get(member, []), prompt) for member, prompt in prompts.items())
