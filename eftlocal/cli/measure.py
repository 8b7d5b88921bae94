"""The commands `demo` and `bench`, which show and measure emulation on this machine."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import JsonOption, Options, tell, with_options

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog
    from eftlocal.emulation.loading import Loaded

EMULATOR = "Emulator to run (default: the one that models.toml names)."


@app.command()
def demo(
    questions: Annotated[int, typer.Option(min=1, help="Number of held-out questions to measure.")] = 300,
    beta: Annotated[float, typer.Option(help="Strength of the small pair's reward.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Seed that picks the questions to show (default: random).")] = None,
    json: JsonOption = False,
) -> None:
    """See emulated fine-tuning work in seconds, on a tiny model family that is included."""
    from eftlocal.apps import demo

    raise typer.Exit(demo.demo(questions, as_json=json, shown_seed=seed, beta=beta, temperature=temperature))


@app.command()
@with_options
def bench(
    options: Options,
    emulator: Annotated[str | None, typer.Argument(metavar="EMULATOR", help=EMULATOR)] = None,
    synthetic_base: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE[:TYPE]", help="Widen a base of the llama architecture to this size: 300M or 300M:Q4_K_M."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens to decode after each prompt.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="How often to measure each way of decoding.")] = 5,
    sweep_threads: Annotated[
        bool,
        typer.Option("--sweep-threads", help="Also measure a token's cost with 1, 2, 4 ... threads, up to all cores."),
    ] = False,
    sweep_ctx: Annotated[
        str | None,
        typer.Option(
            metavar="N,N", help="Also measure a token's cost with N tokens in the context, such as 256,1024,4096."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw the results: .png, .svg or .pdf (needs the extra `plot`)."),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Measure what emulation and drafts cost and gain on this machine."""
    from eftlocal.apps import bench

    def load(catalog: "Catalog", name: str, ctx: int | None = None, threads: int | None = None) -> "Loaded":
        changed = replace(options, ctx=ctx or options.ctx, threads=threads or options.threads)
        loaded = changed.load_members(catalog, name)
        tell([*loaded.members.notes, *loaded.engine.workers.placing.notes.values()])
        return loaded

    return bench.bench(
        load,
        *options.catalog(emulator),
        synthetic_base=synthetic_base,
        tokens=tokens,
        repetitions=repetitions,
        sweep_threads=sweep_threads,
        sweep_ctx=sweep_ctx,
        plot_file=plot,
        as_json=json,
    )
