"""A scripted emulator: it has the interface that a run needs, but no models, and answers at any speed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from types import SimpleNamespace, TracebackType
from typing import Any, cast

from eftlocal.apps.batch import Options
from eftlocal.arithmetic.bias import Bias
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation.batch import Answer, Job
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.prompts import as_messages
from eftlocal.emulation.scoring import Score, ScoredToken
from eftlocal.errors import ContextError, EftError, SettingError


def over(source: object, target: object, **more: Any) -> Options:
    """The options of a run from the file `source` to the file `target`."""
    return Options(source=str(source), target=str(target), **more)


class Scripted:
    """Answers a prompt with the prompt's text and a number drawn from (seed, rng_key).

    A prompt `fail ...` gets a ContextError; `refused ...` gets it at once. `slow N ...` takes N steps, other prompts
    take one. Each step works on all jobs.
    """

    name = "scripted"
    betas: Mapping[str, float] = {"kind": 1.0}
    biases: Mapping[str, Bias] = {}
    context = 512
    kv_type = "f32"

    def __init__(self, *, parallel: int = 4, on_step: Callable[[int], None] = lambda _: None, **dials: Any) -> None:
        self.settings = Settings().turned(**dials)
        self.parallel = parallel
        self.on_step = on_step  # called in each step, with its number
        self.pulled = 0  # how many jobs were added
        self.closed = False
        self.places = 0  # `parallel` of the last run
        self.most = 0  # the most jobs that ran at the same time
        self.dated = False  # whether a chat template asks for the date
        self.members = SimpleNamespace(specs=(), views=(), system=None, date=None)

    def load(self, day: date) -> Emulator:
        self.members.date = day if self.dated else None
        return cast(Emulator, self)

    def batch(self, parallel: int | None = None) -> ScriptedBatch:
        self.places = parallel or self.parallel
        return ScriptedBatch(self)

    def reply(self, job: Job, reason: str) -> Reply | EftError:
        settings, text = self.settings.turned(**job.dials), _text(job)
        if text.startswith("fail"):
            return ContextError("The prompt is 600 tokens long, and the context holds 512.")
        for name in settings.mix:
            if name not in self.betas:
                return SettingError(f"There is no reward named {name!r}.")
        drawn = random.Random(f"{settings.seed} {job.rng_key}").randrange(1000)
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


class ScriptedBatch:
    """The running jobs of a scripted emulator."""

    def __init__(self, owner: Scripted) -> None:
        self.owner = owner
        self.running: dict[int, tuple[Job, int]] = {}  # (job, steps that are left)
        self.steps = 0
        self.cancelled = False

    def __len__(self) -> int:
        return len(self.running)

    @property
    def room(self) -> int:
        return self.owner.places - len(self.running)

    def add(self, job: Job) -> Answer | None:
        self.owner.pulled += 1
        words = _text(job).split()
        if words[:1] == ["refused"]:
            return Answer(job.tag, ContextError("The prompt is 600 tokens long, and the context holds 512."))
        self.running[self.owner.pulled] = job, int(words[1]) if words[:1] == ["slow"] else 1
        self.owner.most = max(self.owner.most, len(self.running))
        return None

    def step(self) -> list[Answer]:
        if not self.cancelled:
            self.steps += 1
            self.owner.on_step(self.steps)
        answers = []
        for key, (job, left) in list(self.running.items()):
            self.running[key] = job, left - 1
            if self.cancelled or left == 1:
                del self.running[key]
                answers.append(Answer(job.tag, self.owner.reply(job, "cancelled" if self.cancelled else "stop")))
        return answers

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None:
        self.running.clear()


def _text(job: Job) -> str:
    return (
        job.prompt
        if isinstance(job.prompt, str)
        else " / ".join(message.content for message in as_messages(job.prompt))
    )
