"""Options that several commands have: their help, and what becomes of them."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack, get_type_hints

import typer

from eftlocal.cli.values import parse_layers, parse_mix
from eftlocal.errors import SettingError

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog
    from eftlocal.decoding.settings import Dials
    from eftlocal.emulation.emulator import Emulator

__all__ = [
    "FILES",
    "EmulatorOption",
    "FormatOption",
    "InputOption",
    "JsonOption",
    "ModelsOption",
    "OnErrorOption",
    "Options",
    "OutputOption",
    "OverwriteOption",
    "QuietOption",
    "RawOption",
    "SystemOption",
    "named_one_by_one",
    "with_options",
]

MODEL = "What runs"
DIALS = "Dials"
ANSWER = "The answer"

INSTEAD = (
    "eftlocal: {wanted} is not on this machine (`eftlocal pull {wanted}` downloads it), so this is {name},\n"
    "which ships with eftlocal: it knows 600 cities and little else."
)

ModelsOption = Annotated[
    Path | None, typer.Option(help="A models.toml beside the packaged and your own.", rich_help_panel=MODEL)
]


EmulatorOption = Annotated[
    str | None, typer.Option("-e", "--emulator", metavar="NAME", help="The emulator (default: the catalogue's).")
]
SystemOption = Annotated[str | None, typer.Option("--system", help="The system text.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Give the prompt as it is: no template, no turns.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

FILES = "A file of prompts"
InputOption = Annotated[
    str | None,
    typer.Option(
        "-i",
        "--input",
        metavar="FILE",
        help="Every line of a file (.jsonl, .csv, .txt); - is standard input.",
        rich_help_panel=FILES,
    ),
]
OutputOption = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="JSON Lines; the same command again goes on where it broke off.",
        rich_help_panel=FILES,
    ),
]
FormatOption = Annotated[
    Literal["jsonl", "csv", "text"] | None,
    typer.Option("--format", help="What the input is (default: by its name).", rich_help_panel=FILES),
]
OnErrorOption = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        "--on-error",
        help="A line that cannot be answered ends the run, or is written with its error.",
        rich_help_panel=FILES,
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start the output anew.", rich_help_panel=FILES)]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no summary.", rich_help_panel=FILES)]


@dataclass(frozen=True)
class Options:
    """The options that every command which runs an emulator has; None is: not given."""

    models: ModelsOption = None
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Models instead of an emulator: each a name, hf:owner/repo/file.gguf or a path.",
            rich_help_panel=MODEL,
        ),
    ] = None
    tuned: Annotated[str | None, typer.Option(metavar="MODEL", help="With --base.", rich_help_panel=MODEL)] = None
    reference: Annotated[str | None, typer.Option(metavar="MODEL", help="With --base.", rich_help_panel=MODEL)] = None
    ctx: Annotated[int | None, typer.Option(help="Tokens of context.", rich_help_panel=MODEL)] = None
    threads: Annotated[int | None, typer.Option(help="CPU threads in all.", rich_help_panel=MODEL)] = None
    gpu_layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|NAME=N",
            help="Layers on devices, of every model, or by role or model name (default: as many as fit; 0 is the CPU).",
            rich_help_panel=MODEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="Devices to use, with commas; none is the CPU (`eftlocal doctor` lists them).", rich_help_panel=MODEL
        ),
    ] = None
    main_gpu: Annotated[
        int | None, typer.Option(help="The number of the device that is filled first.", rich_help_panel=MODEL)
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            metavar="none|layer|row|3,1",
            help="How a model is divided over several devices (default: only if none holds it whole).",
            rich_help_panel=MODEL,
        ),
    ] = None
    kv_type: Annotated[
        str, typer.Option(help="How the KV cache is stored: f16, q8_0 or f32.", rich_help_panel=MODEL)
    ] = "f16"
    force: Annotated[
        bool, typer.Option("--force", help="Load what does not fit in memory, too.", rich_help_panel=MODEL)
    ] = False
    beta: Annotated[
        float | None,
        typer.Option(help="Strength of all rewards: 0 is the base alone, 1 as configured.", rich_help_panel=DIALS),
    ] = None
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT", help="A reward's own strength; repeat it, or A=1,B=0.5.", rich_help_panel=DIALS
        ),
    ] = None
    reward_top_p: Annotated[
        float | None,
        typer.Option(help="Keep rewards on the tuned model's top-p nucleus, 0 elsewhere.", rich_help_panel=DIALS),
    ] = None
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.", rich_help_panel=DIALS)] = None
    top_k: Annotated[int | None, typer.Option(help="Keep the k likeliest tokens; 0 is off.", rich_help_panel=DIALS)] = (
        None
    )
    top_p: Annotated[
        float | None, typer.Option(help="Keep the nucleus of this probability; 1 is off.", rich_help_panel=DIALS)
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(help="Keep tokens at least this fraction of the likeliest; 0 is off.", rich_help_panel=DIALS),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.", rich_help_panel=DIALS)] = None
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Tokens that a small member guesses at a time, for all to check at once: auto (the default) is as "
            "many as pay, 0 is none.",
            rich_help_panel=DIALS,
        ),
    ] = None
    max_tokens: Annotated[int | None, typer.Option(help="Length of an answer at most.", rich_help_panel=ANSWER)] = None
    stop: Annotated[
        list[str] | None, typer.Option(help="A string that ends the answer; repeat it.", rich_help_panel=ANSWER)
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", help="Show llama.cpp's own log.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False

    def catalog(self, emulator: str | None = None) -> "tuple[Catalog, str | None]":
        """Everything that could run, and which of it was named; stderr says where the default is not there."""
        from eftlocal.catalog import models

        cat = models.load(self.models)
        if trio := named_one_by_one(cat, emulator, self.base, self.tuned, self.reference):
            return trio, None
        if emulator is None and cat.default and (instead := cat.emulator(None).name) != cat.default[0]:
            print(INSTEAD.format(wanted=cat.default[0], name=instead), file=sys.stderr)
        return cat, emulator

    def load(self, catalog: "Catalog", emulator: str | None, **more: "Unpack[Dials]") -> "Emulator":
        """The emulator of that name (None: the default), with these options and `more` as its settings."""
        from eftlocal.emulation.emulator import Emulator
        from eftlocal.runtime.llama.library import set_verbose

        set_verbose(self.verbose)
        return Emulator.load(
            emulator,
            models=catalog,
            context=self.ctx,
            threads=self.threads,
            kv_type=self.kv_type,
            gpu_layers=parse_layers(self.gpu_layers),
            device=self.device,
            main_gpu=self.main_gpu,
            split=self.split,
            force=self.force,
            **(self.dials() | more),
        )

    def load_and_tell(self, catalog: "Catalog", emulator: str | None, **more: "Unpack[Dials]") -> "Emulator":
        """As `load`; stderr says what went otherwise than planned."""
        loaded = self.load(catalog, emulator, **more)
        for note in loaded.notes:
            print(f"eftlocal: {note}", file=sys.stderr)
        return loaded

    def dials(self) -> "Dials":
        """The settings that were given, by their names."""
        names = ("beta", "reward_top_p", "temperature", "top_k", "top_p", "min_p", "seed", "max_tokens", "stop")
        dials: Any = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.draft is not None:
            dials["draft"] = int(self.draft) if self.draft.isdecimal() else self.draft
        if self.mix:
            dials["mix"] = parse_mix(self.mix)
        given: Dials = dials
        return given


def named_one_by_one(
    cat: "Catalog", name: str | None, base: str | None, tuned: str | None, reference: str | None
) -> "Catalog | None":
    """The catalogue whose default is the emulator of --base, --tuned and --reference; None where none was given.

    Raises SettingError where `name` was given as well, or no --base.
    """
    if base is None:
        if tuned is not None or reference is not None:
            raise SettingError("--tuned and --reference were given, and no --base.", "Name the large model, too.")
        return None
    if name is not None:
        raise SettingError(f"Both {name} and a --base were named.", "Leave one of them out.")
    return cat.with_trio(base, tuned, reference)


def with_options(command: Callable[..., int]) -> Callable[..., None]:
    """Give a command the common options: its `options` parameter becomes one parameter for each of them."""
    own = [p for name, p in inspect.signature(command, eval_str=True).parameters.items() if name != "options"]
    hints = get_type_hints(Options, include_extras=True)
    common = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Options)
        if f.default is not MISSING
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        options = Options(**{p.name: values.pop(p.name) for p in common})
        raise typer.Exit(command(options=options, **values))

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in [*own, *common]}
    return run
