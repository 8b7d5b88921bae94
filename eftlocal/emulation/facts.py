"""What is known about a loaded emulator: its roles and strengths, its vocabulary, and where its members run."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.bias import Bias
from eftlocal.arithmetic.combine import Mix
from eftlocal.decoding.settings import Settings
from eftlocal.emulation.loading import Loaded
from eftlocal.emulation.members import Members
from eftlocal.emulation.tokenizer import Tokenizer
from eftlocal.runtime import vocab
from eftlocal.runtime.plan.parallel import sequences_at_once
from eftlocal.runtime.plan.placement import Plan

__all__ = ["Facts"]


class Facts:
    """What an emulator says about itself. Nothing here decodes; `Emulator` adds that.

    name      its name in the catalogue
    settings  the settings that an answer has where nothing else is asked for
    load_s    the seconds that loading took
    rewards   its rewards, as the catalogue has them
    """

    def __init__(self, loaded: Loaded) -> None:
        self.name = loaded.name
        self.settings = loaded.settings
        self.load_s = loaded.load_s
        self.rewards = loaded.rewards
        self._members = loaded.members
        self._engine = loaded.engine

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
