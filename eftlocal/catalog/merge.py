"""Merges the models.toml files into one catalogue. A mistake breaks the entry that it is in, and nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from eftlocal.catalog.catalog import Catalog, Mistake
from eftlocal.catalog.entries import Emulator, Model
from eftlocal.catalog.files import named
from eftlocal.catalog.reading import read_emulator, read_model
from eftlocal.catalog.server import is_address, server_at
from eftlocal.catalog.tables import Table, expanded, nearest
from eftlocal.errors import CatalogError

__all__ = ["merged"]

KEYS: Final = ("default", "models", "emulators")  # of the top level

Kind = Literal["file", "key", "default", "model", "emulator"]


def merged(documents: Iterable[tuple[Path, Mapping[str, object]]], unread: Iterable[Mistake] = ()) -> Catalog:
    """Merges the contents of the files; later entries replace earlier ones of the same name, broken ones too.

    `unread` are the files that could not be read. Names are looked up only after all files are read, because a file may
    use names that another file defines.
    """
    merge = _Merge()
    for file, contents in documents:
        merge.add(file, contents)
    merge.look_up()
    default = merge.default()
    return Catalog(
        models=merge.models,
        emulators={name: emulator for name, (emulator, _) in merge.emulators.items()},
        default=default,
        mistakes=(*unread, *merge.mistakes.values()),
    )


class _Merge:
    """The entries of the files that were read so far, and the mistakes in them, by kind and name."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.emulators: dict[str, tuple[Emulator, Table]] = {}
        self.mistakes: dict[tuple[Kind, str], Mistake] = {}
        self._defaults: list[tuple[Table, tuple[str, ...]]] = []  # the default of each file that has one

    def add(self, file: Path, contents: Mapping[str, object]) -> None:
        """Reads the entries of one file."""
        top = Table(file, "", {key: value for key, value in contents.items() if key in KEYS}, KEYS)
        for key in contents:
            if key not in KEYS:
                self._broken("key", key, file, top.error(key, f"unknown key{nearest(key, KEYS)}"))
        for name, value in self._entries(top, "models"):
            self._forget("model", name)
            try:
                self.models[name] = read_model(file, name, value)
            except CatalogError as error:
                self._broken("model", name, file, error)
        for name, value in self._entries(top, "emulators"):
            self._forget("emulator", name)
            try:
                self.emulators[name] = read_emulator(file, name, value)
            except CatalogError as error:
                self._broken("emulator", name, file, error)
        if "default" in contents:
            try:
                self._defaults.append((top, _names(top)))
            except CatalogError as error:
                self._broken("default", "", file, error)

    def _entries(self, top: Table, key: Literal["models", "emulators"]) -> Iterable[tuple[str, object]]:
        try:
            return top.table(key, None).values.items()
        except CatalogError as error:
            self._broken("key", key, top.file, error)
            return ()

    def _broken(self, kind: Kind, name: str, file: Path, error: CatalogError) -> None:
        where = name if kind in ("model", "emulator") else f"{file}: {name}"  # each file has a top level of its own
        self.mistakes[kind, where] = Mistake(kind=kind, name=name, file=file, error=error)

    def _forget(self, kind: Literal["model", "emulator"], name: str) -> None:
        """Forgets an entry of an earlier file, which the one that is read now replaces."""
        self.mistakes.pop((kind, name), None)
        (self.models if kind == "model" else self.emulators).pop(name, None)

    def look_up(self) -> None:
        """Looks up the models of each emulator. An emulator of which one is not defined, or is broken, is broken."""
        for name, (emulator, table) in list(self.emulators.items()):
            broken = [mistake for model in emulator.models if (mistake := self.mistakes.get(("model", model)))]
            for mistake in broken[:1]:
                self.mistakes["model", mistake.name] = replace(mistake, breaks=(*mistake.breaks, name))
                del self.emulators[name]
            if not broken:
                try:
                    self.models |= _named_in_place(emulator, table, self.models)
                except CatalogError as error:
                    self._broken("emulator", name, table.file, error)
                    del self.emulators[name]

    def default(self) -> tuple[str, ...]:
        """The usable names of the last `default` that has any."""
        for top, names in reversed(self._defaults):
            for name in names:
                if name not in self.emulators:
                    self._not_usable(top, name)
            if usable := tuple(name for name in names if name in self.emulators):
                return usable
        return ()

    def _not_usable(self, top: Table, name: str) -> None:
        for key, mistake in self.mistakes.items():
            if key == ("emulator", name) or name in mistake.breaks:
                self.mistakes[key] = replace(mistake, is_default=True)
                return
        known = self.emulators
        error = top.error("default", f'no emulator is named "{name}"{nearest(name, known)}')
        self._broken("default", name, top.file, error)


def _names(top: Table) -> tuple[str, ...]:
    """Reads `default`: the name of an emulator, or several names in order of preference."""
    if not isinstance(top.values["default"], list):
        return (top.name("default"),)
    names = top.array("default")
    if not names or not all(isinstance(name, str) for name in names):
        raise top.error("default", "must be the name of an emulator, or an array of such names")
    return tuple(map(str, names))


def _named_in_place(emulator: Emulator, table: Table, models: Mapping[str, Model]) -> dict[str, Model]:
    """Returns the models that an emulator names by `hf:`, a path or a server's address, and that are not in `models`.

    Raises CatalogError for a name that is neither of these and is not defined.
    """
    used, found = [("base", emulator.base)], dict[str, Model]()
    for i, reward in enumerate(emulator.rewards):
        used += [(f"rewards[{i}].tuned", reward.tuned), (f"rewards[{i}].reference", reward.reference)]
    for key, name in used:
        if name in models:
            continue
        try:
            file = server_at(name) if is_address(name) else named(name, expanded(table.file).absolute().parent)
        except CatalogError as error:
            raise table.error(key, error.message, error.hint) from None
        if file is None:
            raise table.error(key, f'no model is named "{name}"{nearest(name, models)}')
        found[name] = Model(name=name, file=file, source=table.file)
    return found
