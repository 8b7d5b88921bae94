"""Streams of prompts: jobs are pulled as places become free, and answers come as they finish."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from eftlocal.decoding.generation import Generation, Reply
from eftlocal.decoding.settings import Dials
from eftlocal.decoding.step import Decoder
from eftlocal.emulation.prepare import Prompt
from eftlocal.errors import EftError

__all__ = ["PAUSE", "Answer", "Job", "answers"]

PAUSE: Final = 0.02  # seconds until a source that has nothing ready is asked again, where there is nothing else to do


class Job(NamedTuple):
    """A prompt to be answered, with settings of its own and a stream of random numbers of its own: (seed, *stream).

    An answer depends on these alone, not on what else runs. `tag` comes back with the answer.
    """

    prompt: Prompt
    dials: Dials = {}  # noqa: RUF012 - never changed
    stream: int | tuple[int, ...] = 0
    tag: Any = None


class Answer(NamedTuple):
    """A job's reply, or why there is none."""

    tag: Any
    reply: Reply | EftError


def answers(
    decoder: Decoder,
    prepare: Callable[[Job], Generation],
    jobs: Iterable[Job | None],
    parallel: int,
    cancelled: Callable[[], bool] | None,
) -> Iterator[Answer]:
    """Answer jobs, `parallel` at a time; only those that run are held. None among them: no job is ready, go on."""
    queue, running = iter(jobs), decoder.start()
    tags: dict[Generation, Any] = {}
    more = True
    try:
        while True:
            while more and len(running) < parallel:
                try:
                    job = next(queue)
                except StopIteration:
                    more = False
                    break
                more = cancelled is None or not cancelled()
                if job is None:
                    break
                try:
                    generation = prepare(job)
                    running.add(generation)
                    tags[generation] = job.tag
                except EftError as error:
                    yield Answer(job.tag, error)
            if not running:
                if not more:
                    return
                time.sleep(PAUSE)
                continue
            for generation, _ in running.step(cancelled):
                if generation.ended:
                    yield Answer(tags.pop(generation), generation.error or generation.reply)
                more = more and generation.finish_reason != "cancelled"
    finally:
        running.close()
