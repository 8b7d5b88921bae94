"""Says which of the catalogue's files are on this machine, how large they are, and how much memory they need."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import NAMING, File, HubFile, named, parts
from eftlocal.catalog.tables import nearest
from eftlocal.errors import CatalogError, HubError
from eftlocal.text import as_unicode

__all__ = ["Held", "held", "hub_files", "models_of", "rough_memory", "sizes"]

BESIDE_WEIGHTS = 1.1  # memory divided by file size, for KV caches and buffers at the usual context
ONCE = 300_000_000  # bytes of memory that any emulator needs on top


@dataclass(frozen=True, slots=True)
class Held:
    """A file of an entry. `path` is None if it is not on this machine; `size` (in bytes) is None if it is unknown.

    `problem` says why it cannot be found out whether the file is here.
    """

    file: File
    path: Path | None
    size: int | None
    problem: str | None = None


def held(file: File) -> Held:
    """Look for `file` on this machine, without the network."""
    try:
        path = catalog.local(file, "", "")
        return Held(file, path, sum(part.stat().st_size for part in parts(path)))
    except (CatalogError, HubError, OSError) as error:
        problem = error.message if isinstance(error, HubError) else None
        return Held(file, None, file.size if isinstance(file, HubFile) else None, problem)


def models_of(cat: catalog.Catalog, name: str) -> tuple[catalog.Emulator | None, tuple[catalog.Model, ...]]:
    """The emulator of that name and its models; or None and the one model of that name.

    Raises CatalogError if the entry is broken, and with the nearest name if there is neither.
    """
    name = as_unicode(name)
    if name in cat.emulators:
        emulator = cat.emulator(name)
        return emulator, tuple(cat.model(model) for model in emulator.models)
    broken = cat.broken("emulator")
    if name in broken:
        raise broken[name]
    known = [*cat.models, *cat.emulators, *cat.broken("model"), *broken]
    if name not in known and named(name, Path.cwd()) is None:
        hint = f"`eftlocal list` shows {len(cat.emulators)} emulators and {len(cat.models)} models; or {NAMING}"
        raise CatalogError(f'no emulator or model is named "{name}"{nearest(name, known)}', cat.why_missing(hint))
    return None, (cat.model(name),)


def hub_files(models: Iterable[catalog.Model]) -> tuple[HubFile, ...]:
    """Those files of the models that come from the Hub, each once."""
    return tuple(dict.fromkeys(file for model in models for file in model.files if isinstance(file, HubFile)))


def sizes(models: Iterable[catalog.Model]) -> tuple[int | None, int | None]:
    """The bytes of all files of these models, each once, and of those that are not here; None if a size is unknown.

    An adapter of unknown size is not counted: it is small beside the models.
    """
    models = tuple(models)
    weights = {model.file for model in models}
    found = [held(file) for file in dict.fromkeys(file for model in models for file in model.files)]
    files = [file for file in found if file.size is not None or file.file in weights]
    return _sum(files), _sum(file for file in files if file.path is None)


def _sum(files: Iterable[Held]) -> int | None:
    found = [file.size for file in files]
    return None if None in found else sum(n for n in found if n is not None)


def rough_memory(size: int) -> int:
    """The bytes of memory that models of `size` bytes need, to within a fifth. The exact plan needs their headers."""
    return int(size * BESIDE_WEIGHTS) + ONCE
