"""Finds the models of a run, and how each of them is asked."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from eftlocal.apps.tune.options import Options
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog
from eftlocal.emulation import loading
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.loading import Loaded
from eftlocal.emulation.members import Members
from eftlocal.errors import SettingError
from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.llama.model import Model
from eftlocal.training.examples import Asked

__all__ = ["Setup", "make"]

ROOM: Final = 512  # tokens: the base's rendering of a conversation may be longer than the small model's
TRANSCRIPT: Final = catalog.View("transcript")
SAMPLE: Final = 1 << 20  # bytes at both ends of a file by which it is known again


@dataclass(frozen=True, slots=True)
class Setup:
    """The models of a run, loaded.

    emulator   the emulator that the trained model will be part of, with the reference in its place
    catalog    a catalogue that has it
    loaded     its members: the base, and the reference
    asked      how the trained model is asked
    base       how the base is asked; None where none is steered
    length     the most tokens of an example
    """

    emulator: catalog.Emulator
    catalog: Catalog
    loaded: Loaded
    asked: Asked
    base: Asked | None
    length: int

    @property
    def small(self) -> str:
        """The name of the model that is trained."""
        return _small(self.emulator)

    @property
    def reference(self) -> Header:
        """The header of the model that is trained."""
        members = self.loaded.members
        return members.specs[self._reference].header

    @property
    def model(self) -> Model:
        """The reference in llama.cpp, for its tokens."""
        return self.loaded.engine.workers.model(self._reference)

    @property
    def _reference(self) -> int:
        return _small_member(self.loaded.members)

    @property
    def identity(self) -> str:
        """What the models and their views are known again by."""
        members = self.loaded.members
        files = [_known(path) for spec in members.specs for path in spec.header.shards]
        views = [(view.template, str(dict(view.variables)), view.system) for view in members.views]
        return hashlib.sha256(repr((files, views, self.length)).encode()).hexdigest()


def make(cat: Catalog, options: Options) -> Setup:
    """Loads the models. Raises what `loading.load` raises, and SettingError for an emulator that cannot be steered."""
    emulator = _emulator(cat, options)
    models = {name: cat.model(name) for name in emulator.models}
    for model in models.values():
        if model.lora is not None and model.name == _small(emulator):
            raise SettingError(f"{model.name} has an adapter already.", "Name the model without it as the reference.")
    added = replace(
        cat,
        models={**cat.models, **models},
        emulators={**cat.emulators, emulator.name: emulator},
        default=(emulator.name,),
    )
    added.must_be_here(emulator)
    emulator = _with_views(added, emulator, options.view)
    added = replace(added, emulators={**cat.emulators, emulator.name: emulator})
    most = assemble(added, emulator).context(None)
    length = min(options.length, most)
    loaded = loading.load(None, models=added, context=min(most, length + ROOM), threads=options.threads)
    try:
        members, workers = loaded.members, loaded.engine.workers
        small = _small_member(members)
        asked = Asked(members.views[small], workers.model(small))
        steered = options.base is not None or options.emulator is not None
        base = Asked(members.views[members.base], workers.model(members.base)) if steered else None
    except BaseException:
        loaded.engine.close()
        raise
    return Setup(emulator, added, loaded, asked, base, length)


def _emulator(cat: Catalog, options: Options) -> catalog.Emulator:
    """The emulator that the trained model will be part of, with the reference where it will stand."""
    if options.emulator is None:
        small = str(options.reference)
        if options.base is None:
            return catalog.Emulator(name=options.name, base=small)
        reward = catalog.Reward(name=options.name, tuned=small, reference=small, beta=options.beta)
        return catalog.Emulator(name=options.name, base=options.base, rewards=(reward,))
    given = cat.emulator(options.emulator)
    if options.reference is None and len(given.rewards) != 1:
        raise SettingError(
            f"{given.name} has {len(given.rewards)} rewards, so no reference follows from it.",
            "Name the small model to train: --reference MODEL.",
        )
    small = options.reference or given.rewards[0].reference
    reward = catalog.Reward(name=options.name, tuned=small, reference=small, beta=options.beta)
    return replace(given, name=options.name, rewards=(reward,), source=None)


def _small_member(members: Members) -> int:
    return members.rewards[0].tuned if members.rewards else members.base


def _small(emulator: catalog.Emulator) -> str:
    return emulator.rewards[0].tuned if emulator.rewards else emulator.base


def _with_views(cat: Catalog, emulator: catalog.Emulator, wanted: str | None) -> catalog.Emulator:
    """Gives the small model one view in both roles: its own template if it has one, else the transcript.

    With one view, the reward at the start of training is 0, and all of it is what was trained.
    """
    alone = replace(emulator, rewards=(), views={"base": TRANSCRIPT}, base=_small(emulator))
    header = assemble(cat, alone).specs[0].header
    template = bool(header.text("tokenizer.chat_template"))
    view = catalog.parse_view(wanted or ("chat" if template else "transcript"))
    if not emulator.rewards:
        return replace(emulator, views={"base": view})
    base = emulator.views["base"]
    if base.kind == "chat" and base.role not in (None, "base"):  # another role's template, which may be another now
        base = view if view.kind == "transcript" else base
    return replace(emulator, views={"base": base, "tuned": view, "reference": view})


def _known(path: Path) -> tuple[str, int]:
    """What a file is known again by: a hash of its ends, and its size."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(SAMPLE)
        file.seek(max(0, size - SAMPLE))
        return hashlib.sha256(start + file.read(SAMPLE)).hexdigest(), size
