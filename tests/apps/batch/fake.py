"""A scripted emulator with the side of the real one that a run needs: answers at any speed, and none of the weights."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any, cast

from eftlocal.apps.batch import Options
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.batch import Answer, Job
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.scoring import Score, ScoredToken
from eftlocal.errors import ContextError, EftError, SettingError


def over(source: object, target: object, **more: Any) -> Options:
    """A run from this file to that one."""
    return Options(source=str(source), target=str(target), **more)


class Scripted:
    """Answers a prompt with its last message and a number drawn from (seed, stream).

    `fail ...` is too long for the context; `slow N ...` takes N steps, all others one. Every step takes all that run.
    """

    name = "scripted"
    betas: Mapping[str, float] = {"kind": 1.0}
    context = 512

    def __init__(self, *, parallel: int = 4, on_step: Callable[[int], None] = lambda _: None, **dials: Any) -> None:
        self.settings = Settings().turned(**dials)
        self.engine = SimpleNamespace(specs=(), kv_type="f32")
        self.views = ()
        self.parallel = parallel
        self.on_step = on_step  # is told how many steps were made
        self.pulled = 0
        self.closed = False
        self.places = 0  # for jobs, in the last run
        self.most = 0  # that ran at once

    def answers(
        self, jobs: Iterable[Job | None], *, parallel: int | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Answer]:
        waiting, running = iter(jobs), dict[int, tuple[Job, int]]()
        steps, end = 0, object()
        job: Any = None
        self.places = parallel or self.parallel
        while True:
            while len(running) < self.places and isinstance(job := next(waiting, end), Job):
                self.pulled += 1
                words = _text(job).split()
                running[self.pulled] = job, int(words[1]) if words[:1] == ["slow"] else 1
            self.most = max(self.most, len(running))
            stopped = cancelled is not None and cancelled()
            if not running and (job is end or stopped):
                return
            if not running:
                time.sleep(0.001)
                continue
            steps += 1
            self.on_step(steps)
            stopped = cancelled is not None and cancelled()
            for key, (job, left) in list(running.items()):
                running[key] = job, left - 1
                if stopped or left == 1:
                    del running[key]
                    yield Answer(job.tag, self._reply(job, "cancelled" if stopped else "stop"))
            if stopped:
                return

    def _reply(self, job: Job, reason: str) -> Reply | EftError:
        settings, text = self.settings.turned(**job.dials), _text(job)
        if text.startswith("fail"):
            return ContextError("The prompt is 600 tokens long, and the context holds 512.")
        for name in settings.mix:
            if name not in self.betas:
                return SettingError(f"There is no reward named {name!r}.")
        drawn = random.Random(f"{settings.seed} {job.stream}").randrange(1000)
        return Reply(
            text=f"{text} {settings.beta:g} {drawn}",
            tokens=(1, 2, 3),
            finish_reason=cast(Any, reason),
            stopped_by=None,
            seed=settings.seed or 0,
            beta=settings.beta,
            prompt_tokens={"base": len(text)},
            ttft_s=0.0,
            tokens_per_s=1.0,
            kept=3,
        )

    def score(self, prompt: Any, completion: str, **dials: Any) -> Score:
        settings = self.settings.turned(**dials)
        if completion == "fail":
            raise ContextError("The prompt is 600 tokens long, and the context holds 512.")
        tokens = tuple(
            ScoredToken(
                id=i, text=word, logprob=-settings.beta, base=-2.0, rewards={"kind": {"tuned": -1.0, "reference": -3.0}}
            )
            for i, word in enumerate(completion.split())
        )
        return Score(tokens=tokens, logprob=sum(token.logprob for token in tokens), top=())

    def score_many(self, pairs: Sequence[tuple[Any, str, Dials]]) -> list[Score | EftError]:
        found: list[Score | EftError] = []
        for prompt, completion, dials in pairs:
            try:
                found.append(self.score(prompt, completion, **dials))
            except EftError as error:
                found.append(error)
        return found

    def __enter__(self) -> Emulator:
        return cast(Emulator, self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


def _text(job: Job) -> str:
    return job.prompt if isinstance(job.prompt, str) else " / ".join(message.content for message in job.prompt)
