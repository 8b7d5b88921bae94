"""Checks an emulator before `eftlocal init` adds it: that it would load, and that it emulates something."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from eftlocal.apps.store.afar import Afar
from eftlocal.apps.store.memory import memory
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.files import Found, files_of
from eftlocal.errors import CatalogError
from eftlocal.runtime import trial
from eftlocal.runtime.gguf import Header, Tensor

__all__ = ["Checked", "check"]

SAMPLE = 1 << 16  # bytes of each tensor that are compared first: nearly always they already differ
CHUNK = 1 << 24
TRANSCRIPT, CHAT = catalog.View("transcript"), catalog.View("chat")


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: each role's view, the bytes of each model's file, and what the user should know, in lines."""

    views: Mapping[str, catalog.View]
    sizes: Mapping[str, int]
    notes: tuple[str, ...]


def check(cat: catalog.Catalog, emulator: catalog.Emulator, given: Mapping[str, catalog.View] | None = None) -> Checked:
    """Check that the emulator would load, and that its tuned and reference model differ. No weights are loaded.

    `given` are its views; None: what suits the models. A model that is not downloaded is looked at on the Hub. Raises
    HubError, what `assemble` raises, ModelLoadError, and CatalogError if nothing would be emulated.
    """
    afar = Afar()
    models = {name: cat.model(name) for name in emulator.models}
    found = files_of(list(models.values()), afar.find)
    on_servers = {model.server: found[name] for name, model in models.items() if model.server is not None}
    chats = {name: bool(model.header.text("tokenizer.chat_template")) for name, model in found.items()}
    tuned = emulator.rewards[0].tuned if emulator.rewards else emulator.base
    speaks = CHAT if chats[tuned] else TRANSCRIPT
    suiting = {"base": TRANSCRIPT, "tuned": speaks, "reference": TRANSCRIPT} if emulator.rewards else {"base": speaks}
    views = suiting if given is None else given
    members = assemble(
        cat,
        replace(emulator, views=views),
        find=lambda model: found[model.name],
        reach=lambda server, _: on_servers[server],
    )
    for spec in members.specs:
        if spec.remote is None:
            trial.must_survive(spec.header)
    notes = list(_notes(cat, emulator, found, chats, afar))
    sizes = {name: model.header.file_bytes for name, model in found.items()}
    return Checked(views, sizes, (*notes, *members.notes, memory(emulator, members).line))


def _notes(
    cat: catalog.Catalog, emulator: catalog.Emulator, found: Mapping[str, Found], chats: Mapping[str, bool], afar: Afar
) -> Iterator[str]:
    """What is odd about the emulator. Raises CatalogError if its reward is always 0."""
    if not emulator.rewards:
        yield "a base alone: nothing is emulated, it answers as the model does by itself"
        return
    (reward,) = emulator.rewards
    base, tuned, reference = emulator.base, reward.tuned, reward.reference

    def same(one: str, other: str) -> bool:
        return one == other or _same(cat.model(one), cat.model(other), found[one], found[other], afar)

    if same(tuned, reference):
        problem = "tuned and reference have the same weights, so the reward is 0 and nothing is emulated"
        raise CatalogError(problem, "--reference is the small base model that --tuned was made from.")
    if same(base, reference):
        yield "base and reference have the same weights: with beta 1 this is the tuned model itself"
    elif same(base, tuned):
        yield "base and tuned have the same weights: this strengthens what tuning changed, and emulates no larger model"
    if chats[reference] and not chats[tuned]:
        yield "only the reference has a chat template: perhaps tuned and reference are swapped"


# --- the same weights -------------------------------------------------------------------------------------------------


def _same(one: catalog.Model, other: catalog.Model, a: Found, b: Found, afar: Afar) -> bool:
    """Whether two models have the same weights. Files on the Hub are compared by their hashes."""
    if one.lora != other.lora:
        return False
    if _shapes(a.header) != _shapes(b.header):
        return False
    if all(shard.is_file() for shard in (*a.header.shards, *b.header.shards)):
        return _same_bytes(a.header, b.header, SAMPLE) and _same_bytes(a.header, b.header, None)
    if not (isinstance(one.file, HubFile) and isinstance(other.file, HubFile)):
        return False
    parts = zip_longest(afar.parts(one.file), afar.parts(other.file))
    return all(p is not None and q is not None and p.etag == q.etag for p, q in parts)


def _shapes(header: Header) -> dict[str, tuple[object, ...]]:
    return {tensor.name: (tensor.shape, tensor.type) for tensor in header.tensors}


def _same_bytes(a: Header, b: Header, most: int | None) -> bool:
    """Whether all tensors are equal, byte by byte; or the first `most` bytes of each."""
    others = {tensor.name: tensor for tensor in b.tensors}
    return all(
        _equal(a.shards[tensor.shard], tensor, b.shards[(other := others[tensor.name]).shard], other, most)
        for tensor in a.tensors
    )


def _equal(file: Path, tensor: Tensor, other_file: Path, other: Tensor, most: int | None) -> bool:
    left = tensor.n_bytes if most is None else min(tensor.n_bytes, most)
    with file.open("rb") as one, other_file.open("rb") as two:
        one.seek(tensor.offset)
        two.seek(other.offset)
        while left > 0:
            n = min(left, CHUNK)
            if one.read(n) != two.read(n):
                return False
            left -= n
    return True
