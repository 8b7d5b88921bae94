"""The command `eval`, which measures an emulator."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import JsonOption, Options, with_options
from eftlocal.cli.values import parse_betas

MEASURED = "What is measured"
CALIBRATION = "Calibration"
ANSWERS = "The answers"
OWN = ("beta", "seed", "max_tokens", "temperature", "draft")  # they mean something else here, or have other defaults


@app.command("eval")
@partial(with_options, but=OWN)
def evaluate(
    options: Options,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [DATA]",
            help="Emulator to measure, or a .gguf file; then one or more files of questions, choices, preferences or "
            "text. What they hold is told by their fields. `demo` is data, too: the 300 questions that ship.",
        ),
    ] = None,
    upper: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A truly fine-tuned large model to compare with: a name or a path.",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    beta: Annotated[
        str | None,
        typer.Option(
            metavar="X,X,...",
            help="Strengths to measure, such as 0.5,1,2 or 0,0.25,...,2 (default: 0.5,0.75,1,1.5,2).",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE,ROLE",
            help="Measure only these: base, tuned, reference, emulated, upper (default: all).",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Measure only N items of each file, drawn with --seed.", rich_help_panel=MEASURED),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Seed of what is drawn: items, the halves that choose and judge, intervals.",
            rich_help_panel=MEASURED,
        ),
    ] = 0,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Fit the rewards' strengths and a bias on the end of answers on half of the items; judge on the rest.",
            rich_help_panel=CALIBRATION,
        ),
    ] = False,
    seen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="What the tuned model was trained on (repeatable): fit a bias on tokens that it does not show, too.",
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of tokens in an answer (default: 256).", rich_help_panel=ANSWERS),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature of answers; 0 is greedy.", rich_help_panel=ANSWERS)
    ] = 0.0,
    draft: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Tokens to draft at a time; with auto, two runs may differ in a few answers.",
            rich_help_panel=ANSWERS,
        ),
    ] = "0",
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1, help="Answers to decode at once (default: what suits the machine).", rich_help_panel=ANSWERS
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Keep everything in FOLDER: items.jsonl, results.json, report.html. The same command again continues.",
        ),
    ] = None,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option("--on-error", help="When a line or an item cannot be used: stop, or leave it out."),
    ] = "stop",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure again what FOLDER has already.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress.")] = False,
    json: JsonOption = False,
) -> int:
    """Measure whether emulation helps, where, and how much: a table, a curve and a page."""
    from eftlocal.apps import eval as app_eval

    data = list(words or [])
    name = data.pop(0) if data and options.base is None else None
    if not data:
        raise typer.BadParameter("name an emulator and then its data, such as: eftlocal eval demo questions.jsonl")
    options = replace(options, temperature=temperature, draft=draft)
    dials = options.dials()
    wanted = app_eval.Options(
        data=tuple(data),
        folder=output,
        betas=None if beta is None else parse_betas(beta),
        roles=None if not role else tuple(part.strip() for part in ",".join(role).split(",")),
        limit=limit,
        seed=seed,
        calibrate=calibrate,
        seen=tuple(seen or ()),
        max_tokens=max_tokens,
        answers=dials,
        parallel=parallel,
        on_error=on_error,
        overwrite=overwrite,
        quiet=quiet,
        as_json=json,
        date=options.day,
    )
    return app_eval.evaluate(lambda day: options.load_and_tell(*options.catalog(name), day=day, upper=upper), wanted)
