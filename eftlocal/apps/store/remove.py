"""`eftlocal rm NAME`: deletes a model's download, or those of an emulator that no other emulator here uses.

The entry of an emulator that `eftlocal init` wrote goes too.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from eftlocal.apps.common import agreed, can_ask, print_json, size
from eftlocal.apps.store.survey import Held, held, hub_files, models_of
from eftlocal.catalog import added, hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.errors import CatalogError, SettingError
from eftlocal.text import as_unicode, printable

__all__ = ["remove"]


def remove(cat: catalog.Catalog, name: str, *, yes: bool, as_json: bool) -> int:
    """Delete the downloads of `name`, and the entry if init wrote it, after asking. Returns the exit code.

    Files that the user named by a path stay. Raises SettingError if nobody can be asked and `yes` is not given, and
    CatalogError for an unknown name, and for an entry that something else needs.
    """
    entry = _entry(cat, name)
    if entry is not None and name not in cat.emulators:  # a broken one has no downloads of its own
        emulator, models = None, tuple[catalog.Model, ...]()
    else:
        emulator, models = models_of(cat, name)
    users = {file: _users(cat, file, {emulator.name} if emulator else set()) for file in hub_files(models)}
    files = [held(file) for file in users]
    kept = [file for file in users if emulator is not None and users[file]]
    gone = [file for file in files if file.file not in kept and _is_there(file)]
    rest = "" if entry is None else entry.rest()
    if (gone or entry) and not yes:
        if not can_ask():
            raise SettingError(
                f"Nothing was deleted: {name} needs a confirmation, and this is not a terminal.",
                "Add --yes to delete without a question.",
            )
        for file in gone:
            print(printable(f"  {file.file}{_used(users[_hub(file)])}"), file=sys.stderr)
        if entry is not None:
            print(printable(f"  the entry {name} in {entry.file}"), file=sys.stderr)
        what = [size(sum(file.size or 0 for file in gone))] * bool(gone) + ["the entry"] * (entry is not None)
        if not agreed(f"Delete {' and '.join(what)}?", default=False):
            return 1
    freed = sum(hub.remove(file.repo, [file.file], file.revision) for file in map(_hub, gone))
    if entry is not None:
        added.replace(entry.file, entry.text, rest)
    if as_json:
        removed = [{"file": str(file.file), "size": file.size} for file in gone]
        stayed = [{"file": str(file), "used_by": users[file]} for file in kept]
        place = None if entry is None else str(entry.file)
        print_json({"removed": removed, "kept": stayed, "freed": freed, "entry": place})
        return 0
    for stays in kept:
        print(printable(f"kept: {stays}{_used(users[stays])}"), file=sys.stderr)
    for path, whose in _own(models).items():
        print(printable(f"kept: {path} {whose}"), file=sys.stderr)
    if entry is not None:
        print(printable(f"{entry.file} no longer defines {name}"), file=sys.stderr)
    if gone or entry is None:
        print(f"{size(freed)} freed" if gone else "nothing to delete: none of it was downloaded", file=sys.stderr)
    return 0


def _own(models: Iterable[catalog.Model]) -> dict[Path, str]:
    """Files on this machine that nothing was downloaded for, adapters too, each once: and whose they are."""
    found: dict[Path, str] = {}
    for model in models:
        ships = model.source == catalog.packaged("models.toml")
        for file in (model.file, model.lora.file if model.lora is not None else None):
            if isinstance(file, Path) and (ships or file not in found):
                found[file] = "ships with eftlocal" if ships else "is your own file"
    return found


def _entry(cat: catalog.Catalog, name: str) -> added.Added | None:
    """The entry of the emulator `name`, if init wrote it. Raises CatalogError if another emulator uses its models."""
    name = as_unicode(name)
    sources = {m.file for m in cat.mistakes if name in (m.name, *m.breaks)}
    if name in cat.emulators:
        sources = {source for source in (cat.emulators[name].source,) if source is not None}
    entry = next((found for file in sorted(sources) if (found := added.added(file, name))), None)
    if entry is not None:
        users = [e.name for e in cat.emulators.values() if e.name != name and entry.models & set(e.models)]
        if users:
            problem = f"{', '.join(users)} in {entry.file} needs the models of {name}"
            raise CatalogError(problem, f"Remove {users[0]} first.")
    return entry


def _is_there(file: Held) -> bool:
    return file.path is not None or hub.unfinished_bytes(_hub(file).repo) > 0


def _hub(file: Held) -> HubFile:
    assert isinstance(file.file, HubFile)
    return file.file


def _users(cat: catalog.Catalog, file: HubFile, without: set[str]) -> list[str]:
    """The names of the emulators that are on this machine and need this file, at any revision."""
    return [
        emulator.name
        for emulator in cat.emulators.values()
        if emulator.name not in without
        and any((f.repo, f.file) == (file.repo, file.file) for f in hub_files(map(cat.model, emulator.models)))
        and cat.is_local(emulator)
    ]


def _used(names: Iterable[str]) -> str:
    return f" (used by {', '.join(names)})" if names else ""
