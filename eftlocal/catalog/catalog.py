"""The catalogue as a value: the models and emulators by name, and what of the models.toml files cannot be used."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from eftlocal.catalog.entries import DEFAULT_VIEWS, Emulator, Model, Reward, View
from eftlocal.catalog.files import BESIDE, NAMING, HubFile, local, named, typed
from eftlocal.catalog.server import Server, is_address, server_at
from eftlocal.catalog.tables import nearest
from eftlocal.errors import CatalogError, HubError
from eftlocal.text import as_unicode

__all__ = ["TRIO", "Catalog", "Mistake", "local_lora", "local_path"]

TRIO: Final = "trio"  # the name of the emulator that `with_trio` makes
_LIST_HINT: Final = "`eftlocal list` shows every name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A part of a models.toml that cannot be used. Everything else in the catalogue works without it.

    kind        what it is: a whole file, a key of the top level, the default, or an entry
    name        the name of the entry or the key; "" for a file
    file        the models.toml
    error       what is wrong: the file, the table, the key and the nearest right name
    breaks      the emulators that cannot be used because they use this model
    is_default  whether `default` names it, or an emulator that it breaks
    """

    kind: Literal["file", "key", "default", "model", "emulator"]
    name: str
    file: Path
    error: CatalogError
    breaks: tuple[str, ...] = ()
    is_default: bool = False

    @property
    def line(self) -> str:
        """The mistake and what follows from it, on one line."""
        follows = [f"so {', '.join(self.breaks)} cannot be used"] if self.breaks else []
        if self.is_default or self.kind == "default":
            follows.append("the next default is used")
        return f"{self.error.message} ({'; '.join(follows)})" if follows else self.error.message

    def error_of(self, emulator: str) -> CatalogError:
        """The error of an emulator that uses this model."""
        return self._error(f'The emulator "{emulator}" uses this model.')

    @property
    def error_of_default(self) -> CatalogError:
        """The error where no emulator is named, and the default would be another one than the files mean."""
        return self._error("No emulator was named, and the default is not certain: mend this, or name one.")

    @property
    def matters_to_default(self) -> bool:
        """Whether it changes, or may change, which emulator is used when none is named."""
        return self.is_default or self.kind in ("file", "key", "default")

    def _error(self, follows: str) -> CatalogError:
        """The error, whose second line says what to do, if that is known, and then what follows from the mistake."""
        hint = self.error.hint
        return CatalogError(self.error.message, follows if hint is None else f"{hint.removesuffix('.')}. {follows}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything that the models.toml files define, by name.

    `default` names the emulators to use when the user names none, in order of preference. The first whose models are
    all on this machine is used, or else the last.

    `mistakes` is what the files define and what cannot be used. Such an entry is not in `models` or `emulators`, and
    asking for it raises its error. An entry of that name in an earlier file is not used in its place.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    emulators: Mapping[str, Emulator] = field(default_factory=dict)
    default: tuple[str, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    def model(self, name: str) -> Model:
        """Returns the model that `name` stands for: a name, hf:owner/repo/file.gguf or a path. Raises CatalogError."""
        name = as_unicode(name)
        if name in self.models:
            return self.models[name]
        if (error := (broken := self.broken("model")).get(name)) is not None:
            raise error
        if is_address(name):
            return Model(name=name, file=server_at(name))
        if (file := named(name, Path.cwd())) is None:
            near = nearest(name, [*self.models, *broken])
            raise CatalogError(f'no model is named "{name}"{near}', self.why_missing(NAMING))
        return Model(name=name, file=file)

    def emulator(self, name: str | None) -> Emulator:
        """Returns the emulator of that name (None: the default). Raises CatalogError, with the nearest name."""
        if name is None and not self.default:
            problem = "No emulator was named, and the catalogue has no default."
            raise CatalogError(problem, self.why_missing("Name one: -e NAME."))
        if name is None:
            here = (name for name in self.default[:-1] if self.is_local(self.emulators[name]))
            name = next(here, self.default[-1])
        name = as_unicode(name)
        if name in self.emulators:
            return self.emulators[name]
        if (error := (broken := self.broken("emulator")).get(name)) is not None:
            raise error
        near = nearest(name, [*self.emulators, *broken])
        raise CatalogError(f'no emulator is named "{name}"{near}', self.why_missing(_LIST_HINT))

    def _typed(self, name: str) -> Model:
        """The model that a user names: a file here goes before one that an emulator names by the same relative path."""
        file = None if is_address(name) else named(name, Path.cwd())
        with suppress(OSError):
            if isinstance(file, Path) and file.exists():
                return Model(name=name, file=file)
        return self.model(name)

    def lines(self, *, without: str = "") -> list[str]:
        """The mistakes, one line each, but not those with which asking for the entry `without` fails."""
        asked = (*self.broken("model"), *self.broken("emulator")) if without else ()
        return [m.line for m in self.mistakes if without not in asked or without not in (m.name, *m.breaks)]

    def lines_for(self, name: str | None) -> list[str]:
        """The mistakes that matter to a user who names this emulator, or who names none (None), one line each."""
        return [m.line for m in self.mistakes if m.kind in ("file", "key") or (name is None and m.matters_to_default)]

    @property
    def default_error(self) -> CatalogError | None:
        """Why the emulator that a user means who names none may be another one; None if nothing is wrong."""
        return next((m.error_of_default for m in self.mistakes if m.matters_to_default), None)

    def broken(self, kind: Literal["model", "emulator"]) -> dict[str, CatalogError]:
        """The errors of the entries of this kind that cannot be used, by the entries' names."""
        found: dict[str, CatalogError] = {}
        for mistake in self.mistakes:
            if mistake.kind == kind:
                found[mistake.name] = mistake.error
            if kind == "emulator":
                found |= {name: mistake.error_of(name) for name in mistake.breaks}
        return found

    def why_missing(self, otherwise: str) -> str:
        """The hint for a name that is not found: the file that may define it unread, or else `otherwise`."""
        hiding = next((m.file for m in self.mistakes if m.kind in ("file", "key")), None)
        if hiding is None:
            return otherwise
        return f"It may be in a part of {hiding} that cannot be read: `eftlocal doctor` says why."

    def is_local(self, emulator: Emulator) -> bool:
        """Whether all files of the emulator's models are on this machine; False also where that cannot be found out."""
        try:
            self.must_be_here(emulator)
        except (CatalogError, HubError):
            return False
        return True

    def must_be_here(self, emulator: Emulator) -> None:
        """Raises CatalogError when a model of `emulator` is not downloaded, or when a file at a path does not exist."""
        models = [self.model(name) for name in emulator.models]
        far = [
            model.name for model in models for file in model.files if isinstance(file, HubFile) and not _is_here(file)
        ]
        if far:
            are = "is" if len(set(far)) == 1 else "are"
            problem = (
                f"{emulator.name} is not on this machine: {', '.join(dict.fromkeys(far))} {are} not downloaded yet"
            )
            raise CatalogError(problem, f"`eftlocal pull {emulator.words}` downloads what is missing")
        for model in models:
            if model.server is None:
                local_path(model)
                local_lora(model)
        for reward in emulator.rewards:
            if reward.bias is not None and (file := reward.bias.unseen_tokens) is not None and not file.is_file():
                problem = f"{emulator.source}: [emulators.{emulator.name}] bias.unseen_tokens: {file}: no such file"
                raise CatalogError(problem, BESIDE)

    def alone(self, name: str) -> Emulator:
        """Returns the emulator that is one model alone: the one of that name, or one made of a model or a file.

        Its view is the model's own chat template if it has one. Raises CatalogError, also for an emulator with rewards.
        """
        name = as_unicode(name)
        if (found := self.emulators.get(name)) is not None and name not in self.models:
            if found.rewards:
                problem = f'"{name}" is an emulator with rewards; one model alone is needed here'
                raise CatalogError(problem, "Name a model, or a .gguf file.")
            return found
        return Emulator(name=name, base=self._typed(name).name, views={**DEFAULT_VIEWS, "base": View("auto")})

    def with_trio(self, base: str, tuned: str | None = None, reference: str | None = None) -> "Catalog":
        """Returns this catalogue with an emulator of these models added as its default.

        Each model is named as for `model`. Without `tuned` and `reference`, the emulator is the base alone, with its
        own chat template if it has one. Raises CatalogError for an unknown model, and when only one of `tuned` and
        `reference` is given.
        """
        if (tuned is None) != (reference is None):
            missing, given = ("reference", "tuned") if reference is None else ("tuned", "reference")
            problem = f"a {given} model was named, but no {missing} model"
            raise CatalogError(problem, "Name both: a reward is the difference of the two.")
        pair = [] if tuned is None or reference is None else [as_unicode(tuned), as_unicode(reference)]
        base = as_unicode(base)
        models = {name: self._typed(name) for name in (base, *pair)}
        rewards = (Reward(name="tuned", tuned=pair[0], reference=pair[1]),) if pair else ()
        views = DEFAULT_VIEWS if pair else {**DEFAULT_VIEWS, "base": View("auto")}
        description = "the models named on the command line"
        made = Emulator(name=TRIO, base=base, rewards=rewards, views=dict(views), description=description)
        return replace(
            self, models={**self.models, **models}, emulators={**self.emulators, TRIO: made}, default=(TRIO,)
        )


def local_path(model: Model) -> Path:
    """Returns the path of the model's file on this machine. Raises CatalogError, which says which file is missing."""
    if isinstance(model.file, Server):
        raise CatalogError(f"{model.name} is on {model.file}, and has no file on this machine", NAMING)
    if model.source is None:
        return local(model.file, f'model "{model.name}"', model.name, typed(model.name))
    return local(model.file, f"{_table(model)}{' path' if isinstance(model.file, Path) else ''}", model.name, BESIDE)


def local_lora(model: Model) -> tuple[Path, float] | None:
    """Returns the path of the model's LoRA adapter on this machine and its scale; None when it has no adapter.

    Raises CatalogError when the file is missing.
    """
    if model.lora is None:
        return None
    return local(model.lora.file, f"{_table(model)} lora", model.name), model.lora.scale


def _table(model: Model) -> str:
    return f"{model.source}: [models.{model.name}]"


def _is_here(file: HubFile) -> bool:
    from eftlocal.catalog import hub

    return hub.cached(file.repo, file.file, file.revision) is not None
