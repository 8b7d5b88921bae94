"""`eftlocal pull NAME`: makes sure that the files of an emulator or a model are on this machine."""

import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from eftlocal.apps.common import size
from eftlocal.apps.store.survey import held, hub_files, models_of
from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HUB, REPO, REVISION, HubFile
from eftlocal.errors import HubError, SettingError
from eftlocal.text import printable

__all__ = ["pull"]


def pull(
    cat: catalog.Catalog,
    name: str,
    *,
    revision: str | None,
    yes: bool,
    dry_run: bool,
    xet: bool,
) -> int:
    """Download the missing files of `name` (an emulator, a model, or hf:owner/repo/file.gguf). Returns the exit code.

    `revision` replaces the revision in the models' entries. If no file is missing, the Hub is not asked.
    Raises CatalogError, SettingError, HubError, and what `fetch` raises.
    """
    _is_no_repository(name, revision)
    if revision is not None:
        cat = _at(cat, name, revision)
    emulator, models = models_of(cat, name)
    wanted = emulator or models[0]
    for model in models:  # a file that is not on the Hub must be here
        if isinstance(model.file, Path):
            catalog.local_path(model)
    files = hub_files(models)
    missing = [file for file in files if held(file).path is None]
    if missing:
        from eftlocal.apps.store.fetch import fetch  # imported late: a pull of what is here stays fast

        here = [file for file in files if file not in missing]
        code = fetch(cat, wanted, missing, here, yes=yes, dry_run=dry_run, xet=xet)
        if code or dry_run:
            return code
    _say_how(wanted, files, revision)
    return 0


def _say_how(wanted: catalog.Emulator | catalog.Model, files: Iterable[HubFile], revision: str | None) -> None:
    said = f"{wanted.name} is here"
    if revision is not None:
        said += f" at {revision}; use it as {', '.join(map(str, files))}"
    elif isinstance(wanted, catalog.Emulator):
        said += f": eftlocal chat {wanted.words}"
    print(printable(said), file=sys.stderr)


def _at(cat: catalog.Catalog, name: str, revision: str) -> catalog.Catalog:
    """The catalogue in which the files of `name` have another revision. Raises SettingError if they need several."""
    _, models = models_of(cat, name)
    if len({file.repo for file in hub_files(models)}) > 1:
        problem = f"The models of {name} come from several repositories."
        raise SettingError(problem, "--revision applies to one repository: pull the models one by one.")

    def moved(file: catalog.File) -> catalog.File:
        if not isinstance(file, HubFile) or file.revision == revision:
            return file
        return replace(file, revision=revision, sha256=None)  # the entry's sha256 is that of its own revision

    def model(model: catalog.Model) -> catalog.Model:
        lora = model.lora and replace(model.lora, file=moved(model.lora.file))
        file = model.file if isinstance(model.file, catalog.Server) else moved(model.file)
        return replace(model, file=file, lora=lora)

    return replace(cat, models={**cat.models, **{found.name: model(found) for found in models}})


def _is_no_repository(name: str, revision: str | None) -> None:
    """Raise HubError if `name` is a whole repository. It lists the repository's models, for the user to choose one."""
    found = re.fullmatch(rf"{HUB}({REPO})/?(?:@({REVISION}))?", name, re.ASCII)
    if found is None:
        return
    files = hub.repository(found[1], revision or found[2]).models
    offered = ", ".join(f"{file.name} ({size(file.size)})" for file in files) or "none"
    problem = f"{HUB}{found[1]} is a whole repository; its models are: {offered}"
    raise HubError(problem, f"name one of them: {HUB}{found[1]}/FILE.gguf")
