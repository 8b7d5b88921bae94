"""What there is to run: models.toml files, read strictly into frozen dataclasses.

`load` reads the packaged catalogue, then the user's, then the one that was asked for; a later file's entries replace an
earlier file's by name. Every mistake is a CatalogError that names the file, the table and the key, with the nearest
right name. Whether the models' own files are there is asked later, of `local_path`.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast

import platformdirs

from eftlocal.catalog.tables import Table, document, expanded, kind_of, nearest
from eftlocal.errors import CatalogError

__all__ = ["Catalog", "Emulator", "Lora", "Model", "Reward", "View", "load", "local_path", "packaged", "parse_view"]

ROLES: Final = ("base", "tuned", "reference")
REWARD_ROLES: Final = ("tuned", "reference")

# emulation.sample.Sampling's fields and settings of the loop around it, listed here: that floor is above this one.
SAMPLING_FLOATS: Final = (
    *("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "reward_top_p"),
)
SAMPLING_INTEGERS: Final = ("top_k", "repeat_last_n", "max_tokens", "seed")

MODEL_KEYS: Final = ("repo", "file", "sha256", "path", "lora", "gpu_layers")
REWARD_KEYS: Final = ("name", "tuned", "reference", "beta", "views", "system")
EMULATOR_KEYS: Final = (
    *("description", "base", "rewards", "views", "system", "template_args"),
    *("sampling", "context", "special_tokens_differ", "stop"),
)


@dataclass(frozen=True, slots=True)
class View:
    """How a conversation becomes tokens for one member; `role` says whose chat template (None: the member's own)."""

    kind: Literal["chat", "transcript", "raw", "template"]
    role: str | None = None
    template: str | None = None


DEFAULT_VIEWS: Final = {"base": View("transcript"), "tuned": View("chat"), "reference": View("transcript")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA adapter's GGUF file and the strength it is applied with."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One GGUF file (or the first part of a split one): by `repo` and `file` on the Hub, or by `path`, never both."""

    name: str
    repo: str | None = None
    file: str | None = None
    sha256: str | None = None
    path: Path | None = None
    lora: Lora | None = None
    gpu_layers: int | None = None  # None: as many as the build can offload
    source: Path | None = field(default=None, compare=False)  # the models.toml that defines it, for errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """beta x (log p_tuned - log p_reference), with the views and system texts that differ from the emulator's."""

    name: str
    tuned: str
    reference: str
    beta: float = 1.0
    views: Mapping[str, View] = field(default_factory=dict)
    system: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A base with its rewards, and the settings a user starts from."""

    name: str
    base: str
    description: str = ""
    rewards: tuple[Reward, ...] = ()
    views: Mapping[str, View] = field(default_factory=lambda: dict(DEFAULT_VIEWS))
    system: str | None = None
    template_args: Mapping[str, object] = field(default_factory=dict)
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    context: int | None = None
    special_tokens_differ: bool = False
    stop: tuple[str, ...] = ()


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

    def emulator(self, name: str) -> Emulator:
        """The emulator of that name, or a CatalogError with the nearest one."""
        if name not in self.emulators:
            raise CatalogError(f'no emulator is named "{name}"{nearest(name, self.emulators)}', _LIST_HINT)
        return self.emulators[name]


_LIST_HINT: Final = "`eftlocal list` shows every name"


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


# --- one document -----------------------------------------------------------------------------------------------------


def parse_view(value: object) -> View:
    """`chat`, `chat:ROLE`, `transcript`, `raw` or `{ template = "jinja" }`; a CatalogError for anything else."""
    if isinstance(value, dict):
        template = value.get("template")
        if set(value) != {"template"} or not isinstance(template, str) or not template:
            raise CatalogError('a view that is a table must be { template = "..." }')
        return View("template", template=template)
    if not isinstance(value, str):
        raise CatalogError(f"a view must be a string or a table, not {kind_of(value)}")
    kind, colon, role = value.partition(":")
    if kind not in ("chat", "transcript", "raw") or (colon and kind != "chat"):
        names = ("chat", *(f"chat:{role}" for role in ROLES), "transcript", "raw")
        raise CatalogError(f'unknown view "{value}"{nearest(value, names)}')
    if colon and role not in ROLES:
        raise CatalogError(f'unknown role "{role}" in the view "{value}"{nearest(role, ROLES)}')
    return View(cast(Literal["chat", "transcript", "raw"], kind), role or None)


def _views(table: Table, roles: tuple[str, ...]) -> dict[str, View]:
    inner = table.table("views", roles)
    views = {}
    for role, value in inner.values.items():
        try:
            views[role] = parse_view(value)
        except CatalogError as error:
            raise inner.error(role, error.message) from error
    return views


def _model(table: Table, name: str) -> Model:
    repo, file, sha256, path = table.text("repo"), table.text("file"), table.text("sha256"), table.text("path")
    if path is not None and (repo is not None or file is not None or sha256 is not None):
        raise table.error("path", "a model is either a path, or a repo and a file (with its sha256)")
    if path is None:
        repo, file = _on_the_hub(table, sha256)
    folder = expanded(table.file).absolute().parent
    lora = None
    if "lora" in table.values:
        inner = table.table("lora", ("path", "scale"))
        lora = Lora(path=folder / expanded(Path(inner.name("path"))), scale=inner.number("scale", 1.0))
    return Model(
        name=name,
        repo=repo,
        file=file,
        sha256=sha256.lower() if sha256 else None,
        path=None if path is None else folder / expanded(Path(table.name("path"))),
        lora=lora,
        gpu_layers=table.integer("gpu_layers", least=0),
        source=table.file,
    )


def _on_the_hub(table: Table, sha256: str | None) -> tuple[str, str]:
    if not table.values.keys() & {"repo", "file"}:
        raise table.error("", "needs a path, or a repo and a file")
    repo, file = table.name("repo"), table.name("file")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise table.error("repo", f'must be "owner/name", not "{repo}"')
    if not file.endswith(".gguf") or file.startswith("/") or ".." in file.split("/"):
        raise table.error("file", f'must be the name of a .gguf file in the repository, not "{file}"')
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise table.error("sha256", "must be 64 hexadecimal digits")
    return repo, file


def _reward(table: Table) -> Reward:
    tuned = table.name("tuned")
    name = table.name("name") if "name" in table.values else tuned
    if set(name) & set("=,"):
        raise table.error("name", f'"{name}" holds a "=" or a ",", so that `--mix NAME=WEIGHT` could not name it')
    system = table.table("system", REWARD_ROLES)
    return Reward(
        name=name,
        tuned=tuned,
        reference=table.name("reference"),
        beta=table.number("beta", 1.0),
        views=_views(table, REWARD_ROLES),
        system={role: system.text(role) or "" for role in system.values},
    )


def _rewards(table: Table) -> tuple[Reward, ...]:
    rewards: list[Reward] = []
    for i, value in enumerate(table.array("rewards")):
        inner = Table(table.file, table.where, value, REWARD_KEYS, f"rewards[{i}]")
        reward = _reward(inner)
        if any(reward.name == other.name for other in rewards):
            raise inner.error("name", f'two rewards are named "{reward.name}"', "give each a name of its own")
        rewards.append(reward)
    return tuple(rewards)


def _sampling(table: Table) -> dict[str, float | int]:
    inner = table.table("sampling", (*SAMPLING_FLOATS, *SAMPLING_INTEGERS))
    return {k: cast(int, inner.integer(k)) if k in SAMPLING_INTEGERS else inner.number(k, 0.0) for k in inner.values}


def _stop(table: Table) -> tuple[str, ...]:
    strings = table.array("stop")
    for i, value in enumerate(strings):
        if not isinstance(value, str) or not value:
            raise table.error(f"stop[{i}]", "is empty" if value == "" else f"must be a string, not {kind_of(value)}")
    return tuple(cast("list[str]", strings))


def _emulator(table: Table, name: str) -> Emulator:
    return Emulator(
        name=name,
        base=table.name("base"),
        description=table.text("description") or "",
        rewards=_rewards(table),
        views=DEFAULT_VIEWS | _views(table, ROLES),
        system=table.text("system"),
        template_args=table.table("template_args", None).values,
        sampling=_sampling(table),
        context=table.integer("context", least=1),
        special_tokens_differ=table.get("special_tokens_differ", bool, "true or false") or False,
        stop=_stop(table),
    )


# --- all of them together ---------------------------------------------------------------------------------------------


def _merged(documents: Iterable[tuple[Path, dict[str, object]]]) -> Catalog:
    """Later entries over earlier ones; names are looked up only now, since a file may use what another one defines."""
    models: dict[str, Model] = {}
    emulators: dict[str, tuple[Emulator, Table]] = {}
    default: tuple[str, Table] | None = None
    for file, contents in documents:
        top = Table(file, "", contents, ("default", "models", "emulators"))
        for name, value in top.table("models", None).values.items():
            models[name] = _model(Table(file, f"models.{name}", value, MODEL_KEYS), name)
        for name, value in top.table("emulators", None).values.items():
            table = Table(file, f"emulators.{name}", value, EMULATOR_KEYS)
            emulators[name] = (_emulator(table, name), table)
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
