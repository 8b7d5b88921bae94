"""The command that trains a small model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import ModelsOption, tell

TRAINING = "Training"
STEERED = "The large model"


@app.command()
def tune(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="Examples: .jsonl and .csv, texts as .txt and .md, or folders of these."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="NAME", help="Write NAME.gguf (a name, or a path to it).")
    ],
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Small model to train (default: the reference of --for's emulator)."),
    ] = None,
    method: Annotated[
        Literal["lora", "full", "mofo", "dpo"],
        typer.Option(
            help="lora and dpo (for pairs) write an adapter of a few MB; full and mofo a whole model.",
            rich_help_panel=TRAINING,
        ),
    ] = "lora",
    emulator: Annotated[
        str | None,
        typer.Option("--for", metavar="EMULATOR", help="Train for this emulator's base.", rich_help_panel=STEERED),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Train for this large model.", rich_help_panel=STEERED)
    ] = None,
    beta: Annotated[
        float, typer.Option(help="Strength of the reward while it is trained.", rich_help_panel=STEERED)
    ] = 1.0,
    valid: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Examples to judge by, which are not trained on; repeat for more (default: a tenth of the prompts).",
        ),
    ] = None,
    view: Annotated[
        Literal["chat", "transcript"] | None,
        typer.Option(help="How the small model is asked (default: by its chat template, if it has one)."),
    ] = None,
    mofo: Annotated[
        float, typer.Option(metavar="F", help="Fraction of each matrix that moves at a step.", rich_help_panel=TRAINING)
    ] = 0.05,
    rank: Annotated[int, typer.Option(help="Rank of the adapter.", rich_help_panel=TRAINING)] = 16,
    alpha: Annotated[
        float | None, typer.Option(help="Alpha of the adapter (default: twice its rank).", rich_help_panel=TRAINING)
    ] = None,
    kind: Annotated[
        Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Type of a whole model that is written: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m or q4_0 "
            "(default: the reference's own, but q8_0 for one of fewer bits).",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="How often each example is seen, at most (default: 2 to 10).", rich_help_panel=TRAINING),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate (default: what a short trial on your data finds).", rich_help_panel=TRAINING
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples of one step.", rich_help_panel=TRAINING)] = 8,
    length: Annotated[
        int, typer.Option(help="Most tokens of an example; longer answers are left out.", rich_help_panel=TRAINING)
    ] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of the order and of what is drawn.", rich_help_panel=TRAINING)] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: every core).")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option(help="What to train on (default: a GPU where torch finds one).", rich_help_panel=TRAINING),
    ] = "auto",
    models: ModelsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file and an emulator of this name.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data and the model, say how long it takes, and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of llama.cpp.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Train a small model on your examples, so that it steers a large one, and add it as an emulator of that name.

    What was interrupted goes on: give the same command again. `rm NAME` takes the emulator out again.
    """
    from eftlocal.apps.store.init import say
    from eftlocal.apps.tune.conclusion import conclude
    from eftlocal.apps.tune.data import WrongLinesError
    from eftlocal.apps.tune.options import Options, gguf_path
    from eftlocal.apps.tune.report import Told, wrong_lines
    from eftlocal.catalog.models import load, users_file
    from eftlocal.runtime.llama.library import set_verbose
    from eftlocal.tuning import added, dry

    set_verbose(verbose)
    options = Options(
        data=tuple(data),
        output=gguf_path(output),
        reference=reference,
        emulator=emulator,
        base=base,
        valid=tuple(valid or ()),
        method=method,
        view=view,
        beta=beta,
        rank=rank,
        alpha=alpha,
        fraction=mofo,
        kind=kind,
        epochs=epochs,
        lr=lr,
        batch=batch,
        length=length,
        seed=seed,
        threads=threads,
        device=device,
        dry_run=dry_run,
    )
    cat, target = load(models), models or users_file()
    tell(cat.lines_for(emulator or base))
    try:
        if dry_run:
            dry(cat, options, target, force=force, tell=Told())
            return
        tuned, checked = added(cat, options, target, force=force, tell=Told())
    except WrongLinesError as error:
        wrong_lines(error)
        raise typer.Exit(error.exit_code) from None
    conclude(tuned.verdict, str(options.report))
    say(options.name, target, checked)
