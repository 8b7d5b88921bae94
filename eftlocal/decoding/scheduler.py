"""The scheduler: continuous batching of answers, with chunked prefill. Each answer can be cancelled."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from eftlocal.decoding.generation import Generation
from eftlocal.decoding.step import Step
from eftlocal.engine.engine import Engine
from eftlocal.engine.slots import Request, Slot
from eftlocal.errors import DecodeError, EftError

__all__ = ["Delta", "Scheduler"]


class Delta(NamedTuple):
    """The new text of one answer after a step; `generation.ended` says whether it was the last."""

    generation: Generation
    text: str


class Scheduler:
    """Decodes many answers together, each in a slot of the engine.

    Continuous batching: an answer may join at any step. It leaves when it ends, and the next one takes its slot. Each
    answer waits for a free slot; then its prompt is read in chunks (chunked prefill); then it decodes. The chunks are
    small, so that they hardly slow the answers that decode already.

    One thread owns the scheduler and its engine. Each answer ends in exactly one delta of `step`: it finished, it was
    cancelled, or it has an `error`.
    """

    def __init__(self, engine: Engine, step: Step) -> None:
        self._engine = engine
        self._step = step
        self._waiting: deque[Generation] = deque()  # answers without a slot, oldest first
        self._prefilling: dict[Slot, Generation] = {}  # answers whose prompt is being read, oldest first
        self._decoding: dict[Slot, Generation] = {}  # answers that get tokens, in the order of their slots
        self._cancelled: set[Generation] = set()

    def __len__(self) -> int:
        """How many answers have not ended yet."""
        return len(self._waiting) + len(self._prefilling) + len(self._decoding)

    def add(self, generation: Generation) -> None:
        """Add an answer. It takes part from the next step on."""
        self._waiting.append(generation)

    def cancel(self, generation: Generation) -> None:
        """End this answer, whether it waits, is prefilled or decodes. It keeps its text; the others go on.

        The next step reports its end and frees its slot. Nothing happens if the answer has ended already.
        """
        self._cancelled.add(generation)

    def step(self) -> list[Delta]:
        """Run one step: answers that decode get one or more tokens, and prompts that are read get a chunk.

        Returns a delta for each answer that has new text or has ended. An error of one answer ends only that answer;
        it is its `error`. If a decode fails, all answers that hold a slot end with that error.
        """
        texts = self._end_cancelled()
        ended = self._release()
        ended += self._fill_slots()
        if self._prefilling or self._decoding:
            try:
                chunks = self._admit()
                texts |= self._step(self._decoding, chunks)
            except EftError as error:
                for _, generation in self._running():
                    generation.error = error
        shown = [generation for _, generation in self._running() if texts.get(generation) and not generation.ended]
        ended += self._release()
        return [Delta(generation, texts.get(generation, "")) for generation in (*shown, *ended)]

    def close(self) -> None:
        """Cancel all answers that have not ended, and free their slots."""
        for generation in (*self._waiting, *(generation for _, generation in self._running())):
            if not generation.ended:
                generation.end("cancelled")
        self._waiting.clear()
        self._release()

    def _running(self) -> Iterator[tuple[Slot, Generation]]:
        yield from self._decoding.items()
        yield from self._prefilling.items()

    def _end_cancelled(self) -> dict[Generation, str]:
        """End the answers that were cancelled. Returns the text that each still held back."""
        texts = {}
        if self._cancelled:
            for generation in (*self._waiting, *(generation for _, generation in self._running())):
                if generation in self._cancelled and not generation.ended:
                    texts[generation] = generation.end("cancelled")
            self._cancelled.clear()
        return texts

    def _release(self) -> list[Generation]:
        """Free the slots of the answers that have ended. Returns these answers."""
        ended = [generation for generation in self._waiting if generation.ended]
        for generation in ended:
            self._waiting.remove(generation)
        for slot, generation in list(self._running()):
            if generation.ended:
                self._engine.end(slot)
                self._decoding.pop(slot, None)
                self._prefilling.pop(slot, None)
                ended.append(generation)
        return ended

    def _fill_slots(self) -> list[Generation]:
        """Give free slots to answers that wait. Returns those that could not begin; they have an error."""
        failed = []
        while self._waiting and any(slot.free for slot in self._engine.slots):
            generation = self._waiting.popleft()
            try:
                self._prefilling[self._engine.begin(generation.prompts)] = generation
            except EftError as error:
                generation.error = error
                failed.append(generation)
        if self._waiting and not self._prefilling and not self._decoding:  # this scheduler holds no slot
            for generation in self._waiting:
                generation.error = DecodeError(
                    "Another answer of this emulator is not finished.", "Read its stream to the end or close it first."
                )
            failed += self._waiting
            self._waiting.clear()
        return failed

    def _admit(self) -> list[Request]:
        """Prefill: decide what the coming step reads of the prompts. Returns chunks of prompts too long for one step.

        A prompt whose rest fits into the step joins the decoding. Together the step has about n_batch tokens. A prompt
        that begins like one that is read in this step waits, and copies that beginning later.
        """
        n_batch = self._engine.workers.n_batch
        left = max(n_batch - len(self._decoding), n_batch // 4)
        chunks: list[Request] = []
        fed: list[Slot] = []
        for slot, generation in list(self._prefilling.items()):
            if left <= 0:
                break
            if self._engine.will_hold_more(slot, fed):
                continue
            self._engine.share(slot)
            fed.append(slot)
            n_to_feed = self._engine.n_to_feed(slot)
            if n_to_feed <= left:
                self._decoding[slot] = self._prefilling.pop(slot)
            else:
                chunks.append(Request(slot, 0, generation.mix.active, most=left))
            left -= n_to_feed
        self._close_ranks()
        return chunks

    def _close_ranks(self) -> None:
        """Sort the slots that decode. If no prompt is being read, also fill the gaps between them.

        llama.cpp computes neighbouring sequences together; after a gap it reads all weights again. Moving a sequence to
        another slot copies its cache, which costs less.
        """
        if not self._prefilling and self._decoding:
            first = min(slot.index for slot in self._decoding)
            for gap in [slot for slot in self._engine.slots[first:] if slot.free]:
                last = max(self._decoding, key=lambda slot: slot.index)
                if last.index < gap.index:
                    break
                self._engine.move(last, gap)
                self._decoding[gap] = self._decoding.pop(last)
        self._decoding = dict(sorted(self._decoding.items(), key=lambda item: item[0].index))
