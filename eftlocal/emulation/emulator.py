"""The public interface: `Emulator` is loaded by name, and generates, streams and scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Integral
from types import TracebackType
from typing import Final, Self, Unpack

from eftlocal.arithmetic.combine import Combiner
from eftlocal.decoding.generation import Generation, Reply
from eftlocal.decoding.scheduler import Scheduler
from eftlocal.decoding.settings import Dials
from eftlocal.decoding.step import Step
from eftlocal.emulation.batch import Answer, Batch, Job, answers
from eftlocal.emulation.facts import Facts
from eftlocal.emulation.forced import Forced, Forcing
from eftlocal.emulation.loading import Loaded, LoadOptions, load
from eftlocal.emulation.prepare import Preparer, new_seed
from eftlocal.emulation.prompts import Ids, Prompt, Raw, Renderer, as_messages
from eftlocal.emulation.scoring import Likelihood, Score, ScoredToken, Scorer, Task
from eftlocal.emulation.stream import Stream
from eftlocal.errors import EftError, SettingError
from eftlocal.runtime.llama.context import MAX_SEQUENCES

__all__ = [
    "SCORED_AT_ONCE",
    "Answer",
    "Emulator",
    "Ids",
    "Job",
    "Prompt",
    "Raw",
    "Score",
    "ScoredToken",
    "as_messages",
]

SCORED_AT_ONCE: Final = 8  # pairs; their rows fill a decode (scoring.SCORED_ROWS), so more would only take memory


class Emulator(Facts):
    """A base model and its rewards, which decode as one model. Use it as a context manager, or close it.

    What it says about itself (its roles, members, context ...) is in `Facts`. An emulator is not thread-safe: make one
    call at a time. Read a stream to its end or close it before the next call.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        members = loaded.members
        names = [spec.name for spec in members.specs]
        combiner = Combiner(names, members.n_real, members.skipped, self.ends)
        self._step = Step(loaded.engine, combiner)
        self._scorer = Scorer(loaded.engine, combiner, members)
        self._renderer = Renderer(members, loaded.engine.workers)
        self._preparer = Preparer(members, loaded.engine.workers, self._renderer)

    @classmethod
    def load(cls, name: str | None = None, **options: Unpack[LoadOptions]) -> Self:
        """Load the emulator `name` (None: the catalogue's default) and the members that its settings need.

        models      a models.toml to add to the packaged one and the user's, or a `Catalog` to use instead of them
        context     the most tokens of a sequence; None is the emulator's own, or 4,096 or less (see Members.context)
        threads     CPU threads for all members together; None is every core that this process may use
        kv_type     type of the KV cache: f16, q8_0 (half the memory) or f32 (twice, and exact: no flash attention)
        gpu_layers  layers of each model on devices: one number, or {role or model: number}; None is as many as fit
        device      devices to use, separated by commas; "none" is only the CPU, None is all devices
        main_gpu    number of the device that is filled first
        rpc         workers of llama.cpp's RPC that hold the base's layers, as "127.0.0.1:50052" or several
        insecure    whether `rpc` may name addresses of a network; it has no password and no encryption
        split       how to use several devices: "none" (each model on one), "layer", "row", or proportions like "3,1"
        force       load also if the memory is too small
        date        the date that chat templates see; None is today
        upper       a truly tuned large model that only stands beside, in the role `upper`, for comparisons: the name of
                    a model, of an emulator without rewards, or a file
        others      settings that differ from the emulator's: the fields of `Settings` and `Sampling`

        Raises CatalogError, ModelFileError, FitError, ModelLoadError, VocabularyError, ViewError or SettingError.
        """
        return cls(load(name, **options))

    # --- answers ------------------------------------------------------------------------------------------------------

    def stream(self, prompt: Prompt, *, cancelled: Callable[[], bool] | None = None, **dials: Unpack[Dials]) -> Stream:
        """Answer a prompt (a user's message, a conversation, or Raw text). Returns an iterator over text deltas.

        If a conversation ends with an assistant's message, the answer continues it. `cancelled` is called before each
        step; when it returns True, the stream ends and the reply keeps the text so far. Closing the iterator does the
        same. Raises ViewError, ContextError and SettingError; the iterator may raise DecodeError.
        """
        return Stream(self.prepare(Job(prompt, dials)), self.scheduler(), cancelled or _never)

    def generate(self, prompt: Prompt, *, cancelled: Callable[[], bool] | None = None, **dials: Unpack[Dials]) -> Reply:
        """Answer a prompt. Returns the complete reply; arguments and errors as `stream`."""
        stream = self.stream(prompt, cancelled=cancelled, **dials)
        for _ in stream:
            pass
        return stream.reply

    def prepare(self, job: Job) -> Generation:
        """Make an answer that can be added to a scheduler. Raises ViewError, ContextError and SettingError."""
        rng_key = job.rng_key if isinstance(job.rng_key, tuple) else (job.rng_key,)
        if not all(isinstance(part, Integral) and part >= 0 for part in rng_key):
            raise SettingError(f"rng_key is {job.rng_key!r}; it must be whole numbers, 0 or above.")
        return self._preparer.generation(
            job.prompt,
            self.settings.turned(**job.dials),
            rng_key,
            template_args=job.template_args,
            score_prompt=job.score_prompt,
        )

    def scheduler(self, *, share: float = 1.0) -> Scheduler:
        """A scheduler for answers that `prepare` made. `share` of a step reads a long prompt while others decode.

        It decodes as many answers at a time as `reserve` made room for; the others wait.
        """
        return Scheduler(self._engine, self._step, share=share)

    def reserve(self, parallel: int | None = None) -> int:
        """Make room for `parallel` answers at a time (None: as many as suit this machine). Returns their number.

        The number is smaller if memory is short; that changes no answer. No answer may be running. Raises SettingError.
        """
        parallel = self.parallel if parallel is None else parallel
        if not 1 <= parallel <= MAX_SEQUENCES:
            raise SettingError(f"parallel is {parallel}; it must be between 1 and {MAX_SEQUENCES}.")
        parallel = self.sequences_that_fit(parallel)
        self._engine.reserve(parallel, self.context)
        return parallel

    def batch(self, parallel: int | None = None) -> Batch:
        """A batch that answers jobs together, `parallel` at a time (see `reserve`). Add jobs at any time, and step."""
        return Batch(self.scheduler(), self.prepare, self.reserve(parallel))

    def answers(
        self, jobs: Iterable[Job], *, parallel: int | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Answer]:
        """Answer a stream of jobs, `parallel` at a time. Yields each answer when it has finished.

        A job is taken from the iterator only when there is room for it, so an endless iterator needs no more memory.
        While `jobs` makes the caller wait for the next job, the running answers wait too; use `batch` to avoid that.
        An error of one job (ViewError, ContextError, SettingError, DecodeError) is its answer; the others go on. When
        `cancelled` returns True, the running answers end as cancelled, and no more jobs are taken.
        """
        return answers(self.batch(parallel), jobs, cancelled or _never)

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        *,
        parallel: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        **dials: Unpack[Dials],
    ) -> list[Reply]:
        """Answer all prompts, `parallel` at a time. Returns the replies in the order of the prompts.

        When `cancelled` returns True, prompts that have not begun get no reply. The random numbers of prompt i come
        from (seed, i), so its answer depends neither on `parallel` nor on the other prompts. Errors as `stream`.
        """
        settings = self.settings.turned(**dials)
        seeded: Dials = {**dials, "seed": new_seed() if settings.seed is None else settings.seed}
        jobs = [Job(prompt, seeded, i, i) for i, prompt in enumerate(prompts)]
        replies: dict[int, Reply] = {}
        at_once = min(self.parallel if parallel is None else parallel, max(1, len(jobs)))
        for answer in self.answers(jobs, parallel=at_once, cancelled=cancelled):
            if isinstance(answer.reply, EftError):
                raise answer.reply
            replies[answer.tag] = answer.reply
        return [replies[i] for i in sorted(replies)]

    def render(self, prompt: Prompt, **dials: Unpack[Dials]) -> dict[str, list[int]]:
        """Role -> the token ids of its rendering of `prompt`, for roles that run. Raises ViewError and SettingError."""
        prompts = self._renderer.prompts(prompt, self.mix(self.settings.turned(**dials)))
        return {role: prompts[member] for role, member in self._members.roles.items() if member in prompts}

    def count(self, prompt: Prompt, **dials: Unpack[Dials]) -> dict[str, int]:
        """Role -> the number of tokens of its rendering of `prompt`, for roles that run. Errors as `render`."""
        return {role: len(ids) for role, ids in self.render(prompt, **dials).items()}

    # --- scores -------------------------------------------------------------------------------------------------------

    def score(self, prompt: Prompt, completion: str | Sequence[int], *, top: int = 0, **dials: Unpack[Dials]) -> Score:
        """Log-probabilities of `completion` (text, or token ids) as an answer to `prompt`.

        They are given under the emulator and under each role by itself, also for roles whose weight is 0. Sampling
        settings have no effect. `top` asks for this many of the likeliest tokens at each position. Errors as `stream`.
        """
        return self._scorer.score([self._task(prompt, completion, top, dials)])[0]

    def score_many(
        self, pairs: Sequence[tuple[Prompt, str | Sequence[int], Dials]], *, top: int = 0
    ) -> list[Score | EftError]:
        """Score pairs of a prompt and a completion, each with its own settings. Returns the results in their order.

        SCORED_AT_ONCE pairs are scored at the same time. An error of one pair is its result; the others are scored.
        `top` as in `score`.
        """
        return self._scorer.score_each(*self._tasks(pairs, top))

    def likelihoods(self, pairs: Sequence[tuple[Prompt, str | Sequence[int], Dials]]) -> list[Likelihood | EftError]:
        """As `score_many`, where nothing is asked of the roles by themselves: only members that have a weight run."""
        return self._scorer.likelihood_each(*self._tasks(pairs, 0))

    def _tasks(
        self, pairs: Sequence[tuple[Prompt, str | Sequence[int], Dials]], top: int
    ) -> tuple[list[Task | EftError], int]:
        """What is scored, and how many at the same time."""
        tasks: list[Task | EftError] = []
        for prompt, completion, dials in pairs:
            try:
                tasks.append(self._task(prompt, completion, top, dials))
            except EftError as error:
                tasks.append(error)
        right = sum(isinstance(task, Task) for task in tasks)
        at_once = self.sequences_that_fit(min(SCORED_AT_ONCE, max(1, right)))
        self._engine.reserve(at_once, self.context)
        return tasks, at_once

    def _task(self, prompt: Prompt, completion: str | Sequence[int], top: int, dials: Dials) -> Task:
        return self._preparer.task(prompt, completion, self.mix(self.settings.turned(**dials)), top)

    def forced(self, prompt: Prompt, completion: str | Sequence[int], *, ends: bool = False) -> Forced:
        """Every member's prompt and the completion's tokens, for `forcing`. Errors as `score`.

        `ends` adds the token that ends an answer, if the models have one.
        """
        return self._preparer.forced(prompt, completion, ends=ends)

    def forcing(self, at_once: int) -> Forcing:
        """Decodes along known answers, `at_once` at a time; `reserve` must have made room for so many sequences."""
        return Forcing(self._engine, self._members.n_real, at_once)

    def forget(self) -> None:
        """Use nothing that the caches hold, so that what follows is the same to the last digit, whatever ran before."""
        self._engine.forget()

    # --- its end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the models and their KV caches."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _never() -> bool:
    return False
