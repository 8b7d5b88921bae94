"""Writes entries of a models.toml as lines of TOML."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eftlocal.catalog import entries as catalog
from eftlocal.catalog.files import File, HubFile
from eftlocal.catalog.server import Server
from eftlocal.errors import CatalogError

__all__ = ["emulator_lines", "model_lines", "rewards_line"]


def model_lines(model: catalog.Model, folder: Path) -> list[str]:
    """The table of a model, for a models.toml in `folder`. Raises CatalogError for a path that TOML cannot hold."""
    keys = _file(model.file, folder)
    if model.lora is not None:
        keys["lora"] = _inline({**_file(model.lora.file, folder), "scale": str(float(model.lora.scale))})
    if model.gpu_layers is not None:
        keys["gpu_layers"] = str(model.gpu_layers)
    if model.rpc:
        keys["rpc"] = f"[{', '.join(_string(str(endpoint)) for endpoint in model.rpc)}]"
        keys |= {"insecure": "true"} if model.insecure else {}
    return [f"[models.{_key(model.name)}]", *_assignments(keys)]


def emulator_lines(emulator: catalog.Emulator) -> list[str]:
    """The table of an emulator: its base, its rewards and views, and what else differs from the defaults."""
    keys = {"base": _string(emulator.base)}
    if emulator.rewards:
        keys["rewards"] = _rewards(emulator.rewards)
    if emulator.views:
        keys["views"] = _inline({role: _view(view) for role, view in emulator.views.items()})
    others = ("system", "template_args", "sampling", "context", "stop", "special_tokens_differ")
    keys |= {name: _value(value) for name in others if (value := getattr(emulator, name))}
    return [f"[emulators.{_key(emulator.name)}]", *_assignments(keys)]


def rewards_line(rewards: Sequence[catalog.Reward]) -> str:
    """The line of an emulator's table that holds its rewards."""
    return f"rewards = {_rewards(rewards)}"


def _rewards(rewards: Sequence[catalog.Reward]) -> str:
    return f"[{', '.join(map(_reward, rewards))}]"


def _reward(reward: catalog.Reward) -> str:
    keys = {
        "name": _string(reward.name),
        "tuned": _string(reward.tuned),
        "reference": _string(reward.reference),
        "beta": str(float(reward.beta)),
    }
    if reward.bias is not None:
        keys["bias"] = _inline(_bias(reward.bias))
    if reward.views:
        keys["views"] = _inline({role: _view(view) for role, view in reward.views.items()})
    if reward.system:
        keys["system"] = _inline({role: _string(text) for role, text in reward.system.items()})
    return _inline(keys)


def _bias(bias: catalog.Bias) -> dict[str, str]:
    keys = {"end": str(float(bias.end))} if bias.end else {}
    if bias.unseen_tokens is not None:
        keys |= {"unseen": str(float(bias.unseen)), "unseen_tokens": _value(str(bias.unseen_tokens))}
    return keys


def _file(file: File | Server, folder: Path) -> dict[str, str]:
    """The keys that name a file: a path in `folder` or below is relative to it. Or those of a server."""
    if isinstance(file, Server):
        given = {"url": file.url, "engine": file.engine, "api_key_env": file.api_key_env, "model": file.model}
        keys = {name: _string(text) for name, text in given.items() if text is not None}
        keys |= {"top": str(file.top)} if file.top is not None else {}
        return keys | ({"insecure": "true"} if file.insecure else {})
    if isinstance(file, HubFile):
        revision = {"revision": _string(file.revision)} if file.revision else {}
        sha256 = {"sha256": _string(file.sha256)} if file.sha256 else {}
        size = {} if file.size is None else {"size": str(file.size)}
        return {"repo": _string(file.repo), "file": _string(file.file), **revision, **sha256, **size}
    path = _normal(file)
    if path.is_relative_to(folder):
        path = path.relative_to(folder)
    try:
        return {"path": _string(os.fsencode(path).decode())}
    except UnicodeDecodeError as error:
        problem = f"the path {path} is not UTF-8 text, so a models.toml cannot name it"
        raise CatalogError(problem, "Rename the file or its folder.") from error


def _normal(path: Path) -> Path:
    """The absolute path without `..`. A link at its end stays: the file that it leads to may have another name."""
    path = path.absolute()
    return path.parent.resolve() / path.name if ".." in path.parts else path


def _view(view: catalog.View) -> str:
    if view.template is not None:
        return _inline({"template": _string(view.template)})
    return _string(view.kind if view.role is None else f"{view.kind}:{view.role}")


def _value(value: object) -> str:
    """A value as TOML. Raises CatalogError for one that it cannot hold."""
    if isinstance(value, Mapping):
        return _inline({_key(str(key)): _value(inner) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise CatalogError(f"a models.toml cannot hold {value!r}")


def _assignments(keys: Mapping[str, str]) -> Iterable[str]:
    return (f"{key} = {value}" for key, value in keys.items())


def _inline(keys: Mapping[str, str]) -> str:
    return f"{{ {', '.join(_assignments(keys))} }}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else _string(name)


def _string(text: str) -> str:
    """The text as a TOML string. TOML escapes the same characters as JSON, and DEL too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
