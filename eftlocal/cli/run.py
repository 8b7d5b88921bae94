"""The commands that run an emulator: chat, generate, score, demo and bench."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import (
    FILES,
    EmulatorOption,
    FormatOption,
    InputOption,
    JsonOption,
    OnErrorOption,
    Options,
    OutputOption,
    OverwriteOption,
    QuietOption,
    RawOption,
    SystemOption,
    with_options,
)
from eftlocal.cli.values import no_file_options, not_both, shape

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog
    from eftlocal.emulation.emulator import Emulator

SHAPE = "The answer's shape"
KeepContext = Literal["ask", "rolling"]


@app.command()
@with_options
def chat(
    options: Options,
    emulator: Annotated[str | None, typer.Argument(metavar="EMULATOR", help="(default: the catalogue's)")] = None,
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
    from eftlocal.apps.common import can_ask

    catalog, name = options.catalog(emulator or named)
    if can_ask() and not catalog.is_local(wanted := catalog.emulator(name)):
        from eftlocal.apps.store.pull import pull

        if code := pull(catalog, wanted.name, revision=None, yes=False, dry_run=False, xet=False):
            return code
    return chat.chat(
        lambda name: options.load(catalog, name),
        name,
        catalog=catalog,
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
    context: typer.Context,
    options: Options,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="`-` or a pipe: read it from there.")] = None,
    emulator: EmulatorOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
    json: JsonOption = False,
    json_schema: Annotated[
        str | None,
        typer.Option(metavar="FILE|JSON", help="Answer in JSON that is valid under this.", rich_help_panel=SHAPE),
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option(help="Answer as this GBNF grammar says.", rich_help_panel=SHAPE)
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Answer what this regular expression matches.", rich_help_panel=SHAPE)
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="Answer one of these; repeat it.", rich_help_panel=SHAPE)
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(help="Each token's log-probabilities, and as many alternatives (JSON).", rich_help_panel=SHAPE),
    ] = None,
    input: InputOption = None,
    output: OutputOption = "-",
    format: FormatOption = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", min=1, help="Answers to each prompt.", rich_help_panel=FILES)
    ] = 1,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Prompts decoded at once (default: 16 per 8 CPU threads, 64 on a GPU; fewer if memory is short).",
            rich_help_panel=FILES,
        ),
    ] = None,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Write answers as they finish.", rich_help_panel=FILES)
    ] = False,
    on_error: OnErrorOption = "stop",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> int:
    """Answer one prompt on standard output, or every prompt of a file (-i)."""
    dials = shape(json_schema, grammar, regex, choice) | ({} if logprobs is None else {"logprobs": logprobs})
    if input is None:
        no_file_options(context, FILES)
        from eftlocal.apps import generate

        question = generate.as_prompt(generate.read_prompt(prompt), system=system, raw=raw)
        with options.load_and_tell(*options.catalog(emulator), **dials) as loaded:
            return generate.generate(loaded, question, as_json=json)
    from eftlocal.apps import batch

    not_both(prompt, "PROMPT")
    wanted = batch.Options(
        source=input,
        target=output,
        format=format,
        on_error=on_error,
        overwrite=overwrite,
        system=system,
        raw=raw,
        quiet=quiet,
        samples=samples,
        parallel=parallel,
        ordered=not unordered,
    )
    return batch.generate(lambda: options.load_and_tell(*options.catalog(emulator), **dials), wanted)


@app.command()
@with_options
def score(
    context: typer.Context,
    options: Options,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What the completion answers.")] = None,
    completion: Annotated[str | None, typer.Option("--completion", help="The text whose tokens are scored.")] = None,
    emulator: EmulatorOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
    json: JsonOption = False,
    input: InputOption = None,
    output: OutputOption = "-",
    format: FormatOption = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also every token's log-probabilities.", rich_help_panel=FILES)
    ] = False,
    on_error: OnErrorOption = "stop",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> int:
    """Log-probabilities of a completion under the emulator and under each of its models; of a file's (-i)."""
    if input is None:
        no_file_options(context, FILES)
        from eftlocal.apps import generate

        if prompt is None or completion is None:
            raise typer.BadParameter("--prompt and --completion are both needed, or a file of them: -i FILE")
        question = generate.as_prompt(prompt, system=system, raw=raw)
        with options.load_and_tell(*options.catalog(emulator)) as loaded:
            return generate.score(loaded, question, completion, as_json=json)
    from eftlocal.apps import batch

    not_both(prompt, "--prompt")
    not_both(completion, "--completion")
    wanted = batch.Options(
        source=input,
        target=output,
        format=format,
        on_error=on_error,
        overwrite=overwrite,
        system=system,
        raw=raw,
        quiet=quiet,
        tokens=tokens,
    )
    return batch.score(lambda: options.load_and_tell(*options.catalog(emulator)), wanted)


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
    emulator: Annotated[str | None, typer.Argument(metavar="EMULATOR", help="(default: the catalogue's)")] = None,
    synthetic_base: Annotated[
        str | None,
        typer.Option(metavar="SIZE[:TYPE]", help="Widen the base to this size, as 300M or 300M:Q4_K_M (a llama)."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens decoded after each prompt.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each way is measured.")] = 5,
    sweep_threads: Annotated[
        bool, typer.Option("--sweep-threads", help="Also a token's cost with 1, 2, 4 ... threads, up to all cores.")
    ] = False,
    sweep_ctx: Annotated[
        str | None, typer.Option(metavar="N,N", help="Also a token's cost with so many in the context: 256,1024,4096.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also a picture of it all: .png, .svg or .pdf (extra: plot).")
    ] = None,
    json: JsonOption = False,
) -> int:
    """Measure what emulation and drafts cost and gain on this machine."""
    from eftlocal.apps import bench

    def load(catalog: "Catalog", name: str, ctx: int | None = None, threads: int | None = None) -> "Emulator":
        changed = replace(options, ctx=ctx or options.ctx, threads=threads or options.threads)
        return changed.load_and_tell(catalog, name)

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
