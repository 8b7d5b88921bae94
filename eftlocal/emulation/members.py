"""The members of an emulator: which model files take part, in which roles, and with which views."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.combine import Bias, Mix, Pair
from eftlocal.catalog import models as catalog
from eftlocal.catalog import token_ids
from eftlocal.catalog.server import Server
from eftlocal.decoding.settings import Settings
from eftlocal.emulation import notes, remote
from eftlocal.engine.spec import MemberSpec, Remote
from eftlocal.errors import CatalogError, ModelFileError, SettingError, ViewError
from eftlocal.runtime import adapters, gguf, templates, vocab
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.plan.memory import Cache
from eftlocal.runtime.plan.placement import Member, Plan, Wishes, plan
from eftlocal.runtime.views import RAW, TRANSCRIPT, TRANSCRIPT_STOPS, View

__all__ = [
    "Found",
    "Members",
    "RewardMembers",
    "assemble",
    "files_of",
    "on_its_server",
    "on_this_machine",
    "unasked",
]

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
        far = [(spec.model, spec.remote.link.server) for spec in self.specs if spec.remote is not None]
        leaves = "runs at {}: what you write leaves this machine"
        found += [f"{name} {leaves.format(server)}" for name, server in far if not server.is_here]
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

    def plan(self, machine: Machine, cache: Cache, wishes: Wishes) -> Plan:
        """Where each member would run on `machine`, and whether they fit. Raises SettingError for a wrong wish."""
        return plan([self._member(i) for i in range(len(self.specs))], machine, cache, wishes)

    def _member(self, i: int) -> Member:
        spec = self.specs[i]
        roles = [role for role, member in self.roles.items() if member == i]
        names = (*roles, *(role.rpartition(".")[2] for role in roles), spec.model)
        return Member(
            header=spec.header, names=tuple(dict.fromkeys(names)), lora=_adapter(spec), gpu_layers=spec.gpu_layers
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

        Raises SettingError if more is asked than a member was trained for.
        """
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


@dataclass(frozen=True, slots=True)
class Found:
    """A model's header, its LoRA adapter as (file, scale) if it has one, and where it runs if that is a server."""

    header: gguf.Header
    lora: tuple[Path, float] | None = None
    remote: Remote | None = None


def on_this_machine(model: catalog.Model) -> Found:
    """Find and check the model's files on this machine. Raises CatalogError if they are missing, and ModelFileError."""
    lora = catalog.local_lora(model)
    adapter = None if lora is None else gguf.check_lora(lora[0])
    header = gguf.check(catalog.local_path(model))
    if adapter is not None:
        adapters.must_fit(adapter, header)
    return Found(header, lora)


def on_its_server(server: Server, lender: gguf.Header) -> Found:
    """Ask a server for its model. Raises RemoteError."""
    header, link = remote.reached(server, lender)
    return Found(header, remote=link)


def unasked(server: Server, lender: gguf.Header) -> Found:
    """What stands for a model on a server that is not asked."""
    return Found(remote.stand_in(server, lender))


def files_of(
    models: Sequence[catalog.Model],
    find: Callable[[catalog.Model], Found],
    reach: Callable[[Server, gguf.Header], Found] = on_its_server,
) -> dict[str, Found]:
    """What each model is, by its name. Those on this machine come first: their tokens stand for those of the others."""
    found = {model.name: find(model) for model in models if model.server is None}
    for model in models:
        if model.server is not None:
            lender = next(iter(found.values()), None)
            if lender is None:
                problem = f"{model.name} runs on {model.server}, and no model is on this machine"
                hint = "A server's model is steered by a pair here: name a tuned and a reference model."
                raise CatalogError(problem, hint)
            found[model.name] = reach(model.server, lender.header)
    return {model.name: found[model.name] for model in models}


def assemble(
    cat: catalog.Catalog,
    emulator: catalog.Emulator,
    *,
    find: Callable[[catalog.Model], Found] = on_this_machine,
    reach: Callable[[Server, gguf.Header], Found] = on_its_server,
    date: datetime.date | None = None,
    upper: str | None = None,
) -> Members:
    """Assemble the members of `emulator`: check files, compare vocabularies, resolve views. No weights are loaded.

    `find` gives each model's header; the default reads the file on this machine. `reach` gives what stands for a model
    on a server, whose tokens are those of the header it is given; the default asks the server. `date` is what templates
    see as today. `upper` names a model, or an emulator that is a model alone, to stand beside in the role `upper`.
    Raises CatalogError, ModelFileError, VocabularyError, ViewError or RemoteError.
    """
    _must_be_here(cat, emulator)
    beside = None if upper is None else cat.alone(upper)
    names = emulator.models if beside is None else tuple(dict.fromkeys((*emulator.models, beside.base)))
    if beside is not None:
        cat = replace(cat, models={**cat.models, beside.base: cat.model(beside.base)})
    files = files_of([cat.model(name) for name in names], find, reach)
    headers = {name: found.header for name, found in files.items()}
    vocabularies = {name: vocab.Vocabulary.of(header) for name, header in headers.items()}
    shared = vocab.shared(vocabularies, special_tokens_differ=emulator.special_tokens_differ)
    found: list[tuple[MemberSpec, View]] = []
    texts = cache(lambda name: _token_texts(headers[name]))

    def member(role: str, name: str, reward: catalog.Reward | None = None, whose: catalog.Emulator = emulator) -> int:
        model = cat.model(name)
        spec = MemberSpec(
            name=f"{name} ({role}{f' of {reward.name}' if reward else ''})",
            header=headers[name],
            lora=files[name].lora,
            gpu_layers=model.gpu_layers,
            model=name,
            remote=files[name].remote,
        )
        view = replace(_view(role, name, reward, whose, headers, texts), date=date)
        for i, (other, others_view) in enumerate(found):
            if other.header is spec.header and other.lora == spec.lora and others_view == view:
                return i
        found.append((spec, view))
        return len(found) - 1

    base = member("base", emulator.base)
    rewards = tuple(
        RewardMembers(
            r.name,
            member("tuned", r.tuned, r),
            member("reference", r.reference, r),
            r.beta,
            None if r.bias is None else _bias(r.bias, headers[emulator.base], shared.n_real),
        )
        for r in emulator.rewards
    )
    above = None
    if beside is not None:
        whose = replace(beside, views={"upper": beside.views["base"]}, template_args=emulator.template_args)
        above = member("upper", beside.base, whose=whose)
    return Members(
        specs=tuple(spec for spec, _ in found),
        views=tuple(view for _, view in found),
        base=base,
        rewards=rewards,
        n_real=shared.n_real,
        skipped=shared.differing,
        system=emulator.system,
        upper=above,
    )


def _must_be_here(cat: catalog.Catalog, emulator: catalog.Emulator) -> None:
    """Raises CatalogError where a pair is on a server: what is known of a partial row holds for a base alone."""
    for reward in emulator.rewards:
        for role, name in (("tuned", reward.tuned), ("reference", reward.reference)):
            if (server := cat.model(name).server) is not None:
                where = name if name == str(server) else f"{name} ({server})"
                problem = f"{where} is on a server, and cannot be the {role} model of the reward {reward.name}"
                raise CatalogError(problem, "Only a base can run on a server; its pair must be on this machine.")


def _bias(bias: catalog.Bias, header: gguf.Header, n_real: int) -> Bias:
    """The bias with its tokens. Raises CatalogError for a file of tokens that is damaged or of another vocabulary."""
    if bias.unseen_tokens is None:
        return Bias(bias.end)
    tokens = token_ids.read(bias.unseen_tokens, n_real)
    if tokens.vocabulary != (own := vocab.fingerprint(header, n_real)):
        problem = f"{bias.unseen_tokens}: its tokens are of the vocabulary {tokens.vocabulary}, not of this one, {own}"
        raise CatalogError(problem, "Calibrate this emulator again, or take `unseen` out of its bias.")
    return Bias(bias.end, bias.unseen, np.array(tokens.ids, np.intp))


def _view(
    role: str,
    name: str,
    reward: catalog.Reward | None,
    emulator: catalog.Emulator,
    headers: Mapping[str, gguf.Header],
    texts: Callable[[str], Mapping[str, str]],
) -> View:
    """The view of the model `name` in `role`: the reward's, or the emulator's if the reward has none.

    `texts` gives the texts of a model's special tokens. Raises ViewError for a chat template that is missing.
    """
    chosen = (reward.views.get(role) if reward else None) or emulator.views[role]
    # `chat:ROLE` uses the template of that role: in the same reward, or for the base in the first reward.
    pair = reward or next(iter(emulator.rewards), None)
    models = {"base": emulator.base, **({"tuned": pair.tuned, "reference": pair.reference} if pair else {})}
    owners = {"transcript": name, "raw": name, "chat": name, **{f"chat:{r}": m for r, m in models.items()}}
    own = {"transcript": TRANSCRIPT, "raw": RAW}
    found = {v: own.get(v) or headers[m].text("tokenizer.chat_template") for v, m in owners.items()}
    able = {v: template for v, template in found.items() if template}
    wanted = f"{chosen.kind}:{chosen.role}" if chosen.role in models else chosen.kind
    if wanted == "auto":
        wanted = "chat" if "chat" in able else "transcript"
    template = chosen.template or able.get(wanted)
    if template is None:
        raise ViewError(
            f"{owners[wanted]} has no chat template, so the view {wanted!r} of the {role} model cannot be rendered.",
            f"Views that work: {', '.join(able)}.",
        )

    def view(kind: str, template: str, others: Mapping[str, View] = MappingProxyType({})) -> View:
        return View(
            template=template,
            variables={**texts(owners.get(kind, name)), **emulator.template_args},
            stops=TRANSCRIPT_STOPS if kind == "transcript" else (),
            system=reward.system.get(role) if reward else None,
            role=role,
            others=others,
        )

    others = {template: v for v, template in reversed(able.items())} | {template: wanted}  # each template once
    return view(wanted, template, {v: view(v, other) for other, v in reversed(others.items()) if v != wanted})


def _token_texts(header: gguf.Header) -> dict[str, str]:
    """The texts of bos_token and eos_token, as chat templates name them; empty if the vocabulary has no such token."""
    tokens = header.array("tokenizer.ggml.tokens")
    texts = tokens.strings() if tokens else []
    ids = {name: header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {
        f"{name}_token": texts[i].decode("utf-8", "replace") if isinstance(i, int) and 0 <= i < len(texts) else ""
        for name, i in ids.items()
    }
