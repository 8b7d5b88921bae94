"""`eftlocal rm NAME`: deletes a model's download, or those of an emulator that no other emulator here uses."""

import sys
from collections.abc import Iterable

from eftlocal.apps.common import agreed, can_ask, print_json, size
from eftlocal.apps.store.survey import Held, held, hub_files, models_of
from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.errors import SettingError
from eftlocal.text import printable

__all__ = ["remove"]


def remove(cat: catalog.Catalog, name: str, *, yes: bool, as_json: bool) -> int:
    """Delete the downloads of `name`, after asking. Files that the user named by a path stay. Returns the exit code.

    Raises SettingError if nobody can be asked and `yes` is not given, and CatalogError for an unknown name.
    """
    emulator, models = models_of(cat, name)
    users = {file: _users(cat, file, {emulator.name} if emulator else set()) for file in hub_files(models)}
    files = [held(file) for file in users]
    kept = [file for file in users if emulator is not None and users[file]]
    gone = [file for file in files if file.file not in kept and _is_there(file)]
    if gone and not yes:
        if not can_ask():
            raise SettingError(
                f"Nothing was deleted: {name} needs a confirmation, and this is not a terminal.",
                "Add --yes to delete without a question.",
            )
        for file in gone:
            print(printable(f"  {file.file}{_used(users[_hub(file)])}"), file=sys.stderr)
        if not agreed(f"Delete {size(sum(file.size or 0 for file in gone))}?", default=False):
            return 1
    freed = sum(hub.remove(file.repo, [file.file], file.revision) for file in map(_hub, gone))
    if as_json:
        removed = [{"file": str(file.file), "size": file.size} for file in gone]
        stayed = [{"file": str(file), "used_by": users[file]} for file in kept]
        print_json({"removed": removed, "kept": stayed, "freed": freed})
        return 0
    for stays in kept:
        print(printable(f"kept: {stays}{_used(users[stays])}"), file=sys.stderr)
    for model in models:
        if not isinstance(model.file, HubFile):
            print(printable(f"kept: {model.file} is your own file"), file=sys.stderr)
    print(f"{size(freed)} freed" if gone else "nothing to delete: none of it was downloaded", file=sys.stderr)
    return 0


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
