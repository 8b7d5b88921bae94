"""The scheduler: continuous batching of answers, with chunked prefill. Each answer can be cancelled."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from eftlocal.decoding.generation import Generation
from eftlocal.decoding.step import Chunk, Step
from eftlocal.engine.engine import Engine, not_finished
from eftlocal.engine.slots import Request, Slot
from eftlocal.errors import DecodeError, EftError
from eftlocal.runtime.llama.interrupt import Stopped

__all__ = ["Delta", "Scheduler"]

SCORED_ROWS = 64  # rows of logits for prompts that are scored in one step; this limits the memory that they take


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

    def __init__(self, engine: Engine, step: Step, *, share: float = 1.0) -> None:
        """`share`: of the tokens that a step may read, those of a long prompt while other answers decode or wait.

        A smaller share keeps their steps short, and costs time: 8 answers to prompts of 400 tokens, 4 at a time with
        SmolLM2-135M in Q4_0, took 1.1 times the CPU time with a half, and 1.2 times with a quarter.
        """
        self._share = share
        self._engine = engine
        self._step = step
        self._waiting: deque[Generation] = deque()  # answers without a slot, oldest first
        self._prefilling: dict[Slot, Generation] = {}  # answers whose prompt is being read, oldest first
        self._decoding: dict[Slot, Generation] = {}  # answers that get tokens, in the order of their slots
        self._cancelled: set[Generation] = set()
        self._texts: dict[Generation, str] = {}  # not told yet
        self._ended: list[Generation] = []  # not told yet

    def __len__(self) -> int:
        """How many answers have not ended yet."""
        return len(self._waiting) + len(self._prefilling) + len(self._decoding)

    def add(self, generation: Generation) -> None:
        """Add an answer. It takes part from the next step on. Raises ValueError for one that was added before."""
        if generation.added:
            raise ValueError("This answer was added to a scheduler before; prepare another one.")
        generation.added = True
        self._waiting.append(generation)

    def cancel(self, generation: Generation) -> None:
        """End this answer, whether it waits, is prefilled or decodes. It keeps its text; the others go on.

        The next step reports its end and frees its slot. Nothing happens if the answer has ended already.
        """
        self._cancelled.add(generation)

    def step(self) -> list[Delta]:
        """Run one step: answers that decode get one or more tokens, and prompts that are read get a chunk.

        Returns a delta for each answer that has new text or has ended. An error of one answer ends only that answer;
        it is its `error`. If a decode fails, all answers that hold a slot end with that error. So they do after any
        other exception (KeyboardInterrupt, a lack of memory), which is raised; the next step reports their ends.
        """
        self._end_cancelled()
        self._release()
        self._fill_slots()
        if self._prefilling or self._decoding:
            try:
                chunks = self._admit()
                self._texts |= self._step(self._decoding, chunks)
            except EftError as error:
                self._fail(error)
            except Stopped:  # nothing was decoded: whoever asked for it cancels, or the next step does it again
                pass
            except BaseException:
                self._fail(DecodeError("The step that decoded this answer was interrupted."))
                self._release()
                raise
        shown = [
            generation for _, generation in self._running() if self._texts.get(generation) and not generation.ended
        ]
        self._release()
        deltas = [Delta(generation, self._texts.get(generation, "")) for generation in (*shown, *self._ended)]
        self._texts, self._ended = {}, []
        return deltas

    def close(self) -> None:
        """Cancel all answers that have not ended, and free their slots. No step reports their ends."""
        for generation in (*self._waiting, *(generation for _, generation in self._running())):
            if not generation.ended:
                generation.end("cancelled")
        self._waiting.clear()
        self._release()
        self._cancelled.clear()
        self._texts, self._ended = {}, []

    def _running(self) -> Iterator[tuple[Slot, Generation]]:
        yield from self._decoding.items()
        yield from self._prefilling.items()

    def _end_cancelled(self) -> None:
        """End the answers that were cancelled. What each still held back of its text is told."""
        if not self._cancelled:
            return
        waiting, self._waiting = self._waiting, deque()
        for generation in waiting:
            if generation in self._cancelled:
                self._ended.append(generation)
            else:
                self._waiting.append(generation)
        for generation in (*self._ended, *(generation for _, generation in self._running())):
            if generation in self._cancelled and not generation.ended:
                self._texts[generation] = generation.end("cancelled")
        self._cancelled.clear()

    def _release(self) -> None:
        """Free the slots of the answers that have ended."""
        for slot, generation in list(self._running()):
            if generation.ended:
                self._engine.end(slot)
                self._decoding.pop(slot, None)
                self._prefilling.pop(slot, None)
                self._ended.append(generation)

    def _fail(self, error: EftError) -> None:
        """End all answers that hold a slot with this error."""
        for _, generation in self._running():
            if not generation.ended:
                generation.error = error

    def _fill_slots(self) -> None:
        """Give free slots to answers that wait. Those that cannot begin end with an error."""
        while self._waiting and any(slot.free for slot in self._engine.slots):
            generation = self._waiting[0]
            try:
                self._prefilling[self._engine.begin(generation.prompts, fresh=generation.score_prompt)] = generation
            except EftError as error:
                generation.error = error
                self._ended.append(generation)
            self._waiting.popleft()
        if self._waiting and not self._prefilling and not self._decoding:  # this scheduler holds no slot
            for generation in self._waiting:
                generation.error = not_finished()
            self._ended += self._waiting
            self._waiting.clear()

    def _admit(self) -> list[Chunk]:
        """Prefill: decide what the coming step reads of the prompts. Returns chunks of prompts too long for one step.

        A prompt whose rest fits into the step joins the decoding. Together the step has about n_batch tokens. Short
        rests come first, so that a short prompt does not wait until a long one is read; but the oldest prompt always
        gets a quarter. A prompt that begins like one that is read in this step waits, and copies that beginning later.
        """
        if not self._prefilling:
            self._close_ranks()
            return []
        n_batch = self._engine.workers.n_batch
        left = max(n_batch - len(self._decoding), n_batch // 4)
        rows = max(1, min(self._engine.workers.max_rows, SCORED_ROWS) - len(self._decoding) - len(self._prefilling))
        chunks: list[Chunk] = []
        oldest, *others = self._prefilling
        chunk = left if not others and not self._decoding else max(1, round(n_batch * self._share))
        kept = min(n_batch // 4, self._engine.n_to_feed(oldest))  # for the oldest one, which comes last in this loop
        fed = [oldest]
        for slot in (*sorted(others, key=self._engine.n_to_feed), oldest):
            room = left if slot is oldest else left - kept
            if room <= 0:
                continue
            generation = self._prefilling[slot]
            if not generation.score_prompt:
                if slot is not oldest and self._engine.will_hold_more(slot, fed):
                    continue
                self._engine.share(slot)
            fed.append(slot)
            n_to_feed = self._engine.n_to_feed(slot)
            generation.begins(n_to_feed)
            if n_to_feed <= (1 if generation.score_prompt else room):
                self._decoding[slot] = self._prefilling.pop(slot)
                left -= n_to_feed
            elif not generation.score_prompt:
                most = min(room, chunk)
                chunks.append(Chunk(generation, Request(slot, 0, generation.mix.active, most=most)))
                left -= most
            elif (most := min(room, chunk, rows, n_to_feed - 1)) > 0:
                chunks.append(Chunk(generation, Request(slot, most, generation.mix.active, most=most, whole=True)))
                left, rows = left - most, rows - most
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
