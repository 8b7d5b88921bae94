"""The options that several commands share: their help, and how they reach the emulator."""

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, replace
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack, get_type_hints

import typer

from eftlocal.cli.values import parse_layers, parse_mix, parse_views
from eftlocal.errors import SettingError
from eftlocal.text import printable

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
    "JsonOption",
    "JsonToo",
    "ModelsOption",
    "OnErrorOption",
    "Options",
    "OutputOption",
    "OverwriteOption",
    "QuietOption",
    "RawOption",
    "SystemOption",
    "named_one_by_one",
    "tell",
    "with_options",
]

MODEL = "Models and devices"
DIALS = "Dials"
ANSWER = "The answer"

INSTEAD = "{wanted} is not on this machine; `eftlocal pull {wanted}` downloads it."
DEMO = "Using demo instead, which knows 600 cities and little else."

ModelsOption = Annotated[
    Path | None,
    typer.Option(
        help="Read this models.toml too; its entries override the packaged ones and your own.", rich_help_panel=MODEL
    ),
]


EmulatorOption = Annotated[
    str | None,
    typer.Option("-e", "--emulator", metavar="NAME", help="Emulator to run (default: the one that models.toml names)."),
]
SystemOption = Annotated[str | None, typer.Option("--system", help="System text (system prompt) of the conversation.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Use the prompt as it is, without a chat template.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
JsonToo = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of text; with -i, the output is JSON Lines in any case.")
]

FILES = "A file of prompts"
InputOption = Annotated[
    str | None,
    typer.Option(
        "-i",
        "--input",
        metavar="FILE",
        help="Read many prompts from FILE (.jsonl, .csv or .txt); - is standard input.",
        rich_help_panel=FILES,
    ),
]
OutputOption = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the results to FILE as JSON Lines; the same command again continues it; - is standard output.",
        rich_help_panel=FILES,
    ),
]
FormatOption = Annotated[
    Literal["jsonl", "csv", "text"] | None,
    typer.Option("--format", help="Format of the input (default: by its file name).", rich_help_panel=FILES),
]
OnErrorOption = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        "--on-error",
        help="When a line fails: stop the run, or write its error and skip to the next line.",
        rich_help_panel=FILES,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output instead of continuing it.", rich_help_panel=FILES)
]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Show no progress and no summary.", rich_help_panel=FILES)
]


@dataclass(frozen=True)
class Options:
    """The options of every command that runs an emulator. None means that the option was not given."""

    models: ModelsOption = None
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Large base model to run instead of an emulator: a name, hf:owner/repo/file.gguf or a path.",
            rich_help_panel=MODEL,
        ),
    ] = None
    tuned: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="With --base and --reference: the small fine-tuned model.", rich_help_panel=MODEL
        ),
    ] = None
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --base and --tuned: the small base model that --tuned was made from.",
            rich_help_panel=MODEL,
        ),
    ] = None
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=VIEW",
            help="How base, tuned or reference sees a conversation: chat (its chat template), chat:ROLE (that of "
            "another role), transcript or raw; repeat the option for more roles.",
            rich_help_panel=MODEL,
        ),
    ] = None
    ctx: Annotated[
        int | None,
        typer.Option(help="Context size in tokens (default: the emulator's, else up to 4096).", rich_help_panel=MODEL),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to use in all (default: one for each core).", rich_help_panel=MODEL)
    ] = None
    gpu_layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|NAME=N",
            help="Layers to offload to devices: N for every model, or by role or model name (default: as many as fit; "
            "0 is the CPU alone).",
            rich_help_panel=MODEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="Devices to use, separated by commas; `eftlocal doctor` lists them (default: all GPUs; none is the "
            "CPU alone).",
            rich_help_panel=MODEL,
        ),
    ] = None
    main_gpu: Annotated[
        int | None,
        typer.Option(
            help="Number of the device to fill first, from 0 (default: the one with the most room).",
            rich_help_panel=MODEL,
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            metavar="none|layer|row|3,1",
            help="How to split a model over devices: layer, row, proportions such as 3,1, or none (default: split only "
            "a model that no single device can hold).",
            rich_help_panel=MODEL,
        ),
    ] = None
    kv_type: Annotated[
        str,
        typer.Option(
            help="Type of the KV cache: f16, q8_0 (half the memory) or f32 (exact, twice the memory).",
            rich_help_panel=MODEL,
        ),
    ] = "f16"
    force: Annotated[
        bool, typer.Option("--force", help="Load models even if they do not fit in memory.", rich_help_panel=MODEL)
    ] = False
    beta: Annotated[
        float | None,
        typer.Option(
            help="Strength of all rewards: 0 is the base alone, 1 is as configured (default: 1).", rich_help_panel=DIALS
        ),
    ] = None
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="Strength of one reward; repeat the option, or write A=1,B=0.5 (default: as configured).",
            rich_help_panel=DIALS,
        ),
    ] = None
    reward_top_p: Annotated[
        float | None,
        typer.Option(
            help="Apply rewards only to the tuned model's top-p nucleus; they are 0 elsewhere (default: off).",
            rich_help_panel=DIALS,
        ),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature; 0 is greedy (default: the emulator's, else 0.7).", rich_help_panel=DIALS
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Sample from the k most likely tokens; 0 is off (default: the emulator's, else 0).",
            rich_help_panel=DIALS,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the most likely tokens that together reach this probability; 1 is off "
            "(default: the emulator's, else 0.95).",
            rich_help_panel=DIALS,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Drop tokens less likely than this fraction of the most likely one; 0 is off "
            "(default: the emulator's, else 0).",
            rich_help_panel=DIALS,
        ),
    ] = None
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Steer away from what the model says with this system text (classifier-free guidance).",
            rich_help_panel=DIALS,
        ),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(help="With --negative: how strongly; 1 is off (default: 1.5).", rich_help_panel=DIALS),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(help="Seed for sampling, to get the same answer again (default: random).", rich_help_panel=DIALS),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Tokens to draft at a time for speculative decoding: auto drafts as many as pay off, 0 drafts none "
            "(default: auto).",
            rich_help_panel=DIALS,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens in an answer (default: the emulator's, else 1024).", rich_help_panel=ANSWER
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="End the answer before this string; repeat the option for more strings.", rich_help_panel=ANSWER
        ),
    ] = None
    date: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            help="Date that chat templates see (default: today; an output that is continued keeps its date).",
            rich_help_panel=ANSWER,
        ),
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of llama.cpp.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False

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

    @property
    def day(self) -> "DateType | None":
        """The date that was given."""
        return None if self.date is None else self.date.date()

    def load(
        self, catalog: "Catalog", emulator: str | None, *, day: "DateType | None" = None, **more: "Unpack[Dials]"
    ) -> "Emulator":
        """Load the emulator of that name (None: the default) with these options; `more` overrides its settings.

        `day` is the date that chat templates see; None is the option's. Raises what `Emulator.load` raises.
        """
        from eftlocal.emulation.emulator import Emulator

        return Emulator(self.load_members(catalog, emulator, day=day, **more))

    def load_members(
        self, catalog: "Catalog", emulator: str | None, *, day: "DateType | None" = None, **more: "Unpack[Dials]"
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
            force=self.force,
            date=day or self.day,
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
        self, catalog: "Catalog", emulator: str | None, *, day: "DateType | None" = None, **more: "Unpack[Dials]"
    ) -> "Emulator":
        """Load as `load` does, and print the emulator's notes on stderr: what went differently than planned."""
        loaded = self.load(catalog, emulator, day=day, **more)
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
        print(printable(f"eftlocal: {note}"), file=sys.stderr)


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


def with_options(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command the shared options: its `options` parameter becomes one parameter for each field of Options."""
    own = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "options"]
    hints = get_type_hints(Options, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Options)
        if f.default is not MISSING
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        options = Options(**{p.name: values.pop(p.name) for p in shared})
        raise typer.Exit(command(options=options, **values))

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in [*own, *shared]}
    return run
