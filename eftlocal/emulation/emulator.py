"""The public face: an emulator that is loaded by name and answers, streams and scores."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np

from eftlocal.catalog import models as catalog
from eftlocal.emulation.combine import Combiner, Mix
from eftlocal.emulation.costs import block_seconds
from eftlocal.emulation.decoding import Decoder
from eftlocal.emulation.engine import Engine
from eftlocal.emulation.generation import Generation, Reply, must_fit
from eftlocal.emulation.members import Members, assemble
from eftlocal.emulation.scoring import Score, ScoredToken, score
from eftlocal.emulation.settings import Dials, Settings
from eftlocal.emulation.speculate import Uniforms
from eftlocal.emulation.stream import TextStream
from eftlocal.errors import CatalogError, SettingError
from eftlocal.runtime.llama import KV_TYPES, MAX_SEQUENCES
from eftlocal.runtime.plan.threads import usable_cores
from eftlocal.runtime.views import RAW, Message, View

__all__ = ["Emulator", "Prompt", "Raw", "Score", "ScoredToken", "Stream"]

PARALLEL = 8  # sequences at once, where the caller names no number


RAW_VIEW = View(template=RAW, variables={})


class Raw(str):
    """A prompt that every member gets as it is: no template, no turns."""

    __slots__ = ()


Prompt = str | Sequence[Message]


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

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        models: Path | str | catalog.Catalog | None = None,
        context: int | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        kv_type: str = "f16",
        **dials: Unpack[Dials],
    ) -> Self:
        """Load the emulator `name` (None: the catalogue's default) and the members that its settings need.

        models      a models.toml beside the packaged and the user's own, or a whole catalogue instead of them
        context     tokens a sequence may have; None: the emulator's, at most what every member was trained for
        threads     CPU threads in all; None: every core this process may use
        gpu_layers  layers of each model on the device; None: all, where the build can offload
        kv_type     f16, q8_0 (half the cache's memory) or f32 (twice, and exact: no flash attention)
        dials       settings that differ from the emulator's, by the names of `Settings` and `Sampling`

        Raises CatalogError, ModelFileError, ModelLoadError, VocabularyError, ViewError or SettingError.
        """
        started = time.perf_counter()
        cat = models if isinstance(models, catalog.Catalog) else catalog.load(None if models is None else Path(models))
        emulator = cat.emulator(name)
        members = assemble(cat, emulator, gpu_layers=gpu_layers)
        if kv_type not in KV_TYPES:
            raise SettingError(f"kv_type is {kv_type!r}; it must be one of {', '.join(KV_TYPES)}.")
        if threads is not None and threads < 1:
            raise SettingError(f"threads is {threads}; it must be at least 1.")
        engine = Engine(
            members.specs,
            n_ctx=members.context(emulator.context if context is None else context),
            n_threads=threads or usable_cores(),
            kv_type=kv_type,
        )
        settings = _configured(emulator)
        self = cls(members, engine, name=emulator.name, settings=settings.turned(**dials), load_s=0.0)
        try:
            for member in self.mix(self.settings).active:
                engine.model(member)
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
    def engine(self) -> Engine:
        """What decodes: for those who measure it."""
        return self._engine

    @property
    def fed_tokens(self) -> Mapping[str, int]:
        """Tokens decoded so far by each running role: what the caches saved does not count."""
        fed = self._engine.n_fed
        return {role: fed[member] for role, member in self._members.roles.items() if member in fed}

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
        generation = self._generation(prompt, self.settings.turned(**dials), 0)
        steps = self._decoder.decode([generation], cancelled)
        return Stream(generation, (delta for _, delta in steps if delta))

    def generate(self, prompt: Prompt, *, cancelled: Callable[[], bool] | None = None, **dials: Unpack[Dials]) -> Reply:
        """Answer a prompt, whole. As `stream`."""
        stream = self.stream(prompt, cancelled=cancelled, **dials)
        for _ in stream:
            pass
        return stream.reply

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        *,
        parallel: int = PARALLEL,
        cancelled: Callable[[], bool] | None = None,
        **dials: Unpack[Dials],
    ) -> list[Reply]:
        """Answer all prompts, `parallel` at a time in one decode per member and step; replies in the prompts' order.

        Prompt i draws from the stream (seed, i), so that its answer depends neither on `parallel` nor on the others.
        """
        settings = self.settings.turned(**dials)
        if settings.seed is None:
            settings = settings.turned(seed=_new_seed())
        generations = [self._generation(prompt, settings, i) for i, prompt in enumerate(prompts)]
        if not 1 <= parallel <= MAX_SEQUENCES:
            raise SettingError(f"parallel is {parallel}; it must be between 1 and {MAX_SEQUENCES}.")
        self._engine.reserve(min(parallel, len(prompts)), self.context)
        for _ in self._decoder.decode(generations, cancelled):
            pass
        return [generation.reply for generation in generations]

    def block_seconds(self, prompt: Prompt, lengths: Sequence[int]) -> dict[int, float]:
        """Seconds that the decodes of a block of so many guesses take after `prompt`, without anything else."""
        mix = self.mix(self.settings)
        prompts = {member: self._prompt(member, prompt) for member in mix.active}
        return block_seconds(self._engine, mix, self._members.drafter(mix), prompts, lengths)

    def _generation(self, prompt: Prompt, settings: Settings, index: int) -> Generation:
        """An answer that is ready to be decoded. Raises ContextError where a prompt leaves no room for one."""
        mix = self.mix(settings)
        prompts = {member: self._prompt(member, prompt) for member in mix.active}
        if not all(self._engine.model(member).rewinds for member in mix.active):
            settings = settings.turned(draft=0)  # a wrong guess would cost the whole prompt again
        drafter = self._members.drafter(mix) if settings.draft else None
        seed = _new_seed() if settings.seed is None else settings.seed
        generation = Generation(
            prompts=prompts,
            mix=mix,
            settings=settings,
            seed=seed,
            stream=TextStream(self._engine.model(mix.active[0]).piece, self._stops(prompt, mix, settings)),
            roles={role: member for role, member in self._members.roles.items() if member in prompts},
            uniforms=Uniforms(np.random.Generator(np.random.PCG64([seed, index])), 1 if drafter is None else 3),
            drafter=drafter,
        )
        must_fit(generation.prompt_tokens, self.context)
        return generation

    def _prompt(self, member: int, prompt: Prompt) -> list[int]:
        view = RAW_VIEW if isinstance(prompt, Raw) else self._members.views[member]
        return view.prompt(self._engine.model(member), as_messages(prompt))

    def _stops(self, prompt: Prompt, mix: Mix, settings: Settings) -> tuple[str, ...]:
        views = () if isinstance(prompt, Raw) else [self._members.views[member] for member in mix.active]
        return tuple(dict.fromkeys((*settings.stop, *(stop for view in views for stop in view.stops))))

    # --- scores -------------------------------------------------------------------------------------------------------

    def score(self, prompt: Prompt, completion: str | Sequence[int], *, top: int = 0, **dials: Unpack[Dials]) -> Score:
        """Log-probabilities of `completion` (text, or token ids), as an answer to `prompt`.

        Under the emulator and under every role alone, also those whose weight is 0; no sampling setting enters. `top`:
        also the likeliest tokens at each place. Raises as `stream` does.
        """
        everyone = range(len(self._members.specs))
        prompts = {member: self._prompt(member, prompt) for member in everyone}
        tokens = self._engine.model(0).tokenize(completion) if isinstance(completion, str) else list(completion)
        if not tokens:
            raise SettingError("The completion is empty.", "Give at least one character to score.")
        must_fit({r: len(prompts[m]) + len(tokens) - 1 for r, m in self._members.roles.items()}, self.context)
        mix = self.mix(self.settings.turned(**dials))
        return score(self._engine, self._combiner, self._members, mix, prompts, tokens, top)

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


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as a conversation: a text is one message of the user's."""
    return [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)


def _configured(emulator: catalog.Emulator) -> Settings:
    """The settings that the emulator starts from; a CatalogError where its file gives one out of its range."""
    try:
        return Settings(stop=emulator.stop).turned(**emulator.sampling)  # type: ignore[arg-type]  # keys were checked
    except SettingError as error:
        raise CatalogError(f"{emulator.source}: [emulators.{emulator.name}] sampling: {error.message}") from None


def _new_seed() -> int:
    return secrets.randbits(32)
