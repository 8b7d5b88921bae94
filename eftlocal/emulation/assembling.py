"""From an emulator's entry in the catalogue to its members: files are found and checked, and no weights are loaded."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from eftlocal.arithmetic.bias import Bias
from eftlocal.catalog import models as catalog
from eftlocal.catalog import token_ids
from eftlocal.catalog.server import Server
from eftlocal.emulation import views
from eftlocal.emulation.files import Found, files_of, on_its_server, on_this_machine
from eftlocal.emulation.members import Members, RewardMembers
from eftlocal.engine.spec import MemberSpec
from eftlocal.errors import CatalogError
from eftlocal.runtime import gguf, vocab
from eftlocal.runtime.views import View

__all__ = ["assemble"]


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
    texts = cache(lambda name: views.token_texts(headers[name]))

    def member(role: str, name: str, reward: catalog.Reward | None = None, whose: catalog.Emulator = emulator) -> int:
        model = cat.model(name)
        spec = MemberSpec(
            name=f"{name} ({role}{f' of {reward.name}' if reward else ''})",
            header=headers[name],
            lora=files[name].lora,
            gpu_layers=model.gpu_layers,
            model=name,
            remote=files[name].remote,
            rpc=model.rpc or None,
        )
        view = replace(views.resolve(role, name, reward, whose, headers, texts), date=date)
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
