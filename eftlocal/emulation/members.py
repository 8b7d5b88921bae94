"""The members of an emulator: which models take part, in which roles, with which views and weights."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.bias import Bias
from eftlocal.arithmetic.combine import Mix, Pair
from eftlocal.catalog.endpoints import UNPROTECTED, Endpoint
from eftlocal.decoding.settings import Settings
from eftlocal.emulation import notes, remote
from eftlocal.emulation.rpc import NONE, Workers, device_names, with_workers
from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import ModelFileError, SettingError
from eftlocal.runtime import gguf, templates
from eftlocal.runtime.plan.loads import Member
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import Plan, plan
from eftlocal.runtime.plan.wishes import Wishes
from eftlocal.runtime.views import View

__all__ = ["Members", "RewardMembers"]

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class RewardMembers:
    """One reward of an emulator: the indices of its two members, its configured strength `beta` and its bias."""

    name: str
    tuned: int
    reference: int
    beta: float
    bias: Bias | None = None

    def pair(self, beta: float) -> Pair:
        """The reward at another strength. Its bias is scaled in the same way, so that nothing of it is left at 0."""
        bias = self.bias.scaled(beta / self.beta) if self.bias is not None and self.beta else None
        return Pair(self.tuned, self.reference, beta, bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The members of one emulator. A model that has several roles with the same view is one member.

    specs    the model of each member
    views    the view of each member
    base     index of the base's member
    rewards  the rewards with their members
    n_real   number of token ids that all members share (runtime.vocab.shared)
    skipped  token ids below n_real that differ between members; rewards do not apply to them
    system   the system text of a conversation that has none of its own
    upper    index of a truly tuned large model that only stands beside, for a comparison; None if there is none
    """

    specs: tuple[MemberSpec, ...]
    views: tuple[View, ...]
    base: int
    rewards: tuple[RewardMembers, ...]
    n_real: int
    skipped: NDArray[np.intp]
    system: str | None = None
    upper: int | None = None

    @property
    def roles(self) -> Mapping[str, int]:
        """Role name -> member index: base, tuned, reference; with several rewards NAME.tuned and NAME.reference.

        A truly tuned large model has the role `upper`.
        """
        roles = {"base": self.base}
        for reward in self.rewards:
            prefix = f"{reward.name}." if len(self.rewards) > 1 else ""
            roles |= {f"{prefix}tuned": reward.tuned, f"{prefix}reference": reward.reference}
        return roles | ({} if self.upper is None else {"upper": self.upper})

    @property
    def date(self) -> datetime.date | None:
        """The date that templates were given; None if none asks for the date, or if they see today's."""
        return next((view.date for view in self.views if templates.asks_for_date(view.template)), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each adapter of which llama.cpp does not use everything, and for each reward without effect."""
        found = [notes.adapter(spec.model or spec.name, _adapter(spec), spec.header) for spec in self.specs]
        found += [remote.leaves(spec.model, spec.remote.link.server) for spec in self.specs if spec.remote is not None]
        found += [_unprotected(spec.model, spec.rpc) for spec in self.specs if spec.rpc]
        for reward in self.rewards:
            tuned, reference = self.specs[reward.tuned], self.specs[reward.reference]
            views = self.views[reward.tuned], self.views[reward.reference]
            one = (tuned.header.path, tuned.lora) == (reference.header.path, reference.lora)
            if one and views[0].system != views[1].system:
                found.append(notes.same(reward.name, *views))
        return tuple(note for note in dict.fromkeys(found) if note is not None)

    def mix(self, settings: Settings) -> Mix:
        """The members' weights under these settings. Raises SettingError for an unknown reward or role."""
        if settings.alone is not None:
            if settings.alone not in self.roles:
                raise SettingError(
                    f"There is no role named {settings.alone!r}.", f"Roles: {', '.join(self.roles)}.", setting="alone"
                )
            return Mix(len(self.specs), self.roles[settings.alone])
        names = [reward.name for reward in self.rewards]
        for name in settings.mix:
            if name not in names:
                raise SettingError(
                    f"There is no reward named {name!r}.", f"Rewards: {', '.join(names) or 'none'}.", setting="mix"
                )
        pairs = tuple(r.pair(settings.beta * settings.mix.get(r.name, r.beta)) for r in self.rewards)
        # The combiner leaves `skipped` out only with a reward_top_p; 1.0 keeps all other ids.
        reward_top_p = 1.0 if len(self.skipped) and settings.reward_top_p is None else settings.reward_top_p
        found = Mix(len(self.specs), self.base, pairs, reward_top_p)
        if not found.active:
            raise SettingError(
                "The members' weights add up to 0, so nothing is left to decode.",
                "Change beta or the mix.",
                setting="beta",
            )
        return found

    def plan(self, machine: Machine, cache: Cache, wishes: Wishes, workers: Workers = NONE) -> Plan:
        """Where each member would run on `machine`, and whether they fit. Raises SettingError for a wrong wish.

        `workers` are those that were asked; of the others, the memory is not known.
        """
        members = [self._member(i, workers) for i in range(len(self.specs))]
        return plan(members, with_workers(machine, self.specs, workers), cache, wishes)

    def _member(self, i: int, workers: Workers) -> Member:
        spec = self.specs[i]
        roles = [role for role, member in self.roles.items() if member == i]
        names = (*roles, *(role.rpartition(".")[2] for role in roles), spec.model)
        return Member(
            header=spec.header,
            names=tuple(dict.fromkeys(names)),
            lora=_adapter(spec),
            gpu_layers=spec.gpu_layers,
            workers=device_names(spec.rpc or (), workers),
        )

    def drafter(self, mix: Mix) -> int | None:
        """The draft model: the smallest member that runs as the base or as a tuned model with a positive beta.

        Its guesses are cheap and probably right. None if only one member runs: guesses would cost as much as tokens.
        """
        if len(mix.active) < 2:
            return None
        strength = {mix.base: 1.0}
        for pair in mix.pairs:
            strength[pair.tuned] = strength.get(pair.tuned, 0.0) + pair.beta
        able = [m for m in mix.active if strength.get(m, 0.0) > 0 and self.specs[m].remote is None]
        return min(able, key=lambda m: (self.specs[m].header.tensor_bytes, -strength[m]), default=None)

    def context(self, asked: int | None) -> int:
        """The context in tokens: as asked, else 4,096 or less if a member was trained for less.

        Raises SettingError if more is asked than a member was trained for, or than its server has room for.
        """
        trained = min(_trained(spec) for spec in self.specs)
        if asked is not None and asked < 1:
            raise SettingError(f"The context is {asked} tokens; it must be at least 1.")
        if asked is not None and asked > trained:
            short = min(self.specs, key=_trained)
            if short.remote is not None and (room := short.remote.link.facts.n_ctx) is not None:
                raise remote.no_room(short.remote.link, asked, room)
            raise SettingError(
                f"A context of {asked} tokens is more than the {trained} that {short.name} was trained for.",
                "Leave --ctx out, or give at most that.",
            )
        return asked or min(DEFAULT_CONTEXT, trained)


def _unprotected(name: str, workers: Sequence[Endpoint]) -> str | None:
    """The note for workers at addresses of a network."""
    if not (far := [str(worker) for worker in workers if not worker.is_here]):
        return None
    return f"{name} has layers on {', '.join(far)}: {UNPROTECTED}"


def _adapter(spec: MemberSpec) -> gguf.Header | None:
    """The adapter's header; None if there is no adapter or its file cannot be read."""
    if spec.lora is None:
        return None
    try:
        return gguf.read(spec.lora[0])
    except ModelFileError:
        return None


def _trained(spec: MemberSpec) -> int:
    """The context in tokens that the model was trained for; 4,096 if its file does not say it."""
    value = spec.header.metadata.get(f"{spec.header.architecture}.context_length")
    return value if isinstance(value, int) and value > 0 else DEFAULT_CONTEXT
