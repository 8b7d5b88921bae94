"""Reads the entries of a models.toml: what each table may say, with an error for each wrong key and value."""

import re
from pathlib import Path
from typing import Final, Literal, cast

from eftlocal.catalog.endpoints import read_endpoints
from eftlocal.catalog.entries import DEFAULT_VIEWS, ROLES, Bias, Emulator, Lora, Model, Reward, View
from eftlocal.catalog.files import REPO, REVISION, File, HubFile
from eftlocal.catalog.server import SERVER_KEYS, read_server
from eftlocal.catalog.tables import Table, expanded, kind_of, nearest
from eftlocal.errors import CatalogError
from eftlocal.text import path_of

__all__ = ["SAMPLING_FLOATS", "SAMPLING_INTEGERS", "parse_view", "read_emulator", "read_model"]

REWARD_ROLES: Final = ("tuned", "reference")

# The fields of arithmetic.sample.Sampling, and the settings of decoding. The names are repeated here because this floor
# may not import those above it; a test compares them.
SAMPLING_FLOATS: Final = (
    *("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "reward_top_p"),
)
SAMPLING_INTEGERS: Final = ("top_k", "repeat_last_n", "max_tokens", "seed")

HUB_KEYS: Final = ("repo", "file", "revision", "sha256", "size", "gated")
MODEL_KEYS: Final = (*HUB_KEYS, "path", "lora", "gpu_layers", "rpc", *SERVER_KEYS)
REWARD_KEYS: Final = ("name", "tuned", "reference", "beta", "bias", "views", "system")
BIAS_KEYS: Final = ("end", "unseen", "unseen_tokens")
EMULATOR_KEYS: Final = (
    *("description", "base", "rewards", "views", "system", "template_args"),
    *("sampling", "context", "special_tokens_differ", "stop", "example"),
)


def parse_view(value: object) -> View:
    """Reads a view: `chat`, `chat:ROLE`, `transcript`, `raw` or `{ template = "jinja" }`.

    Raises CatalogError for anything else.
    """
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
        if "{" in value:  # a Jinja template that is not in a table
            raise CatalogError('unknown view; write a template as { template = "..." }')
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
            raise inner.error(role, error.message, error.hint) from error
    return views


def read_model(source: Path, name: str, value: object) -> Model:
    """Returns the model that `[models.NAME]` in the file `source` defines. Raises CatalogError."""
    table = Table(source, f"models.{name}", value, MODEL_KEYS)
    own = [key for key in SERVER_KEYS if key != "insecure" or "rpc" not in table.values]
    if given := [key for key in own if key in table.values]:
        if "url" not in table.values:
            raise table.error(given[0], "belongs to a model on a server, which has a url")
        if other := next((key for key in table.values if key not in SERVER_KEYS), None):
            raise table.error(other, "a model has either a url, or a file on this machine")
        return Model(name=name, file=read_server(table), source=source)
    lora = None
    if "lora" in table.values:
        inner = table.table("lora", (*HUB_KEYS, "path", "scale"))
        lora = Lora(file=_file(inner, "an adapter"), scale=inner.number("scale", 1.0))
    insecure = table.get("insecure", bool, "true or false") or False
    return Model(
        name=name,
        file=_file(table, "a model"),
        lora=lora,
        gpu_layers=table.integer("gpu_layers", least=0),
        rpc=read_endpoints(table, insecure=insecure),
        insecure=insecure,
        source=source,
    )


def _file(table: Table, what: str) -> File:
    """Reads where a file is: a path, relative to the models.toml, or a repository and a file of the Hub."""
    on_hub = [key for key in HUB_KEYS if key in table.values]
    if "path" in table.values:
        path = expanded(path_of(table.name("path")))
        if on_hub:
            raise table.error("path", f"{what} has either a path, or a repo and a file; this has also {on_hub[-1]}")
        return expanded(table.file).absolute().parent / path
    if not table.values.keys() & {"repo", "file"}:
        raise table.error("", "needs a path, or a repo and a file, or the url of a server")
    repo, file, sha256 = table.name("repo"), table.name("file"), table.text("sha256")
    if not re.fullmatch(REPO, repo, re.ASCII):
        raise table.error("repo", f'must be "owner/name", not "{repo}"')
    if not file.endswith(".gguf") or file.startswith("/") or ".." in file.split("/"):
        raise table.error("file", f'must be the name of a .gguf file in the repository, not "{file}"')
    revision = table.name("revision") if "revision" in table.values else None
    if revision is not None and not re.fullmatch(REVISION, revision, re.ASCII):
        raise table.error("revision", f'must be a commit, branch or tag, not "{revision}"')
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise table.error("sha256", "must be 64 hexadecimal digits")
    return HubFile(
        repo=repo,
        file=file,
        revision=revision,
        sha256=sha256.lower() if sha256 else None,
        size=table.integer("size", least=1),
        gated=table.get("gated", bool, "true or false") or False,
    )


def _bias(table: Table) -> Bias | None:
    """The reward's bias. It is scaled as its beta is, so a reward without strength has none."""
    if "bias" not in table.values:
        return None
    inner = table.table("bias", BIAS_KEYS)
    if "unseen" in inner.values and "unseen_tokens" not in inner.values:
        raise inner.error("unseen_tokens", "is missing: the file of the tokens that `unseen` is added to")
    if "unseen_tokens" in inner.values and "unseen" not in inner.values:
        raise inner.error("unseen", "is missing: what is added to the tokens of `unseen_tokens`")
    if table.number("beta", 1.0) == 0:
        raise table.error("bias", "has no effect: beta is 0, and a bias is scaled with its reward")
    path = expanded(path_of(inner.name("unseen_tokens"))) if "unseen_tokens" in inner.values else None
    return Bias(
        end=inner.number("end", 0.0),
        unseen=inner.number("unseen", 0.0),
        unseen_tokens=None if path is None else expanded(table.file).absolute().parent / path,
    )


def _reward(table: Table) -> Reward:
    tuned = table.name("tuned")
    name = table.name("name") if "name" in table.values else tuned
    if set(name) & set("=,"):
        raise table.error("name", f'"{name}" contains "=" or ",", so `--mix NAME=WEIGHT` could not name it')
    system = table.table("system", REWARD_ROLES)
    return Reward(
        name=name,
        tuned=tuned,
        reference=table.name("reference"),
        beta=table.number("beta", 1.0),
        views=_views(table, REWARD_ROLES),
        system={role: system.text(role) or "" for role in system.values},
        bias=_bias(table),
    )


def _rewards(table: Table) -> tuple[Reward, ...]:
    rewards: list[Reward] = []
    for i, value in enumerate(table.array("rewards")):
        inner = Table(table.file, table.where, value, REWARD_KEYS, f"rewards[{i}]")
        reward = _reward(inner)
        if any(reward.name == other.name for other in rewards):
            raise inner.error("name", f'two rewards are named "{reward.name}"', "give each reward its own `name`")
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


def read_emulator(source: Path, name: str, value: object) -> tuple[Emulator, Table]:
    """Returns the emulator that `[emulators.NAME]` in the file `source` defines, and its table for later errors.

    Raises CatalogError. Whether its models are defined is not checked here.
    """
    table = Table(source, f"emulators.{name}", value, EMULATOR_KEYS)
    emulator = Emulator(
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
        example=table.text("example"),
        source=table.file,
    )
    return emulator, table
