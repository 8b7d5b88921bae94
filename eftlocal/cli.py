"""The command line: options and their help; every command imports its work only when it runs."""

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from eftlocal.errors import EftError, SettingError

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog
    from eftlocal.emulation.emulator import Emulator
    from eftlocal.emulation.settings import Dials

app = typer.Typer(
    name="eftlocal",
    help="Emulated fine-tuning on one machine: a large base model, steered by a small fine-tuned one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MODEL = "What runs"
DIALS = "Dials"
ANSWER = "The answer"

DEMO = "demo"
DEMO_NOTE = (
    "eftlocal: no emulator was named, so this is the embedded demo (it knows 600 cities and little else).\n"
    'Your own models: name them in a models.toml (README, "Your models") and give --models FILE.'
)


@dataclass(frozen=True)
class Options:
    """The options that every command which runs an emulator has; None is: not given."""

    models: Annotated[
        Path | None, typer.Option(help="A models.toml beside the packaged and your own.", rich_help_panel=MODEL)
    ] = None
    ctx: Annotated[int | None, typer.Option(help="Tokens of context.", rich_help_panel=MODEL)] = None
    threads: Annotated[int | None, typer.Option(help="CPU threads in all.", rich_help_panel=MODEL)] = None
    gpu_layers: Annotated[
        int | None, typer.Option(help="Layers of each model on the device (default: all).", rich_help_panel=MODEL)
    ] = None
    kv_type: Annotated[
        str, typer.Option(help="How the KV cache is stored: f16, q8_0 or f32.", rich_help_panel=MODEL)
    ] = "f16"
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
            help="Tokens that a small member guesses at a time, for all to check at once; 0 is off.",
            rich_help_panel=DIALS,
        ),
    ] = None
    max_tokens: Annotated[int | None, typer.Option(help="Length of an answer at most.", rich_help_panel=ANSWER)] = None
    stop: Annotated[
        list[str] | None, typer.Option(help="A string that ends the answer; repeat it.", rich_help_panel=ANSWER)
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", help="Show llama.cpp's own log.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False

    def load(self, emulator: str | None, catalog: "Catalog | None" = None) -> "Emulator":
        """The emulator with these options as its settings; of `catalog`, where one is given."""
        from eftlocal.emulation.emulator import Emulator
        from eftlocal.runtime.llama import set_verbose

        set_verbose(self.verbose)
        return Emulator.load(
            emulator,
            models=catalog or self.models,
            context=self.ctx,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            kv_type=self.kv_type,
            **self.dials(),
        )

    def chosen(self, emulator: str | None) -> str | None:
        """The emulator that was named; where none was and the default is the embedded demo, stderr says so."""
        from eftlocal.catalog import models

        if emulator is None and models.load(self.models).default == DEMO:
            print(DEMO_NOTE, file=sys.stderr)
        return emulator

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


def parse_mix(texts: list[str]) -> dict[str, float]:
    """`NAME=WEIGHT`, several of them also in one text with commas. Raises SettingError."""
    mix: dict[str, float] = {}
    for part in ",".join(texts).split(","):
        name, equals, weight = part.partition("=")
        try:
            mix[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not (equals and name.strip()):
            raise SettingError(f"--mix has {part!r}; it must be NAME=WEIGHT.", "As in: --mix helpful=1 --mix brief=0.5")
    return mix


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
        try:
            code = command(options=options, **values)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of the pipe has left: nothing is wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer goes nowhere
            code = 0
        raise typer.Exit(code)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in [*own, *common]}
    return run


EmulatorOption = Annotated[
    str | None, typer.Option("-e", "--emulator", metavar="NAME", help="The emulator (default: the catalogue's).")
]
SystemOption = Annotated[str | None, typer.Option("--system", help="The system text.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Give the prompt as it is: no template, no turns.")]
KeepContext = Literal["ask", "rolling"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
@with_options
def chat(
    options: Options,
    emulator: Annotated[str | None, typer.Argument(metavar="[EMULATOR]", help="(default: the catalogue's)")] = None,
    named: EmulatorOption = None,
    system: SystemOption = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="NAME", help="Save always, and go on with what was saved.")
    ] = None,
    no_history: Annotated[bool, typer.Option("--no-history", help="Keep nothing of what is typed.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No Markdown, no colours.")] = False,
    keep_context: Annotated[
        KeepContext, typer.Option("--keep-context", help="At the context's end: ask, or drop the oldest turns.")
    ] = "ask",
) -> int:
    """Chat in the terminal."""
    from eftlocal.apps import chat

    return chat.chat(
        options.load,
        options.chosen(emulator or named),
        models=options.models,
        system=system,
        session_name=session,
        history=not no_history,
        plain=plain,
        rolling=keep_context == "rolling",
        dials=options.dials(),
    )


@app.command()
@with_options
def generate(
    options: Options,
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="`-` or a pipe: read it from there.")] = None,
    emulator: EmulatorOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
    json: JsonOption = False,
) -> int:
    """Answer one prompt on standard output."""
    from eftlocal.apps import generate

    question = generate.as_prompt(generate.read_prompt(prompt), system=system, raw=raw)
    with options.load(options.chosen(emulator)) as loaded:
        return generate.generate(loaded, question, as_json=json)


@app.command()
@with_options
def score(
    options: Options,
    prompt: Annotated[str, typer.Option("--prompt", help="What the completion answers.")],
    completion: Annotated[str, typer.Option("--completion", help="The text whose tokens are scored.")],
    emulator: EmulatorOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
    json: JsonOption = False,
) -> int:
    """Log-probabilities of a completion under the emulator and under each of its models."""
    from eftlocal.apps import generate

    question = generate.as_prompt(prompt, system=system, raw=raw)
    with options.load(options.chosen(emulator)) as loaded:
        return generate.score(loaded, question, completion, as_json=json)


@app.command()
def demo(
    questions: Annotated[int, typer.Option(min=1, help="How many held-out questions are measured.")] = 300,
    beta: Annotated[float, typer.Option(help="Strength of the small pair.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Which questions are shown.")] = None,
    json: JsonOption = False,
) -> None:
    """See emulated fine-tuning work, in seconds: a tiny model family that ships with eftlocal."""
    from eftlocal.apps import demo

    raise typer.Exit(demo.demo(questions, as_json=json, shown_seed=seed, beta=beta, temperature=temperature))


@app.command()
@with_options
def bench(
    options: Options,
    emulator: Annotated[str | None, typer.Argument(metavar="[EMULATOR]", help="(default: the catalogue's)")] = None,
    synthetic_base: Annotated[
        str | None,
        typer.Option(metavar="SIZE[:TYPE]", help="Widen the base to this size, as 300M or 300M:Q4_K_M (a llama)."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens decoded after each prompt.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each way is measured.")] = 5,
    json: JsonOption = False,
) -> int:
    """Measure what emulation and drafts cost and gain on this machine."""
    from eftlocal.apps import bench

    return bench.bench(
        lambda catalog, name: options.load(name, catalog),
        emulator,
        models=options.models,
        synthetic_base=synthetic_base,
        tokens=tokens,
        repetitions=repetitions,
        as_json=json,
    )


def main() -> None:
    """The program: errors of the user's are one or two lines on stderr, with the exit code they carry."""
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal or pipe without UTF-8 shows `?` for what it cannot
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except EftError as error:
        if "--debug" in sys.argv:
            raise
        print(f"eftlocal: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
