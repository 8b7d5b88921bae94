"""From a prompt and settings to an answer that is ready to be decoded: rendered, checked, with its random numbers."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eftlocal.arithmetic.combine import Mix
from eftlocal.arithmetic.speculate import Uniforms
from eftlocal.decoding.constraints.constraint import Constraint, Grammars, Matcher
from eftlocal.decoding.drafts.lookup import PromptLookup
from eftlocal.decoding.generation import Generation, must_fit
from eftlocal.decoding.logprobs import Places
from eftlocal.decoding.settings import Settings
from eftlocal.decoding.stream import TextStream
from eftlocal.emulation.members import Members
from eftlocal.engine.engine import Engine
from eftlocal.runtime.plan.memory import Sizes
from eftlocal.runtime.views import RAW, Message, View

__all__ = ["Preparer", "Prompt", "Raw", "as_messages", "new_seed"]


class Raw(str):
    """A prompt that every member gets as it is: no template, no turns."""

    __slots__ = ()


Prompt = str | Sequence[Message]

WORTH_DRAFTING = 32_000_000  # bytes: the largest member decodes a token about as fast as a guess is made
DRAFTER = 0.5  # of what the largest member reads for a token, at most: no cheaper member is worth asking first

RAW_VIEW = View(template=RAW, variables={})


class Preparer:
    """Makes generations for the members of one emulator; it keeps what constraints need of their vocabulary."""

    def __init__(self, members: Members, engine: Engine) -> None:
        self._members = members
        self._engine = engine
        self._grammars: dict[tuple[Path, ...], Grammars] = {}  # by the models in memory: each may end an answer
        self._reads: dict[Path, int] = {}

    def generation(self, prompt: Prompt, settings: Settings, stream: Sequence[int]) -> Generation:
        """An answer that draws from the random numbers of (seed, *stream).

        Raises ContextError where the prompt leaves no room for an answer, ViewError and SettingError.
        """
        mix = self._members.mix(settings)
        prompts = {member: self.prompt(member, prompt) for member in mix.active}
        if not self._may_guess(mix, settings):
            settings = replace(settings, draft=0)
        drafter = self._drafter(mix, settings)
        looks_up = settings.draft == "auto" or (bool(settings.draft) and drafter is None)
        seed = new_seed() if settings.seed is None else settings.seed
        piece = self._engine.model(mix.active[0]).piece
        generation = Generation(
            prompts=prompts,
            mix=mix,
            settings=settings,
            seed=seed,
            stream=TextStream(piece, self._stops(prompt, mix, settings)),
            roles={role: member for role, member in self._members.roles.items() if member in prompts},
            uniforms=Uniforms(np.random.Generator(np.random.PCG64([seed, *stream])), 1 if drafter is None else 3),
            drafter=drafter,
            repeats=PromptLookup(next(iter(prompts.values()))) if looks_up else None,
            matcher=None if settings.constraint is None else self._matcher(settings.constraint),
        )
        if settings.logprobs is not None:
            pairs = {reward.name: (reward.tuned, reward.reference) for reward in self._members.rewards}
            base, n_real = self._members.base, self._members.n_real
            generation.logprobs_of = Places(base, pairs, n_real, piece, settings.logprobs)
        must_fit(generation.prompt_tokens, self._engine.n_ctx)
        return generation

    def _may_guess(self, mix: Mix, settings: Settings) -> bool:
        """Whether guesses can be made, and by themselves where they can win. By the files alone, as `_drafter`."""
        if not all(self._engine.model(member).rewinds for member in mix.active):
            return False  # a wrong guess would cost the whole prompt again
        return settings.draft != "auto" or any(self._read(member) >= WORTH_DRAFTING for member in mix.active)

    def _drafter(self, mix: Mix, settings: Settings) -> int | None:
        """The member that offers tokens. Which one, and whether any, follows from settings and files alone: a seed's
        text depends on it, and must be the same everywhere.
        """
        drafter = self._members.drafter(mix) if settings.draft else None
        if drafter is None or settings.draft != "auto":
            return drafter
        return drafter if self._read(drafter) <= DRAFTER * max(map(self._read, mix.active)) else None

    def _read(self, member: int) -> int:
        """Bytes of weights that a token of the member reads."""
        header = self._members.specs[member].header
        if header.path not in self._reads:
            self._reads[header.path] = Sizes.of(header).read
        return self._reads[header.path]

    def prompt(self, member: int, prompt: Prompt) -> list[int]:
        """The member's rendering of a prompt. Raises ViewError."""
        view = RAW_VIEW if isinstance(prompt, Raw) else self._members.views[member]
        return view.prompt(self._engine.model(member), as_messages(prompt))

    def _stops(self, prompt: Prompt, mix: Mix, settings: Settings) -> tuple[str, ...]:
        # A constraint says where the answer ends; what would end a free text may stand in the middle of it.
        free = not isinstance(prompt, Raw) and settings.constraint is None
        views = [self._members.views[member] for member in mix.active] if free else []
        return tuple(dict.fromkeys((*settings.stop, *(stop for view in views for stop in view.stops))))

    def _matcher(self, constraint: Constraint) -> Matcher:
        loaded = tuple(model.path for model in self._engine.loaded)
        if loaded not in self._grammars:
            model, tokens = self._engine.loaded[0], range(self._members.n_real)
            ends = [token for token in tokens if self._engine.is_eog(token)]
            self._grammars[loaded] = Grammars([model.piece(token) for token in tokens], ends, model.tokenize)
        return self._grammars[loaded].matcher(constraint)


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as a conversation: a text is one message of the user's."""
    return [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)


def new_seed() -> int:
    """Any seed."""
    return secrets.randbits(32)
