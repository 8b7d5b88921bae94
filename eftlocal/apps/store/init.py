"""`eftlocal init`: checks the models that the command line names, and adds them to a models.toml as an emulator."""

import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eftlocal.apps.common import console
from eftlocal.apps.store.check import Checked, check
from eftlocal.catalog import added
from eftlocal.catalog import models as catalog
from eftlocal.catalog.entries import ROLES
from eftlocal.catalog.files import HUB, HubFile
from eftlocal.catalog.tables import expanded
from eftlocal.catalog.toml import emulator_lines, model_lines
from eftlocal.errors import CatalogError, HubError
from eftlocal.text import as_unicode, printable

__all__ = ["add", "init", "must_be_possible", "say"]

OTHER_NAME = "Choose another --name."


@dataclass(frozen=True, slots=True)
class Entry:
    """A model under the name that the emulator uses for it. `new`: init has to write it."""

    model: catalog.Model
    new: bool


def must_be_possible(cat: catalog.Catalog, name: str, target: Path, *, force: bool) -> None:
    """Raise what `init` would raise for this name and this file, before the models are there."""
    _must_be_a_name(cat, as_unicode(name))
    _must_be_free(cat, as_unicode(name), target, added.added(target, as_unicode(name)), force=force)


def init(cat: catalog.Catalog, name: str, trio: catalog.Emulator, target: Path, *, force: bool) -> int:
    """Check the emulator `trio`, add it as `name` to the models.toml `target`, and say so. Returns the exit code.

    Raises what `add` raises.
    """
    say(name, target, add(cat, name, trio, target, force=force))
    return 0


def add(
    cat: catalog.Catalog,
    name: str,
    trio: catalog.Emulator,
    target: Path,
    *,
    force: bool,
    views: Mapping[str, catalog.View] | None = None,
) -> Checked:
    """Check the emulator `trio`, and add it as `name` to the models.toml `target`. Returns what was found.

    `force` replaces an emulator of that name, and adds one that cannot be checked because the Hub does not answer.
    `views` are those of the roles; None: what suits the models.
    Raises CatalogError if the name is not allowed or taken, if `target` is broken or cannot be written, and if nothing
    would be emulated; and what `check` raises.
    """
    name = as_unicode(name)
    _must_be_a_name(cat, name)
    before = added.text_of(target)
    old = added.added(target, name)
    _must_be_free(cat, name, target, old, force=force)
    entries = _entries(cat, name, trio, target, old)
    new = [entry.model for entry in dict.fromkeys(entries.values()) if entry.new]
    _must_hide_no_model(cat, name, new, old)
    names = {model: entry.model.name for model, entry in entries.items()}
    rewards = tuple(replace(r, tuned=names[r.tuned], reference=names[r.reference]) for r in trio.rewards)
    emulator = replace(trio, name=name, base=names[trio.base], rewards=rewards)
    models = {entry.model.name: entry.model for entry in entries.values()}
    checked = _check(replace(cat, models={**cat.models, **models}), emulator, views, force=force)
    folder = expanded(target).absolute().parent
    lines = [line for model in new for line in (*model_lines(_sized(model, checked.sizes), folder), "")]
    lines += emulator_lines(replace(emulator, views=checked.views))
    rest = before if old is None else old.rest()
    added.replace(target, before, added.with_part(target, rest, name, lines))
    return checked


def _check(
    cat: catalog.Catalog, emulator: catalog.Emulator, views: Mapping[str, catalog.View] | None, *, force: bool
) -> Checked:
    try:
        return check(cat, emulator, views)
    except HubError as error:
        if not force:
            hint = f"{error.hint or 'Correct the name'}; or add --force to write the entry without this check"
            raise HubError(error.message, hint) from error
        return Checked(views or {}, {}, (f"not checked: {error.message}",))


# --- names ------------------------------------------------------------------------------------------------------------


def _must_be_a_name(cat: catalog.Catalog, name: str) -> None:
    """Raise CatalogError if the name cannot be given on a command line, or is a model's."""
    problem = f"{name!r} cannot be the name of an emulator"
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise CatalogError(problem, "Use letters, digits, -, _, . and +; begin with a letter or digit.")
    if name.endswith(".gguf"):
        raise CatalogError(problem, "A name that ends with .gguf is a file's.")
    if name == catalog.TRIO:
        raise CatalogError(problem, "It stands for the models that --base, --tuned and --reference name.")
    if name in cat.models:
        raise CatalogError(f'the model "{name}" is already defined in {cat.models[name].source}', OTHER_NAME)


def _must_be_free(cat: catalog.Catalog, name: str, target: Path, old: added.Added | None, *, force: bool) -> None:
    """Raise CatalogError if an emulator has the name, unless it can be replaced and that is wanted."""
    broken = cat.broken("emulator").get(name)
    if broken is None and name not in cat.emulators:
        return
    problem = f'the emulator "{name}" is already '
    problem += f"there, and broken: {broken.message}" if broken else f"defined in {cat.emulators[name].source}"
    sources = {cat.emulators[name].source} if broken is None else {m.file for m in cat.mistakes if m.name == name}
    if old is None and any(source is not None and _same_path(source, target) for source in sources):
        raise CatalogError(problem, f"{OTHER_NAME} Or change it there: init did not write it.")
    if not force:
        instead = "replaces it" if old is not None else "puts this one in its place"
        raise CatalogError(problem, f"{OTHER_NAME} Or add --force, which {instead}.")


def _must_hide_no_model(cat: catalog.Catalog, name: str, new: list[catalog.Model], old: added.Added | None) -> None:
    """Raise CatalogError if a model that init would write has the name of one that something else uses."""
    for model in new:
        if old is not None:
            users = [e.name for e in cat.emulators.values() if model.name in e.models and e.name != name]
            if users:
                problem = f'the model "{model.name}" is used by {", ".join(users)} too'
                raise CatalogError(problem, OTHER_NAME)
        elif (there := cat.models.get(model.name)) is not None:
            raise CatalogError(f'the model "{model.name}" is already defined in {there.source}', OTHER_NAME)
        elif (error := cat.broken("model").get(model.name)) is not None:
            raise CatalogError(f'the model "{model.name}" is already there, and broken: {error.message}', OTHER_NAME)


# --- models -----------------------------------------------------------------------------------------------------------


def _entries(
    cat: catalog.Catalog, name: str, trio: catalog.Emulator, target: Path, old: added.Added | None
) -> dict[str, Entry]:
    """The entry of each model of `trio`: one that is there already and has the same file, or else a new one.

    The entries of `old`, which will be replaced, do not count as there.
    """
    read = (catalog.packaged("models.toml"), catalog.users_file(), target)
    going = frozenset[str]() if old is None else old.models
    usable = [
        entry
        for entry in cat.models.values()
        if entry.name not in going and entry.source and any(_same_path(entry.source, file) for file in read)
    ]
    pair = [model for reward in trio.rewards for model in (reward.tuned, reward.reference)]
    found: dict[str, Entry] = {}
    for role, text in zip(ROLES, [trio.base, *pair], strict=False):
        model = cat.model(text)
        twin = next((entry for entry in found.values() if _same_file(entry.model, model)), None)
        there = twin or _existing(usable, model)
        found.setdefault(text, there or Entry(replace(model, name=f"{name}-{role}", source=None), new=True))
    return found


def _existing(usable: Iterable[catalog.Model], model: catalog.Model) -> Entry | None:
    """The entry among `usable` that has the model's file. Models that are named by their file have no entry."""
    for entry in sorted(usable, key=lambda entry: entry.name != model.name):  # the one that the user named first
        is_name = not entry.name.startswith(HUB) and not entry.name.endswith(".gguf") and "/" not in entry.name
        if is_name and _same_file(entry, model):
            return Entry(entry, new=False)
    return None


def _same_file(one: catalog.Model, other: catalog.Model) -> bool:
    if one.lora != other.lora:
        return False
    if not (isinstance(one.file, Path) and isinstance(other.file, Path)):
        return _place(one.file) == _place(other.file)
    try:
        return one.file == other.file or one.file.samefile(other.file)
    except (OSError, ValueError):
        return False


def _sized(model: catalog.Model, sizes: Mapping[str, int]) -> catalog.Model:
    """The model with the size of its file on the Hub, which `eftlocal list` shows before the file is downloaded."""
    if not isinstance(model.file, HubFile) or model.name not in sizes:
        return model
    return replace(model, file=replace(model.file, size=sizes[model.name]))


def _same_path(one: Path, other: Path) -> bool:
    return expanded(one).absolute() == expanded(other).absolute()


def _place(file: catalog.File | catalog.Server) -> object:
    return (file.repo, file.file, file.revision) if isinstance(file, HubFile) else file


# --- what is said -----------------------------------------------------------------------------------------------------


def say(name: str, target: Path, checked: Checked) -> None:
    """Say that the models.toml `target` has the emulator, and what was found."""
    name = as_unicode(name)
    out = console(stderr=True)
    option = "" if target == catalog.users_file() else f" --models {shlex.quote(str(target))}"
    if checked.views:
        views = ", ".join(f"{role} {view.kind}" for role, view in checked.views.items())
        out.print(printable(f"views: {views} (`eftlocal show {name}{option}` shows what each sees)"))
    for note in checked.notes:
        out.print(printable(note))
    print(printable(f"`eftlocal rm {name}{option}` takes it out again"), file=sys.stderr)
    print(printable(f"{target} now defines {name}: eftlocal chat {name}{option}"), file=sys.stderr)
