"""Batches: answer many jobs together, each with its own settings."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from eftlocal.decoding.generation import Generation, Reply
from eftlocal.decoding.scheduler import Scheduler
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.prompts import Prompt
from eftlocal.errors import EftError

__all__ = ["Answer", "Batch", "Job", "answers"]


class Job(NamedTuple):
    """A prompt to answer.

    dials          its settings; they change the emulator's
    rng_key        its random numbers come from (seed, *rng_key)
    tag            returned with the answer
    template_args  variables for the chat templates, such as tools; those that do not know them ignore them
    score_prompt   report log-probabilities of the prompt's tokens, too; the setting `logprobs` must be on, and the
                   prompt must be the same tokens for all members (Ids, Raw)

    The answer depends only on the prompt, the settings and the random numbers, not on the other jobs.
    """

    prompt: Prompt
    dials: Dials = {}  # noqa: RUF012 - never changed
    rng_key: int | tuple[int, ...] = 0
    tag: Any = None
    template_args: Mapping[str, object] = {}
    score_prompt: bool = False


class Answer(NamedTuple):
    """A job's reply, or its error."""

    tag: Any
    reply: Reply | EftError


class Batch:
    """Answers jobs together, at most `parallel` at a time: add jobs while there is room, and step.

    `prepare` turns a job into a generation for the scheduler.
    """

    def __init__(self, scheduler: Scheduler, prepare: Callable[[Job], Generation], parallel: int) -> None:
        self._scheduler = scheduler
        self._prepare = prepare
        self._parallel = parallel
        self._tags: dict[Generation, Any] = {}

    def __len__(self) -> int:
        """How many jobs are not answered yet."""
        return len(self._scheduler)

    @property
    def room(self) -> int:
        """How many more jobs can begin now."""
        return self._parallel - len(self._scheduler)

    def add(self, job: Job) -> Answer | None:
        """Add a job. Returns its answer at once if it cannot be prepared: the error. Else None."""
        try:
            generation = self._prepare(job)
        except EftError as error:
            return Answer(job.tag, error)
        self._tags[generation] = job.tag
        self._scheduler.add(generation)
        return None

    def step(self) -> list[Answer]:
        """Run one step for all jobs. Returns the answers that ended; an error of one job is its answer."""
        return [
            Answer(self._tags.pop(generation), generation.error or generation.reply)
            for generation, _ in self._scheduler.step()
            if generation.ended
        ]

    def cancel(self) -> None:
        """Cancel all jobs. The next step returns their answers with the text so far."""
        for generation in self._tags:
            self._scheduler.cancel(generation)

    def close(self) -> None:
        """Drop all jobs that are not answered, and free their slots."""
        self._scheduler.close()
        self._tags.clear()


def answers(batch: Batch, jobs: Iterable[Job], cancelled: Callable[[], bool]) -> Iterator[Answer]:
    """Take jobs while the batch has room, and yield each answer when it has ended. Only running jobs are in memory.

    When `cancelled` returns True, running jobs end with the text so far, and no more jobs are taken.
    """
    queue, more = iter(jobs), True
    try:
        while True:
            if cancelled():
                batch.cancel()
                more = False
            while more and batch.room > 0:
                if (job := next(queue, None)) is None:
                    more = False
                elif (refused := batch.add(job)) is not None:
                    yield refused
                    more = not cancelled()  # an endless series of refused jobs must end, too
            if not batch:
                return
            yield from batch.step()
    finally:
        batch.close()
