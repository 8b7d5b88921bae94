"""`eftlocal init`: adds an emulator to a models.toml, made of the models that the command line names."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.errors import CatalogError
from eftlocal.text import printable

__all__ = ["init"]


def init(cat: catalog.Catalog, name: str, trio: catalog.Emulator, target: Path) -> int:
    """Add the emulator `trio` as `name` to the models.toml `target`. Returns the exit code.

    Raises CatalogError if the name is not allowed or taken, a file is missing, or `target` cannot be written.
    """
    keys = _keys(cat, name, trio)
    _must_be_free(cat, name, [key for model, key in keys.items() if key != model])
    for model in map(cat.model, keys):
        if not isinstance(model.file, HubFile):
            catalog.local_path(model)
    text = "\n".join(_lines(cat, name, trio, keys))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        before = target.read_text(encoding="utf-8") if target.exists() else ""
        gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
        with target.open("a", encoding="utf-8") as file:
            file.write(f"{gap}{text}\n")
    except OSError as error:
        raise CatalogError(f"{target}: cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # the file is not UTF-8, or a path to write into it is not
        raise CatalogError(f"{target}: cannot be written as UTF-8 text") from error
    option = "" if target == catalog.users_file() else f" --models {shlex.quote(str(target))}"
    print(printable(f"{target} now defines {name}: eftlocal chat {name}{option}"), file=sys.stderr)
    return 0


def _keys(cat: catalog.Catalog, name: str, trio: catalog.Emulator) -> dict[str, str]:
    """The name that each model gets in the file. A model that a models.toml defines keeps its name."""
    keys: dict[str, str] = {}
    for role, model in zip(("base", "tuned", "reference"), [trio.base, *_pair(trio)], strict=False):
        keys.setdefault(model, f"{name}-{role}" if cat.model(model).source is None else model)
    return keys


def _must_be_free(cat: catalog.Catalog, name: str, models: list[str]) -> None:
    """Raise CatalogError if the name cannot be given on a command line, or an entry would hide another one."""
    if not re.fullmatch(r"\w[\w.+-]*", name) or name.endswith(".gguf") or name == catalog.TRIO:
        raise CatalogError(
            f"{name!r} cannot be the name of an emulator",
            "Use letters, digits, -, . and +; begin with a letter or digit.",
        )
    taken = [("emulator", name, cat.emulators.get(name)), *(("model", key, cat.models.get(key)) for key in models)]
    for kind, key, entry in taken:
        if entry is not None:
            raise CatalogError(f'the {kind} "{key}" is already defined in {entry.source}', "Choose another --name.")


def _lines(cat: catalog.Catalog, name: str, trio: catalog.Emulator, keys: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for model, key in keys.items():
        if key != model:
            lines += [f"[models.{_quoted(key)}]", *_file(cat.model(model)), ""]
    lines.append(f"[emulators.{_quoted(name)}]")
    lines.append(f"base = {_string(keys[trio.base])}")
    if pair := _pair(trio):
        tuned, reference = (_string(keys[model]) for model in pair)
        lines.append(f'rewards = [{{ name = "tuned", tuned = {tuned}, reference = {reference}, beta = 1.0 }}]')
    return lines


def _pair(trio: catalog.Emulator) -> list[str]:
    return [name for reward in trio.rewards for name in (reward.tuned, reward.reference)]


def _file(model: catalog.Model) -> list[str]:
    if isinstance(model.file, HubFile):
        revision = [f"revision = {_string(model.file.revision)}"] if model.file.revision else []
        return [f"repo = {_string(model.file.repo)}", f"file = {_string(model.file.file)}", *revision]
    try:
        path = os.fsencode(model.file).decode()
    except UnicodeDecodeError as error:
        problem = f"the path {model.file} is not UTF-8 text, so a models.toml cannot name it"
        raise CatalogError(problem, "Rename the file or its folder.") from error
    return [f"path = {_string(path)}"]


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else _string(name)


def _string(text: str) -> str:
    """The text as a TOML string. TOML escapes the same characters as JSON, and DEL too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
