"""The emulator that a trained model is part of, as it will stand in a models.toml."""

from dataclasses import replace
from pathlib import Path

from eftlocal.apps.tune.setup import Setup
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import Catalog

__all__ = ["entry"]


def entry(made: Setup, path: Path, *, adapter: bool) -> tuple[Catalog, catalog.Emulator]:
    """A catalogue with the trained model, and the emulator in which it is the tuned one; without a base it is alone.

    The model has its file's path as its name, so that no name of the user's is taken.
    """
    small = made.catalog.model(made.small)
    file = path.absolute()
    name = str(file)
    if adapter:
        model = catalog.Model(name=name, file=small.file, lora=catalog.Lora(file=file), gpu_layers=small.gpu_layers)
    else:
        model = catalog.Model(name=name, file=file)
    rewards = tuple(replace(reward, tuned=name, bias=None) for reward in made.emulator.rewards)
    emulator = replace(made.emulator, rewards=rewards, base=made.emulator.base if rewards else name)
    return replace(made.catalog, models={**made.catalog.models, name: model}), emulator
