"""The options that several commands share, and how they reach the emulator."""

import inspect
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import MISSING, dataclass, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Unpack, get_type_hints

import typer

from eftlocal.cli.declared import (
    FILES,
    EmulatorOption,
    FormatOption,
    Given,
    InputOption,
    InsecureOption,
    JsonOption,
    JsonToo,
    ModelsOption,
    OnErrorOption,
    OutputOption,
    OverwriteOption,
    QuietOption,
    RawOption,
    RpcOption,
    SystemOption,
)
from eftlocal.cli.values import parse_layers, parse_mix, parse_views
from eftlocal.errors import SettingError
from eftlocal.text import printable, wrapped

if TYPE_CHECKING:
    from datetime import date as DateType  # noqa: N812 - a field of Options is named date

    from eftlocal.catalog.models import Catalog
    from eftlocal.decoding.settings import Dials
    from eftlocal.emulation.emulator import Emulator
    from eftlocal.emulation.loading import Loaded

__all__ = [
    "FILES",
    "EmulatorOption",
    "FormatOption",
    "InputOption",
    "InsecureOption",
    "JsonOption",
    "JsonToo",
    "ModelsOption",
    "OnErrorOption",
    "Options",
    "OutputOption",
    "OverwriteOption",
    "QuietOption",
    "RawOption",
    "RpcOption",
    "SystemOption",
    "named_one_by_one",
    "tell",
    "with_options",
]

INSTEAD = "{wanted} is not on this machine; `eftlocal pull {wanted}` downloads it."
DEMO = "Using demo instead, which knows 600 cities and little else."


@dataclass(frozen=True)
class Options(Given):
    """The options of every command that runs an emulator, and what they make of the catalogue and the settings."""

    def catalog(self, emulator: str | None = None) -> "tuple[Catalog, str | None]":
        """The catalogue and the name of the emulator to run in it (None: the catalogue's default).

        With --base, or with a .gguf file as `emulator`, the catalogue's default is the emulator of the named models.
        Says on stderr when the first default is not on this machine, and which mistakes in the models.toml files
        concern it. Raises CatalogError and SettingError.
        """
        from eftlocal.catalog import models

        cat = models.load(self.models)
        base = self.base
        if base is None and emulator is not None and emulator.endswith(".gguf") and emulator not in cat.emulators:
            base, emulator = emulator, None
        tell(cat.lines_for(base or emulator))
        if trio := named_one_by_one(cat, emulator, base, self.tuned, self.reference):
            return trio, None
        if emulator is None and cat.default and (instead := cat.emulator(None).name) != cat.default[0]:
            using = DEMO if instead == "demo" else f"Using {instead} instead."
            tell([INSTEAD.format(wanted=cat.default[0]), using])
        return cat, emulator

    def names_emulator(self, word: str) -> bool:
        """Whether the word is an emulator's name or a .gguf file."""
        from eftlocal.catalog import models

        return word.endswith(".gguf") or word in models.load(self.models).emulators

    @property
    def day(self) -> "DateType | None":
        """The date that was given."""
        return None if self.date is None else self.date.date()

    def load(
        self,
        catalog: "Catalog",
        emulator: str | None,
        *,
        day: "DateType | None" = None,
        upper: str | None = None,
        **more: "Unpack[Dials]",
    ) -> "Emulator":
        """Load the emulator of that name (None: the default) with these options; `more` overrides its settings.

        `day` is the date that chat templates see; None is the option's. `upper` names a model to compare with. Raises
        what `Emulator.load` raises.
        """
        from eftlocal.emulation.emulator import Emulator

        return Emulator(self.load_members(catalog, emulator, day=day, upper=upper, **more))

    def load_members(
        self,
        catalog: "Catalog",
        emulator: str | None,
        *,
        day: "DateType | None" = None,
        upper: str | None = None,
        **more: "Unpack[Dials]",
    ) -> "Loaded":
        """The same emulator's members on an engine, for `bench`, which measures the engine."""
        from eftlocal.emulation.loading import load
        from eftlocal.runtime.llama.library import set_verbose

        set_verbose(self.verbose)
        return load(
            emulator,
            models=self.changed(catalog, emulator),
            context=self.ctx,
            threads=self.threads,
            kv_type=self.kv_type,
            gpu_layers=parse_layers(self.gpu_layers),
            device=self.device,
            main_gpu=self.main_gpu,
            split=self.split,
            rpc=self.rpc,
            insecure=self.insecure,
            force=self.force,
            date=day or self.day,
            upper=upper,
            **(self.dials() | more),
        )

    def changed(self, catalog: "Catalog", emulator: str | None) -> "Catalog":
        """The catalogue, in which that emulator has the views and the guidance of the options. Raises SettingError."""
        from eftlocal.catalog.changes import DEFAULT_GUIDANCE, guided, with_views

        if self.guidance is not None and self.negative is None:
            raise SettingError("--guidance needs --negative, which is missing.", "Add --negative with a system text.")
        if not self.view and self.negative is None:
            return catalog
        made = with_views(catalog.emulator(emulator), parse_views(self.view or []))
        if self.negative is not None:
            made = guided(made, self.negative, DEFAULT_GUIDANCE if self.guidance is None else self.guidance)
        return replace(catalog, emulators={**catalog.emulators, made.name: made})

    def load_and_tell(
        self,
        catalog: "Catalog",
        emulator: str | None,
        *,
        day: "DateType | None" = None,
        upper: str | None = None,
        **more: "Unpack[Dials]",
    ) -> "Emulator":
        """Load as `load` does, and print the emulator's notes on stderr: what went differently than planned."""
        loaded = self.load(catalog, emulator, day=day, upper=upper, **more)
        tell(loaded.notes)
        if self.date is not None and loaded.members.date is None:
            tell([f"--date has no effect: no chat template of {loaded.name} asks for the date."])
        return loaded

    def dials(self) -> "Dials":
        """The settings that were given, by name. Raises SettingError."""
        names = ("beta", "reward_top_p", "temperature", "top_k", "top_p", "min_p", "seed", "max_tokens", "stop")
        dials: Any = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.draft is not None:
            dials["draft"] = int(self.draft) if self.draft.isdecimal() else self.draft
        if self.mix:
            dials["mix"] = parse_mix(self.mix)
        given: Dials = dials
        return given


def tell(notes: Iterable[str]) -> None:
    """Print what did not go as planned on stderr."""
    for note in notes:
        print(wrapped(printable(f"eftlocal: {note}"), sys.stderr), file=sys.stderr)


def named_one_by_one(
    cat: "Catalog", name: str | None, base: str | None, tuned: str | None, reference: str | None
) -> "Catalog | None":
    """A catalogue whose default is the emulator of --base, --tuned and --reference; None if none of them was given.

    Raises SettingError if `name` was given too or --base is missing, and CatalogError for a model that is not found.
    """
    if base is None:
        if tuned is not None or reference is not None:
            raise SettingError(
                "--tuned and --reference need --base, which is missing.", "Add --base with the large model."
            )
        return None
    if name is not None:
        raise SettingError(f"Both {name} and --base were given.", "Give an emulator's name or --base, not both.")
    return cat.with_trio(base, tuned, reference)


def with_options(command: Callable[..., int], *, but: Collection[str] = ()) -> Callable[..., None]:
    """Give a command the shared options: its `options` parameter becomes one parameter for each field of Options.

    `but` names fields that mean nothing to the command; they keep their defaults.
    """
    own = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "options"]
    hints = get_type_hints(Options, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Options)
        if f.default is not MISSING and f.name not in but
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        options = Options(**{p.name: values.pop(p.name) for p in shared})
        raise typer.Exit(command(options=options, **values))

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    return run
