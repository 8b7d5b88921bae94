"""What there is to run: models.toml files, read strictly into frozen dataclasses.

`load` reads the packaged catalogue, then the user's, then the one that was asked for; a later file's entries replace an
earlier file's by name. Every mistake is a CatalogError that names the file, the table and the key, with the nearest
right name. Whether the models' own files are there is asked later, of `local_path`.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import platformdirs

from eftlocal.catalog.entries import (
    Emulator,
    Lora,
    Model,
    Reward,
    View,
    parse_view,
    read_emulator,
    read_model,
)
from eftlocal.catalog.tables import Table, document, nearest
from eftlocal.errors import CatalogError

__all__ = ["Catalog", "Emulator", "Lora", "Model", "Reward", "View", "load", "local_path", "packaged", "parse_view"]

_LIST_HINT: Final = "`eftlocal list` shows every name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything that the models.toml files define, by name."""

    models: Mapping[str, Model] = field(default_factory=dict)
    emulators: Mapping[str, Emulator] = field(default_factory=dict)
    default: str | None = None

    def model(self, name: str) -> Model:
        """The model of that name, or a CatalogError with the nearest one."""
        if name not in self.models:
            raise CatalogError(f'no model is named "{name}"{nearest(name, self.models)}', _LIST_HINT)
        return self.models[name]

    def emulator(self, name: str | None) -> Emulator:
        """The emulator of that name (None: the default), or a CatalogError with the nearest one."""
        if name is None and self.default is None:
            raise CatalogError("No emulator was named, and the catalogue has no default.", "Name one: -e NAME.")
        name = name or self.default or ""
        if name not in self.emulators:
            raise CatalogError(f'no emulator is named "{name}"{nearest(name, self.emulators)}', _LIST_HINT)
        return self.emulators[name]


# --- files ------------------------------------------------------------------------------------------------------------


def packaged(name: str) -> Path:
    """A data file that ships with eftlocal ("models.toml"): inside the package of a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        if (folder / name).exists():
            return folder / name
    raise CatalogError(f"{package / name}: a file that ships with eftlocal is missing", "install eftlocal again")


def load(extra: Path | None = None) -> Catalog:
    """The packaged catalogue, under the user's, under `extra` (else the file that EFTLOCAL_MODELS names)."""
    files = [packaged("models.toml")]
    users = platformdirs.user_config_path("eftlocal") / "models.toml"
    if _may_be_there(users):
        files.append(users)
    documents = [(file, document(file)) for file in files]
    named = os.environ.get("EFTLOCAL_MODELS")
    asked = extra or (Path(named) if named else None)
    if asked is not None:
        documents.append((asked, document(asked)))
        if not documents[-1][1]:
            raise CatalogError(f"{asked}: defines nothing", "it needs [models.NAME] and [emulators.NAME] tables")
    return _merged(documents)


def _may_be_there(file: Path) -> bool:
    """False only where there is no such file: one that cannot be looked at is to be read, and so told."""
    try:
        return file.exists()
    except OSError:
        return True


def local_path(model: Model) -> Path:
    """The model's file on this machine; a CatalogError says which file is missing (also the adapter's)."""
    where = f"{model.source}: [models.{model.name}]" if model.source else f'model "{model.name}":'
    if model.lora is not None:
        _must_be_a_file(f"{where} lora.path", model.lora.path)
    if model.path is None:
        hint = f"`eftlocal pull {model.name}` downloads it"
        raise CatalogError(f"{where} {model.file} of {model.repo} is not downloaded yet", hint)
    _must_be_a_file(f"{where} path", model.path)
    return model.path


def _must_be_a_file(where: str, path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "relative paths start at the models.toml's folder"
        raise CatalogError(f"{where}: {path} does not exist", hint) from error
    except (OSError, ValueError) as error:  # not allowed, or no path at all
        raise CatalogError(f"{where}: {str(path)!r} cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        raise CatalogError(f"{where}: {path} is a folder, not a GGUF file")


# --- all of them together ---------------------------------------------------------------------------------------------


def _merged(documents: Iterable[tuple[Path, dict[str, object]]]) -> Catalog:
    """Later entries over earlier ones; names are looked up only now, since a file may use what another one defines."""
    models: dict[str, Model] = {}
    emulators: dict[str, tuple[Emulator, Table]] = {}
    default: tuple[str, Table] | None = None
    for file, contents in documents:
        top = Table(file, "", contents, ("default", "models", "emulators"))
        for name, value in top.table("models", None).values.items():
            models[name] = read_model(file, name, value)
        for name, value in top.table("emulators", None).values.items():
            emulators[name] = read_emulator(file, name, value)
        if "default" in contents:
            default = (top.name("default"), top)
    for emulator, table in emulators.values():
        _models_are_defined(emulator, table, models)
    if default is not None and default[0] not in emulators:
        raise default[1].error("default", f'no emulator is named "{default[0]}"{nearest(default[0], emulators)}')
    return Catalog(
        models=models,
        emulators={name: emulator for name, (emulator, _) in emulators.items()},
        default=None if default is None else default[0],
    )


def _models_are_defined(emulator: Emulator, table: Table, models: Mapping[str, Model]) -> None:
    used = [("base", emulator.base)]
    for i, reward in enumerate(emulator.rewards):
        used += [(f"rewards[{i}].tuned", reward.tuned), (f"rewards[{i}].reference", reward.reference)]
    for key, name in used:
        if name not in models:
            raise table.error(key, f'no model is named "{name}"{nearest(name, models)}')
