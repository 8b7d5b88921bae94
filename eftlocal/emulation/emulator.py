"""The public face: an emulator that is loaded by name and answers, streams and scores."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, Unpack

from eftlocal.arithmetic.combine import Combiner, Mix
from eftlocal.catalog import models as catalog
from eftlocal.decoding.generation import Generation, Reply, must_fit
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.decoding.step import Decoder
from eftlocal.emulation.batch import Answer, Job, answers
from eftlocal.emulation.costs import block_seconds
from eftlocal.emulation.members import Members, assemble
from eftlocal.emulation.prepare import Preparer, Prompt, Raw, as_messages, new_seed
from eftlocal.emulation.scoring import Score, ScoredToken, Task, score_all
from eftlocal.engine.engine import Engine
from eftlocal.errors import CatalogError, DecodeError, EftError, SettingError
from eftlocal.runtime.llama.context import KV_TYPES, MAX_SEQUENCES
from eftlocal.runtime.machine import here, usable_cores
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.parallel import sequences_at_once
from eftlocal.runtime.plan.placement import Plan, Wishes
from eftlocal.runtime.speeds import Speeds, speeds_file
from eftlocal.runtime.views import View

__all__ = [
    "SCORED_AT_ONCE",
    "Answer",
    "Emulator",
    "Job",
    "Prompt",
    "Raw",
    "Score",
    "ScoredToken",
    "Stream",
    "as_messages",
]

SCORED_AT_ONCE: Final = 8  # pairs: their rows fill a decode (scoring.SCORED_ROWS), and more would only take memory


class Stream:
    """The text deltas of one answer as they come; `reply` is the answer as far as it came."""

    def __init__(self, generation: Generation, deltas: Iterator[str]) -> None:
        self._generation = generation
        self._deltas = deltas

    def __iter__(self) -> Iterator[str]:
        return self._deltas

    @property
    def reply(self) -> Reply:
        """The answer with its finish reason, usage and timings; whole once the stream has ended."""
        return self._generation.reply


class Emulator:
    """A base model and its rewards, decoding as one. Use it as a context manager, or close it.

    One call at a time: an emulator is not thread-safe, and a stream is to be used up (or closed) before the next call.
    """

    def __init__(self, members: Members, engine: Engine, *, name: str, settings: Settings, load_s: float) -> None:
        self.name = name
        self.settings = settings
        self.load_s = load_s
        self._members = members
        self._engine = engine
        self._combiner = Combiner([spec.name for spec in members.specs], members.n_real, members.skipped)
        self._decoder = Decoder(engine, self._combiner)
        self._preparer = Preparer(members, engine)

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        models: Path | str | catalog.Catalog | None = None,
        context: int | None = None,
        threads: int | None = None,
        kv_type: str = "f16",
        gpu_layers: int | Mapping[str, int] | None = None,
        device: str | None = None,
        main_gpu: int | None = None,
        split: str | None = None,
        force: bool = False,
        **dials: Unpack[Dials],
    ) -> Self:
        """Load the emulator `name` (None: the catalogue's default) and the members that its settings need.

        models      a models.toml beside the packaged and the user's own, or a whole catalogue instead of them
        context     tokens a sequence may have; None: the emulator's, at most what every member was trained for
        threads     CPU threads in all; None: every core this process may use
        kv_type     f16, q8_0 (half the cache's memory) or f32 (twice, and exact: no flash attention)
        gpu_layers  layers of each model on a device, or by the names of roles or models; None: as many as fit
        device      devices to use, with commas between; "none" is the CPU alone. None: those that there are
        main_gpu    the number of the device that is filled first
        split       over several devices: none (each model on one), layer, row, or proportions as "3,1"
        force       load what does not fit in memory, too
        dials       settings that differ from the emulator's, by the names of `Settings` and `Sampling`

        Raises CatalogError, ModelFileError, FitError, ModelLoadError, VocabularyError, ViewError or SettingError.
        """
        started = time.perf_counter()
        cat = models if isinstance(models, catalog.Catalog) else catalog.load(None if models is None else Path(models))
        emulator = cat.emulator(name)
        cat.must_be_here(emulator)
        members = assemble(cat, emulator)
        if kv_type not in KV_TYPES:
            raise SettingError(f"kv_type is {kv_type!r}; it must be one of {', '.join(KV_TYPES)}.")
        if threads is not None and threads < 1:
            raise SettingError(f"threads is {threads}; it must be at least 1.")
        settings = _configured(emulator)
        n_ctx = members.context(emulator.context if context is None else context)
        wishes = Wishes(gpu_layers=gpu_layers, device=device, main_gpu=main_gpu, split=split)
        plan = members.plan(here(), Cache(n_ctx, kv_type=kv_type), wishes)
        if not plan.fits and not force:
            raise plan.error(emulator.name)
        n_threads = threads or usable_cores()
        speeds = Speeds(n_threads, speeds_file())
        engine = Engine(members.specs, n_ctx=n_ctx, n_threads=n_threads, kv_type=kv_type, plan=plan, speeds=speeds)
        self = cls(members, engine, name=emulator.name, settings=settings.turned(**dials), load_s=0.0)
        try:
            active = self.mix(self.settings).active
            for member in active:
                engine.model(member)
            # A device that is too small says so when the caches are made: now, and not at the first prompt.
            engine.prepare(member for member in active if plan.members[member].offload.layers)
            engine.measure(active)
        except BaseException:
            self.close()
            raise
        self.load_s = time.perf_counter() - started
        return self

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """Tokens that a conversation and its answer may have together."""
        return self._engine.n_ctx

    @property
    def betas(self) -> Mapping[str, float]:
        """The rewards' configured strengths, by name."""
        return {reward.name: reward.beta for reward in self._members.rewards}

    @property
    def roles(self) -> tuple[str, ...]:
        """base, tuned and reference; with several rewards NAME.tuned and NAME.reference: what `alone` takes."""
        return tuple(self._members.roles)

    @property
    def n_vocab(self) -> int:
        """Token ids that the members share: 0 to below it."""
        return self._members.n_real

    @property
    def views(self) -> tuple[View, ...]:
        """Each member's, in the order of the engine's."""
        return self._members.views

    @property
    def engine(self) -> Engine:
        """What decodes: for those who measure it."""
        return self._engine

    @property
    def fed_tokens(self) -> Mapping[str, int]:
        """Tokens decoded so far by each running role: what the caches saved does not count."""
        fed = self._engine.n_fed
        return {role: fed[member] for role, member in self._members.roles.items() if member in fed}

    @property
    def plan(self) -> Plan | None:
        """Where the members run, and what they need there."""
        return self._engine.plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What went otherwise than planned, a line each: a device that could not hold what it should have."""
        return tuple(self._engine.notes.values())

    def sequences_that_fit(self, most: int) -> int:
        """How many sequences, up to `most`, there is memory for at once; what was forced to load is not held back."""
        plan = self._engine.plan
        return plan.sequences_that_fit(most) if plan is not None and plan.fits else most

    @property
    def parallel(self) -> int:
        """How many prompts are answered at once where nobody names a number: what suits the machine."""
        plan = self._engine.plan
        return 1 if plan is None else sequences_at_once(plan, self._engine.n_threads)

    def mix(self, settings: Settings) -> Mix:
        """The members' weights under `settings`. Raises SettingError for a reward that there is none of."""
        return self._members.mix(settings)

    # --- answers ------------------------------------------------------------------------------------------------------

    def stream(self, prompt: Prompt, *, cancelled: Callable[[], bool] | None = None, **dials: Unpack[Dials]) -> Stream:
        """Answer a prompt (a user's message, a conversation, or Raw text), as an iterator of text deltas.

        A conversation that ends with an assistant's message is continued. `cancelled` is asked before every decode;
        when it answers True the stream ends and the reply keeps what came. Closing the iterator does the same.
        Raises ViewError, ContextError, SettingError, and DecodeError while it runs.
        """
        generation = self._preparer.generation(prompt, self.settings.turned(**dials), (0,))
        return Stream(generation, self._decoder.decode(generation, cancelled))

    def generate(self, prompt: Prompt, *, cancelled: Callable[[], bool] | None = None, **dials: Unpack[Dials]) -> Reply:
        """Answer a prompt, whole. As `stream`."""
        stream = self.stream(prompt, cancelled=cancelled, **dials)
        for _ in stream:
            pass
        return stream.reply

    def answers(
        self, jobs: Iterable[Job | None], *, parallel: int | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Answer]:
        """Answer a stream of jobs, `parallel` at a time in one decode per member and step; answers as they finish.

        None is as many as suit the machine. Fewer at a time where memory is short, which changes no answer.
        A job is pulled when there is a place for it, so jobs may come without end, and memory stays the same. An
        iterator that would have to wait for the next one gives None: then what runs goes on before it is asked again.
        What is wrong with one job (ViewError, ContextError, SettingError, DecodeError) is its answer; the others go on.
        When `cancelled` answers True, what runs is answered as cancelled and no job is pulled any more.
        """
        parallel = self.parallel if parallel is None else parallel
        if not 1 <= parallel <= MAX_SEQUENCES:
            raise SettingError(f"parallel is {parallel}; it must be between 1 and {MAX_SEQUENCES}.")
        parallel = self.sequences_that_fit(parallel)
        self._engine.reserve(parallel, self.context)

        def prepare(job: Job) -> Generation:
            stream = job.stream if isinstance(job.stream, tuple) else (job.stream,)
            return self._preparer.generation(job.prompt, self.settings.turned(**job.dials), stream)

        return answers(self._decoder, prepare, jobs, parallel, cancelled)

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        *,
        parallel: int | None = None,
        cancelled: Callable[[], bool] | None = None,
        **dials: Unpack[Dials],
    ) -> list[Reply]:
        """Answer all prompts, so many at a time as `answers` does; replies in their order. Raises as `stream` does.

        When `cancelled` answers True, the prompts that had no place yet have no reply.

        Prompt i draws from the stream (seed, i), so that its answer depends neither on `parallel` nor on the others.
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

    def block_seconds(self, prompt: Prompt, lengths: Sequence[int]) -> dict[int, float]:
        """Seconds that the decodes of a block of so many guesses take after `prompt`, without anything else."""
        mix = self.mix(self.settings)
        prompts = {member: self._prompt(member, prompt) for member in mix.active}
        return block_seconds(self._engine, mix, self._members.drafter(mix), prompts, lengths)

    def _prompt(self, member: int, prompt: Prompt) -> list[int]:
        return self._preparer.prompt(member, prompt)

    # --- scores -------------------------------------------------------------------------------------------------------

    def score(self, prompt: Prompt, completion: str | Sequence[int], *, top: int = 0, **dials: Unpack[Dials]) -> Score:
        """Log-probabilities of `completion` (text, or token ids), as an answer to `prompt`.

        Under the emulator and under every role alone, also those whose weight is 0; no sampling setting enters. `top`:
        also the likeliest tokens at each place. Raises as `stream` does.
        """
        task = self._task(prompt, completion, top, dials)
        return score_all(self._engine, self._combiner, self._members, [task])[0]

    def score_many(self, pairs: Sequence[tuple[Prompt, str | Sequence[int], Dials]]) -> list[Score | EftError]:
        """Score pairs of a prompt and a completion, each with settings of its own, SCORED_AT_ONCE at the same time.

        What is wrong with one pair is its result; the others are scored.
        """
        found: dict[int, Score | EftError] = {}
        tasks: dict[int, Task] = {}
        for i, (prompt, completion, dials) in enumerate(pairs):
            try:
                tasks[i] = self._task(prompt, completion, 0, dials)
            except EftError as error:
                found[i] = error
        at_once = self.sequences_that_fit(min(SCORED_AT_ONCE, max(1, len(tasks))))
        self._engine.reserve(at_once, self.context)
        numbers = list(tasks)
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            try:
                scores = score_all(self._engine, self._combiner, self._members, [tasks[i] for i in some])
                found.update(zip(some, scores, strict=True))
            except DecodeError as error:
                found.update(dict.fromkeys(some, error))
        return [found[i] for i in range(len(pairs))]

    def _task(self, prompt: Prompt, completion: str | Sequence[int], top: int, dials: Dials) -> Task:
        prompts = {member: self._prompt(member, prompt) for member in range(len(self._members.specs))}
        tokens = self._engine.model(0).tokenize(completion) if isinstance(completion, str) else list(completion)
        if not tokens:
            raise SettingError("The completion is empty.", "Give at least one character to score.")
        must_fit({r: len(prompts[m]) + len(tokens) - 1 for r, m in self._members.roles.items()}, self.context)
        return Task(self.mix(self.settings.turned(**dials)), prompts, tokens, top)

    # --- its end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the models and their caches."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _configured(emulator: catalog.Emulator) -> Settings:
    """The settings that the emulator starts from; a CatalogError where its file gives one out of its range."""
    try:
        return Settings(stop=emulator.stop).turned(**emulator.sampling)  # type: ignore[arg-type]  # keys were checked
    except SettingError as error:
        raise CatalogError(f"{emulator.source}: [emulators.{emulator.name}] sampling: {error.message}") from None
