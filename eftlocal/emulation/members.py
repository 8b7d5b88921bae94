"""From an emulator of the catalogue to its members: which files take part, with which view, in which roles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.combine import Mix, Pair
from eftlocal.catalog import models as catalog
from eftlocal.decoding.settings import Settings
from eftlocal.engine.workers import MemberSpec
from eftlocal.errors import ModelFileError, SettingError, ViewError
from eftlocal.runtime import gguf, vocab
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import Member, Plan, Wishes, plan
from eftlocal.runtime.views import RAW, TRANSCRIPT, TRANSCRIPT_STOPS, View

__all__ = ["Found", "Members", "RewardMembers", "assemble", "on_this_machine"]

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class RewardMembers:
    """One reward of an emulator, with its members by index and its configured strength."""

    name: str
    tuned: int
    reference: int
    beta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The members of one emulator; a model that stands in several roles with the same view is one of them.

    `views`: each member's. `n_real` and `skipped`: the vocabulary they share (runtime.vocab.shared).
    """

    specs: tuple[MemberSpec, ...]
    views: tuple[View, ...]
    base: int
    rewards: tuple[RewardMembers, ...]
    n_real: int
    skipped: NDArray[np.intp]

    @property
    def roles(self) -> Mapping[str, int]:
        """Role name -> member: base, tuned, reference; with several rewards NAME.tuned and NAME.reference."""
        roles = {"base": self.base}
        for reward in self.rewards:
            prefix = f"{reward.name}." if len(self.rewards) > 1 else ""
            roles |= {f"{prefix}tuned": reward.tuned, f"{prefix}reference": reward.reference}
        return roles

    def mix(self, settings: Settings) -> Mix:
        """The sum under these settings; SettingError for a reward or a role that there is none of."""
        if settings.alone is not None:
            if settings.alone not in self.roles:
                raise SettingError(f"There is no role named {settings.alone!r}.", f"Roles: {', '.join(self.roles)}.")
            return Mix(len(self.specs), self.roles[settings.alone])
        names = [reward.name for reward in self.rewards]
        for name in settings.mix:
            if name not in names:
                raise SettingError(f"There is no reward named {name!r}.", f"Rewards: {', '.join(names) or 'none'}.")
        pairs = tuple(
            Pair(r.tuned, r.reference, settings.beta * settings.mix.get(r.name, r.beta)) for r in self.rewards
        )
        # Where ids mean different texts, rewards count on a part of the vocabulary only.
        reward_top_p = 1.0 if len(self.skipped) and settings.reward_top_p is None else settings.reward_top_p
        found = Mix(len(self.specs), self.base, pairs, reward_top_p)
        if not found.active:
            raise SettingError(
                "The members' weights add up to 0, so nothing is left to decode.", "Change beta or the mix."
            )
        return found

    def plan(self, machine: Machine, cache: Cache, wishes: Wishes) -> Plan:
        """Where every member would run on `machine`, and whether they fit. Raises SettingError for a wrong wish."""
        return plan([self._member(i) for i in range(len(self.specs))], machine, cache, wishes)

    def _member(self, i: int) -> Member:
        spec = self.specs[i]
        roles = [role for role, member in self.roles.items() if member == i]
        names = (*roles, *(role.rpartition(".")[2] for role in roles), spec.model)
        return Member(
            header=spec.header, names=tuple(dict.fromkeys(names)), lora=_adapter(spec), gpu_layers=spec.gpu_layers
        )

    def drafter(self, mix: Mix) -> int | None:
        """The member whose tokens are likely the emulator's and cheap: the smallest of those that count for something.

        None where it would be the only one, and so no cheaper than what checks its guesses.
        """
        if len(mix.active) < 2:
            return None
        strength = {mix.base: 1.0}
        for pair in mix.pairs:
            strength[pair.tuned] = strength.get(pair.tuned, 0.0) + pair.beta
        able = [member for member in mix.active if strength.get(member, 0.0) > 0]
        return min(able, key=lambda m: (self.specs[m].header.tensor_bytes, -strength[m]), default=None)

    def context(self, asked: int | None) -> int:
        """Tokens of a sequence: as asked, else 4,096, at most what every member was trained for."""
        trained = min(_trained(spec) for spec in self.specs)
        if asked is not None and asked < 1:
            raise SettingError(f"The context is {asked} tokens; it must be at least 1.")
        if asked is not None and asked > trained:
            short = min(self.specs, key=_trained)
            raise SettingError(
                f"A context of {asked} tokens is more than the {trained} that {short.name} was trained for.",
                "Leave --ctx out, or give at most that.",
            )
        return asked or min(DEFAULT_CONTEXT, trained)


def _adapter(spec: MemberSpec) -> gguf.Header | None:
    """The adapter's header; None where there is none, or not yet."""
    if spec.lora is None:
        return None
    try:
        return gguf.read(spec.lora[0])
    except ModelFileError:
        return None


def _trained(spec: MemberSpec) -> int:
    value = spec.header.metadata.get(f"{spec.header.architecture}.context_length")
    return value if isinstance(value, int) and value > 0 else DEFAULT_CONTEXT


@dataclass(frozen=True, slots=True)
class Found:
    """A model's file, and its adapter with its strength."""

    header: gguf.Header
    lora: tuple[Path, float] | None = None


def on_this_machine(model: catalog.Model) -> Found:
    """The model's files here, checked. Raises CatalogError where they are not, and ModelFileError."""
    if (lora := catalog.local_lora(model)) is not None:
        gguf.check_lora(lora[0])
    return Found(gguf.check(catalog.local_path(model)), lora)


def assemble(
    cat: catalog.Catalog,
    emulator: catalog.Emulator,
    *,
    find: Callable[[catalog.Model], Found] = on_this_machine,
) -> Members:
    """The members of `emulator`: files checked, vocabularies compared, views resolved; no weights loaded.

    `find` gives each model's header; the caller may have another way to it than a file that is here.
    Raises CatalogError, ModelFileError, VocabularyError or ViewError.
    """
    files = {name: find(cat.model(name)) for name in emulator.models}
    headers = {name: found.header for name, found in files.items()}
    vocabularies = {name: vocab.Vocabulary.of(header) for name, header in headers.items()}
    shared = vocab.shared(vocabularies, special_tokens_differ=emulator.special_tokens_differ)
    found: list[tuple[MemberSpec, View]] = []

    def member(role: str, name: str, reward: catalog.Reward | None = None) -> int:
        model = cat.model(name)
        spec = MemberSpec(
            name=f"{name} ({role}{f' of {reward.name}' if reward else ''})",
            header=headers[name],
            lora=files[name].lora,
            gpu_layers=model.gpu_layers,
            model=name,
        )
        view = _view(role, name, reward, emulator, headers)
        for i, (other, others_view) in enumerate(found):
            if other.header is spec.header and other.lora == spec.lora and others_view == view:
                return i
        found.append((spec, view))
        return len(found) - 1

    base = member("base", emulator.base)
    rewards = tuple(
        RewardMembers(r.name, member("tuned", r.tuned, r), member("reference", r.reference, r), r.beta)
        for r in emulator.rewards
    )
    return Members(
        specs=tuple(spec for spec, _ in found),
        views=tuple(view for _, view in found),
        base=base,
        rewards=rewards,
        n_real=shared.n_real,
        skipped=shared.differing,
    )


def _view(
    role: str,
    name: str,
    reward: catalog.Reward | None,
    emulator: catalog.Emulator,
    headers: Mapping[str, gguf.Header],
) -> View:
    """The view of the model `name` in `role`: the reward's own where it has one, else the emulator's."""
    chosen = (reward.views.get(role) if reward else None) or emulator.views[role]
    # `chat:ROLE` is another role's template: the same reward's, or for the base the first reward's.
    pair = reward or next(iter(emulator.rewards), None)
    models = {"base": emulator.base, **({"tuned": pair.tuned, "reference": pair.reference} if pair else {})}
    owner = models.get(chosen.role, name) if chosen.role else name
    template = {"transcript": TRANSCRIPT, "raw": RAW, "template": chosen.template or ""}.get(chosen.kind)
    if template is None and not (template := headers[owner].text("tokenizer.chat_template")):
        with_one = [f"chat:{r}" for r, m in models.items() if headers[m].text("tokenizer.chat_template")]
        raise ViewError(
            f"{owner} has no chat template, so the view {chosen.kind!r} of the {role} model cannot be rendered.",
            f"Views that work: {', '.join(['transcript', 'raw', *with_one])}.",
        )
    return View(
        template=template,
        variables={**_token_texts(headers[owner]), **emulator.template_args},
        stops=TRANSCRIPT_STOPS if chosen.kind == "transcript" else (),
        system=reward.system.get(role) if reward else None,
    )


def _token_texts(header: gguf.Header) -> dict[str, str]:
    """bos_token and eos_token, as the templates call them; empty where the vocabulary has none."""
    tokens = header.array("tokenizer.ggml.tokens")
    texts = tokens.strings() if tokens else []
    ids = {name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {
        f"{name}_token": texts[i].decode("utf-8", "replace") if isinstance(i, int) and 0 <= i < len(texts) else ""
        for name, i in ids.items()
    }
