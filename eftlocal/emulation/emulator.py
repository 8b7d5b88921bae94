"""The public interface: `Emulator` is loaded by name, and generates, streams and scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Final, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.bias import Bias
from eftlocal.arithmetic.combine import Combiner, Mix
from eftlocal.decoding.generation import Generation, Reply
from eftlocal.decoding.scheduler import Scheduler
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.decoding.step import Step
from eftlocal.decoding.thinking import Splitter
from eftlocal.emulation.batch import Answer, Batch, Job, answers
from eftlocal.emulation.forced import Forced, Forcing
from eftlocal.emulation.loading import Loaded, LoadOptions, load
from eftlocal.emulation.members import Members
from eftlocal.emulation.prepare import Ids, Preparer, Prompt, Raw, as_messages, new_seed
from eftlocal.emulation.scoring import Score, ScoredToken, Scorer, Task
from eftlocal.emulation.tokenizer import Tokenizer
from eftlocal.errors import EftError, SettingError
from eftlocal.runtime import vocab
from eftlocal.runtime.llama.context import MAX_SEQUENCES
from eftlocal.runtime.plan.parallel import sequences_at_once
from eftlocal.runtime.plan.placement import Plan

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
    "Stream",
    "as_messages",
]

SCORED_AT_ONCE: Final = 8  # pairs; their rows fill a decode (scoring.SCORED_ROWS), so more would only take memory


class Stream:
    """An iterator over the text deltas of one answer. `reply` is the answer so far."""

    def __init__(self, generation: Generation, deltas: Iterator[str]) -> None:
        self._generation = generation
        self._deltas = deltas

    def __iter__(self) -> Iterator[str]:
        return self._deltas

    def splitter(self) -> Splitter:
        """A splitter of the deltas into the answer's thoughts and what it says."""
        return self._generation.splitter()

    @property
    def n_tokens(self) -> int:
        """How many tokens the answer has so far."""
        return len(self._generation.tokens)

    @property
    def reply(self) -> Reply:
        """The answer with its finish reason, usage and timings. It is complete when the stream has ended."""
        return self._generation.reply


class Emulator:
    """A base model and its rewards, which decode as one model. Use it as a context manager, or close it.

    An emulator is not thread-safe: make one call at a time. Read a stream to its end or close it before the next call.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.name = loaded.name
        self.settings = loaded.settings
        self.load_s = loaded.load_s
        self.rewards = loaded.rewards
        self._members = members = loaded.members
        self._engine = loaded.engine
        names = [spec.name for spec in members.specs]
        combiner = Combiner(names, members.n_real, members.skipped, self.ends)
        self._step = Step(loaded.engine, combiner)
        self._scorer = Scorer(loaded.engine, combiner, members)
        self._preparer = Preparer(members, loaded.engine.workers)

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

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """The most tokens that a conversation and its answer may have together."""
        return self._engine.n_ctx

    @property
    def betas(self) -> Mapping[str, float]:
        """Reward name -> configured strength."""
        return {reward.name: reward.beta for reward in self._members.rewards}

    @property
    def biases(self) -> Mapping[str, Bias]:
        """Reward name -> what it adds to some tokens; only rewards that add something."""
        return {reward.name: reward.bias for reward in self._members.rewards if reward.bias is not None}

    @property
    def roles(self) -> tuple[str, ...]:
        """Role names, as the setting `alone` takes them: base, tuned, reference; with several rewards NAME.tuned ..."""
        return tuple(self._members.roles)

    @property
    def n_vocab(self) -> int:
        """The number of token ids that all members share; the ids start at 0."""
        return self._members.n_real

    @cached_property
    def vocabulary(self) -> str:
        """A fingerprint of the token ids with their texts. Where it is the same, token ids mean the same."""
        return vocab.fingerprint(self._members.specs[self._members.base].header, self._members.n_real)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the members share."""
        return Tokenizer(self._members, self._engine.workers.model(self._members.base))

    @property
    def members(self) -> Members:
        """The models that take part, with the view of each."""
        return self._members

    @property
    def files(self) -> tuple[Path, ...]:
        """The model files in memory."""
        return tuple(model.path for model in self._engine.workers.loaded)

    @property
    def threads(self) -> int:
        """CPU threads that the members share."""
        return self._engine.workers.n_threads

    @property
    def kv_type(self) -> str:
        """How the KV caches are stored: f16, q8_0 or f32."""
        return self._engine.workers.kv_type

    @property
    def fed_tokens(self) -> Mapping[str, int]:
        """Role -> tokens that its member has decoded so far, without those that its KV cache saved."""
        fed = self._engine.workers.n_fed
        return {role: fed[member] for role, member in self._members.roles.items() if member in fed}

    @property
    def plan(self) -> Plan | None:
        """Where the members run, and how much memory they need there; None if llama.cpp decides."""
        return self._engine.workers.placing.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each model that did not load as planned: a device was too small, or an adapter fits in part."""
        return (*self._members.notes, *self._engine.workers.placing.notes.values())

    def sequences_that_fit(self, most: int) -> int:
        """How many sequences fit in memory at the same time, up to `most`. Always `most` if loading was forced."""
        plan = self._engine.workers.placing.plan
        return plan.sequences_that_fit(most) if plan is not None and plan.fits else most

    @property
    def parallel(self) -> int:
        """How many prompts to answer at the same time by default: the number that suits this machine."""
        plan = self._engine.workers.placing.plan
        return 1 if plan is None else sequences_at_once(plan, self._engine.workers.n_threads)

    def mix(self, settings: Settings) -> Mix:
        """The members' weights under `settings`. Raises SettingError for an unknown reward or role."""
        return self._members.mix(settings)

    def ends(self, members: Iterable[int] | None = None) -> NDArray[np.intp]:
        """The shared token ids that end an answer of one of these members (None: of all), ascending."""
        ends = self._engine.workers.end_tokens(range(len(self._members.specs)) if members is None else members)
        return np.array([token for token in ends if token < self._members.n_real], np.intp)

    # --- answers ------------------------------------------------------------------------------------------------------

    def stream(self, prompt: Prompt, *, cancelled: Callable[[], bool] | None = None, **dials: Unpack[Dials]) -> Stream:
        """Answer a prompt (a user's message, a conversation, or Raw text). Returns an iterator over text deltas.

        If a conversation ends with an assistant's message, the answer continues it. `cancelled` is called before each
        step; when it returns True, the stream ends and the reply keeps the text so far. Closing the iterator does the
        same. Raises ViewError, ContextError and SettingError; the iterator may raise DecodeError.
        """
        generation = self.prepare(Job(prompt, dials))
        return Stream(generation, self._deltas(generation, cancelled or _never))

    def _deltas(self, generation: Generation, cancelled: Callable[[], bool]) -> Iterator[str]:
        """Decodes one answer and yields its text deltas. Raises the answer's error."""
        scheduler = self.scheduler()
        scheduler.add(generation)
        try:
            while scheduler:
                if cancelled():
                    scheduler.cancel(generation)
                yield from (text for _, text in scheduler.step() if text)
            if generation.error is not None:
                raise generation.error
        finally:
            scheduler.close()

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
        prompts = self._preparer.prompts(prompt, self.mix(self.settings.turned(**dials)))
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
        tasks: list[Task | EftError] = []
        for prompt, completion, dials in pairs:
            try:
                tasks.append(self._task(prompt, completion, top, dials))
            except EftError as error:
                tasks.append(error)
        right = sum(isinstance(task, Task) for task in tasks)
        at_once = self.sequences_that_fit(min(SCORED_AT_ONCE, max(1, right)))
        self._engine.reserve(at_once, self.context)
        return self._scorer.score_each(tasks, at_once)

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
