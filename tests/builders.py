"""Makes emulators for tests: writes a models.toml from Python values and loads an emulator from it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eftlocal.emulation import loading
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.loading import Loaded


def write_catalog(folder: Path, models: Mapping[str, Path | Mapping[str, Any]], **emulator: Any) -> Path:
    """Writes a models.toml with these models (paths or tables) and one emulator, `e`, the default. Returns its path.

    `emulator` holds the keys of the emulator's table.
    """
    lines = ['default = "e"']
    for name, model in models.items():
        table = {"path": str(model)} if isinstance(model, Path) else model
        lines += [f"[models.{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    lines += ["[emulators.e]", *(f"{key} = {_toml(value)}" for key, value in emulator.items())]
    path = folder / "models.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def load_members(
    folder: Path,
    models: Mapping[str, Path | Mapping[str, Any]],
    *,
    rewards: Sequence[Mapping[str, Any]] = ({"tuned": "tuned", "reference": "reference"},),
    views: Mapping[str, Any] | str = "raw",
    base: str = "base",
    emulator: Mapping[str, Any] | None = None,
    **options: Any,
) -> Loaded:
    """Loads the members of an exact emulator of `models`: F32 KV cache, one thread, greedy.

    `views` is one view for all roles, or a mapping from role to view. `emulator` holds further keys of the emulator's
    table, `options` further arguments of `Emulator.load`. The caller closes the engine, or an `Emulator` made of it.
    """
    each = views if isinstance(views, Mapping) else dict.fromkeys(("base", "tuned", "reference"), views)
    path = write_catalog(folder, models, base=base, rewards=list(rewards), views=each, **(emulator or {}))
    defaults: dict[str, Any] = {
        "kv_type": "f32",
        "threads": 1,
        "context": 256,
        "temperature": 0.0,
        "max_tokens": 24,
        "seed": 1,
    }
    return loading.load(None, models=path, **(defaults | options))


def load(folder: Path, models: Mapping[str, Path | Mapping[str, Any]], **options: Any) -> Emulator:
    """Loads an exact emulator of `models`. Takes the arguments of `load_members`."""
    return Emulator(load_members(folder, models, **options))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
