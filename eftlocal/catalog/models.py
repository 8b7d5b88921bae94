"""The catalogue: all models and emulators that the models.toml files define.

`load` reads the packaged models.toml, then the user's, then the one that was asked for. An entry in a later file
replaces the entry of that name in an earlier file. Each mistake is a CatalogError that names the file, the table and
the key, with the nearest right name. `load` does not check whether the models' own files exist; `local_path` does.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
from eftlocal.catalog.files import BESIDE, NAMING, File, HubFile, local, named, typed
from eftlocal.catalog.tables import Table, document, expanded, nearest
from eftlocal.errors import CatalogError
from eftlocal.text import as_unicode

__all__ = [
    "TRIO",
    "Catalog",
    "Emulator",
    "File",
    "HubFile",
    "Lora",
    "Model",
    "Reward",
    "View",
    "load",
    "local",
    "local_lora",
    "local_path",
    "packaged",
    "parse_view",
    "users_file",
]

TRIO: Final = "trio"  # the name of the emulator that `with_trio` makes
_LIST_HINT: Final = "`eftlocal list` shows every name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything that the models.toml files define, by name.

    `default` names the emulators to use when the user names none, in order of preference. The first whose models are
    all on this machine is used, or else the last.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    emulators: Mapping[str, Emulator] = field(default_factory=dict)
    default: tuple[str, ...] = ()

    def model(self, name: str) -> Model:
        """Returns the model that `name` stands for: a name, hf:owner/repo/file.gguf or a path. Raises CatalogError."""
        name = as_unicode(name)
        if name in self.models:
            return self.models[name]
        if (file := named(name, Path.cwd())) is None:
            raise CatalogError(f'no model is named "{name}"{nearest(name, self.models)}', NAMING)
        return Model(name=name, file=file)

    def emulator(self, name: str | None) -> Emulator:
        """Returns the emulator of that name (None: the default). Raises CatalogError, with the nearest name."""
        if name is None and not self.default:
            raise CatalogError("No emulator was named, and the catalogue has no default.", "Name one: -e NAME.")
        if name is None:
            here = (name for name in self.default[:-1] if self.is_local(self.emulators[name]))
            name = next(here, self.default[-1])
        name = as_unicode(name)
        if name not in self.emulators:
            raise CatalogError(f'no emulator is named "{name}"{nearest(name, self.emulators)}', _LIST_HINT)
        return self.emulators[name]

    def is_local(self, emulator: Emulator) -> bool:
        """Whether all files of the emulator's models are on this machine."""
        try:
            self.must_be_here(emulator)
        except CatalogError:
            return False
        return True

    def must_be_here(self, emulator: Emulator) -> None:
        """Raises CatalogError when a model of `emulator` is not downloaded, or when its path does not exist."""
        models = [self.model(name) for name in emulator.models]
        far = [
            model.name for model in models for file in model.files if isinstance(file, HubFile) and not _is_here(file)
        ]
        if far:
            are = "is" if len(set(far)) == 1 else "are"
            problem = (
                f"{emulator.name} is not on this machine: {', '.join(dict.fromkeys(far))} {are} not downloaded yet"
            )
            raise CatalogError(problem, f"`eftlocal pull {emulator.words}` downloads what is missing")
        for model in models:
            local_path(model)
            local_lora(model)

    def with_trio(self, base: str, tuned: str | None = None, reference: str | None = None) -> "Catalog":
        """Returns this catalogue with an emulator of these models added as its default.

        Each model is named as for `model`. Without `tuned` and `reference`, the emulator is the base alone. Raises
        CatalogError for an unknown model, and when only one of `tuned` and `reference` is given.
        """
        if (tuned is None) != (reference is None):
            missing, given = ("reference", "tuned") if reference is None else ("tuned", "reference")
            problem = f"a {given} model was named, but no {missing} model"
            raise CatalogError(problem, "Name both: a reward is the difference of the two.")
        pair = [] if tuned is None or reference is None else [as_unicode(tuned), as_unicode(reference)]
        base = as_unicode(base)
        models = {name: self.model(name) for name in (base, *pair)}
        rewards = (Reward(name="tuned", tuned=pair[0], reference=pair[1]),) if pair else ()
        made = Emulator(name=TRIO, base=base, rewards=rewards, description="the models named on the command line")
        return replace(
            self, models={**self.models, **models}, emulators={**self.emulators, TRIO: made}, default=(TRIO,)
        )


# --- files ------------------------------------------------------------------------------------------------------------


def packaged(name: str) -> Path:
    """Returns the path of a data file that ships with eftlocal, such as "models.toml".

    In a wheel it is inside the package, in a checkout beside it. Raises CatalogError when it is missing.
    """
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        if (folder / name).exists():
            return folder / name
    raise CatalogError(f"{package / name}: a file that ships with eftlocal is missing", "install eftlocal again")


def users_file() -> Path:
    """Returns the path of the user's own models.toml, which may not exist."""
    return platformdirs.user_config_path("eftlocal") / "models.toml"


def load(extra: Path | None = None) -> Catalog:
    """Reads the packaged models.toml, then the user's, then `extra`, or else the file that EFTLOCAL_MODELS names.

    Raises CatalogError for a file that cannot be read and for every mistake in one.
    """
    files = [packaged("models.toml")]
    if _may_be_there(users_file()):
        files.append(users_file())
    documents = [(file, document(file)) for file in files]
    named = os.environ.get("EFTLOCAL_MODELS")
    asked = extra or (Path(named) if named else None)
    if asked is not None:
        try:
            documents.append((asked, document(asked)))
        except CatalogError as error:
            if extra is not None:
                raise
            raise CatalogError(f"EFTLOCAL_MODELS: {error.message}", error.hint) from error
        if not documents[-1][1]:
            raise CatalogError(f"{asked}: defines nothing", "it needs [models.NAME] and [emulators.NAME] tables")
    return _merged(documents)


def _may_be_there(file: Path) -> bool:
    """False when the file does not exist. True when that cannot be found out: reading it then raises the error."""
    try:
        return file.exists()
    except OSError:
        return True


def local_path(model: Model) -> Path:
    """Returns the path of the model's file on this machine. Raises CatalogError, which says which file is missing."""
    if model.source is None:
        return local(model.file, f'model "{model.name}"', model.name, typed(model.name))
    return local(model.file, f"{_table(model)}{' path' if isinstance(model.file, Path) else ''}", model.name, BESIDE)


def local_lora(model: Model) -> tuple[Path, float] | None:
    """Returns the path of the model's LoRA adapter on this machine and its scale; None when it has no adapter.

    Raises CatalogError when the file is missing.
    """
    if model.lora is None:
        return None
    return local(model.lora.file, f"{_table(model)} lora", model.name), model.lora.scale


def _table(model: Model) -> str:
    return f"{model.source}: [models.{model.name}]"


def _is_here(file: HubFile) -> bool:
    from eftlocal.catalog import hub

    return hub.cached(file.repo, file.file, file.revision) is not None


# --- merging the files ------------------------------------------------------------------------------------------------


def _merged(documents: Iterable[tuple[Path, dict[str, object]]]) -> Catalog:
    """Merges the files; later entries replace earlier ones.

    Names are looked up only after all files are read, because a file may use names that another file defines.
    """
    models: dict[str, Model] = {}
    emulators: dict[str, tuple[Emulator, Table]] = {}
    default: tuple[str, ...] = ()
    defaults: Table | None = None  # the table that defines `default`, for errors
    for file, contents in documents:
        top = Table(file, "", contents, ("default", "models", "emulators"))
        for name, value in top.table("models", None).values.items():
            models[name] = read_model(file, name, value)
        for name, value in top.table("emulators", None).values.items():
            emulators[name] = read_emulator(file, name, value)
        if "default" in contents:
            default, defaults = _default(top), top
    for emulator, table in emulators.values():
        models.update(_named_in_place(emulator, table, models))
    for name in default:
        if name not in emulators and defaults is not None:
            raise defaults.error("default", f'no emulator is named "{name}"{nearest(name, emulators)}')
    return Catalog(
        models=models,
        emulators={name: emulator for name, (emulator, _) in emulators.items()},
        default=default,
    )


def _default(top: Table) -> tuple[str, ...]:
    """Reads `default`: the name of an emulator, or several names in order of preference."""
    if not isinstance(top.values["default"], list):
        return (top.name("default"),)
    names = top.array("default")
    if not names or not all(isinstance(name, str) for name in names):
        raise top.error("default", "must be the name of an emulator, or an array of such names")
    return tuple(map(str, names))


def _named_in_place(emulator: Emulator, table: Table, models: Mapping[str, Model]) -> dict[str, Model]:
    """Returns the models that an emulator names by `hf:` or by a path, and that are not in `models`.

    Raises CatalogError for a name that is neither of these and is not defined.
    """
    used, found = [("base", emulator.base)], dict[str, Model]()
    for i, reward in enumerate(emulator.rewards):
        used += [(f"rewards[{i}].tuned", reward.tuned), (f"rewards[{i}].reference", reward.reference)]
    for key, name in used:
        if name in models:
            continue
        try:
            file = named(name, expanded(table.file).absolute().parent)
        except CatalogError as error:
            raise table.error(key, error.message, error.hint) from None
        if file is None:
            raise table.error(key, f'no model is named "{name}"{nearest(name, models)}')
        found[name] = Model(name=name, file=file, source=table.file)
    return found
