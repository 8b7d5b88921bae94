"""The commands that run an emulator: chat, generate, score, demo and bench."""

from collections.abc import Callable
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
    JsonToo,
    OnErrorOption,
    Options,
    OutputOption,
    OverwriteOption,
    QuietOption,
    RawOption,
    SystemOption,
    tell,
    with_options,
)
from eftlocal.cli.origin import elsewhere, origin_of, own_catalog
from eftlocal.cli.templates import ParamOption, SaveTemplateOption, TemplateOption, filled, save, settings
from eftlocal.cli.values import must_be_known, name_and_text, no_file_options, no_raw_guidance, not_both, shape

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog
    from eftlocal.emulation.emulator import Emulator
    from eftlocal.emulation.loading import Loaded

SHAPE = "The answer's shape"
EMULATOR = "Emulator to run (default: the one that models.toml names)."
CHAT_WITH = "Emulator to chat with, or a .gguf file (default: the emulator that models.toml names)."
KeepContext = Literal["ask", "rolling"]


@app.command()
@with_options
def chat(
    options: Options,
    emulator: Annotated[str | None, typer.Argument(metavar="EMULATOR", help=CHAT_WITH)] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="First message; the chat goes on after its answer.")
    ] = None,
    named: EmulatorOption = None,
    system: SystemOption = None,
    template: TemplateOption = None,
    param: ParamOption = None,
    save_template: SaveTemplateOption = None,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="NAME", help="Continue the saved session NAME, and save it after each turn."),
    ] = None,
    continue_: Annotated[bool, typer.Option("-c", "--continue", help="Go on with the latest conversation.")] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Keep nothing: neither the conversation nor what you type.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Show no Markdown and no colours.")] = False,
    keep_context: Annotated[
        KeepContext,
        typer.Option(
            "--keep-context", help="When the context is full: ask what to do, or drop the oldest turns (rolling)."
        ),
    ] = "ask",
) -> int:
    """Chat with an emulator in the terminal."""
    from eftlocal.apps.chat.record import opened
    from eftlocal.apps.chat.repl import chat as run
    from eftlocal.apps.common import can_ask

    if question is None and emulator is not None and (named or options.base or " " in emulator.strip()):
        emulator, question = None, emulator  # the emulator is named elsewhere, or this is no name
    if emulator is not None and named is not None:
        raise typer.BadParameter(f"{emulator} and -e {named} both name the emulator: leave one of them out")
    if session is not None and continue_:
        raise typer.BadParameter("--session and --continue both name a conversation: leave one of them out")
    if save_template is not None:
        catalog, name = options.catalog(emulator or named)
        catalog.emulator(name)  # raises for a prompt in its place
        return save(save_template, template, system=system, prompt=question, dials=options.dials())
    used = filled(template, param)
    if question is None and (session or continue_) and emulator is not None and len(emulator.split()) > 1:
        emulator, question = None, emulator  # a name has no blanks
    record = opened(session, last=continue_, keep=not no_history)
    if record.saved is not None and emulator is None and named is None and options.base is None:
        options, catalog, name = own_catalog(options, record.saved, session or record.name or record.saved.emulator)
    else:
        catalog, name = options.catalog(emulator or named)
    if can_ask() and not catalog.is_local(wanted := catalog.emulator(name)):
        from eftlocal.apps.store.pull import pull

        if code := pull(catalog, wanted.name, revision=None, yes=False, dry_run=False, xet=False):
            return code

    def guided(own: "Catalog", negative: str | None) -> "Callable[[str | None], Emulator]":
        changed = replace(options, negative=negative, guidance=None if negative is None else options.guidance)
        return lambda name: changed.load(own, name, **settings(used, options.dials()))

    return run(
        guided(catalog, options.negative),
        name,
        catalog=catalog,
        first=question,
        system=system,
        template=used,
        record=record,
        origin=origin_of(options, catalog),
        guided=guided,
        elsewhere=lambda origin: elsewhere(options, origin),
        history=not no_history,
        plain=plain,
        rolling=keep_context == "rolling",
        dials=settings(used, options.dials()) | options.dials(),
    )


@app.command()
@with_options
def generate(
    context: typer.Context,
    options: Options,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [PROMPT]",
            help="Prompt to answer, perhaps after an emulator's name or a .gguf file. What is piped in stands before "
            "the prompt, with an empty line between them, or is the prompt.",
        ),
    ] = None,
    emulator: EmulatorOption = None,
    system: SystemOption = None,
    template: TemplateOption = None,
    param: ParamOption = None,
    save_template: SaveTemplateOption = None,
    raw: RawOption = False,
    json: JsonToo = False,
    no_think: Annotated[
        bool, typer.Option("--no-think", help="Print no thinking part. JSON and files have it apart, in `parts`.")
    ] = False,
    json_schema: Annotated[
        str | None,
        typer.Option(metavar="FILE|JSON", help="Answer in JSON that matches this JSON schema.", rich_help_panel=SHAPE),
    ] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(help="Answer in text that the GBNF grammar in this file allows.", rich_help_panel=SHAPE),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="Answer in text that matches this regular expression.", rich_help_panel=SHAPE)
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(help="Answer with this text; repeat the option to allow several texts.", rich_help_panel=SHAPE),
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="With JSON output: add each token's log-probabilities and this many alternatives.",
            rich_help_panel=SHAPE,
        ),
    ] = None,
    input: InputOption = None,
    output: OutputOption = "-",
    format: FormatOption = None,
    samples: Annotated[
        int, typer.Option("-n", "--samples", min=1, help="Answers to write for each prompt.", rich_help_panel=FILES)
    ] = 1,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Prompts to decode at once (default: 16 per 8 CPU threads, 64 on a GPU; fewer if memory is short).",
            rich_help_panel=FILES,
        ),
    ] = None,
    unordered: Annotated[
        bool,
        typer.Option(
            "--unordered", help="Write answers as they finish, not in the input's order.", rich_help_panel=FILES
        ),
    ] = False,
    on_error: OnErrorOption = "stop",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> int:
    """Answer one prompt, or every prompt of a file (-i)."""
    named, prompt = name_and_text(words or [], emulator or options.base)
    emulator = named or emulator
    if logprobs is not None and not json and input is None:
        raise typer.BadParameter("--logprobs shows in JSON alone: add --json, or -i FILE")
    dials = shape(json_schema, grammar, regex, choice) | ({} if logprobs is None else {"logprobs": logprobs})
    if save_template is not None:
        return save(save_template, template, system=system, prompt=prompt, dials=options.dials() | dials)
    if (used := filled(template, param)) is not None:
        system = used.system if system is None else system
        dials = settings(used, options.dials()) | dials
    if input is None:
        no_file_options(context, FILES)
        from eftlocal.apps import generate

        text, piped = generate.read_prompt(prompt)
        if used is not None and (text or not used.template.takes_input):
            text = used.message(text)
        if not text.strip():
            raise typer.BadParameter("there is no prompt: give one as an argument, or pipe one in")
        no_raw_guidance(raw, options.negative)
        question = generate.as_prompt(text, system=system, raw=raw)
        catalog, name = options.catalog(emulator)
        must_be_known(catalog, named)
        if prompt in catalog.emulators and not piped:
            tell([f"the prompt is {prompt!r}; that emulator answers with: eftlocal generate {prompt} PROMPT"])
        with options.load_and_tell(catalog, name, **dials) as loaded:
            return generate.generate(loaded, question, as_json=json, thoughts=not no_think)
    from eftlocal.apps import batch

    not_both(prompt, "PROMPT")
    no_raw_guidance(raw, options.negative)
    wanted = batch.Options(
        source=input,
        target=output,
        format=format,
        on_error=on_error,
        overwrite=overwrite,
        system=system,
        raw=raw,
        template=used if used is not None and used.template.prompt is not None else None,
        quiet=quiet,
        date=options.day,
        samples=samples,
        parallel=parallel,
        ordered=not unordered,
    )
    return batch.generate(lambda day: options.load_and_tell(*options.catalog(emulator), day=day, **dials), wanted)


@app.command()
@with_options
def score(
    context: typer.Context,
    options: Options,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Prompt that the completion answers; - is standard input.")
    ] = None,
    completion: Annotated[
        str | None, typer.Option("--completion", help="Text whose tokens are scored; - is standard input.")
    ] = None,
    emulator: EmulatorOption = None,
    system: SystemOption = None,
    raw: RawOption = False,
    json: JsonToo = False,
    input: InputOption = None,
    output: OutputOption = "-",
    format: FormatOption = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also write the log-probabilities of each token.", rich_help_panel=FILES)
    ] = False,
    on_error: OnErrorOption = "stop",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> int:
    """Score a completion (or a file, -i): log-probabilities under the emulator and each model."""
    if input is None:
        no_file_options(context, FILES)
        from eftlocal.apps import generate

        if prompt is None or completion is None:
            raise typer.BadParameter("give both --prompt and --completion, or a file of them: -i FILE")
        if prompt == completion == "-":
            raise typer.BadParameter("only one of --prompt and --completion can be -, standard input")
        prompt, completion = (generate.read_prompt(t)[0] if t == "-" else t for t in (prompt, completion))
        if not prompt.strip() and not raw:
            raise typer.BadParameter("the prompt is empty")
        no_raw_guidance(raw, options.negative)
        question = generate.as_prompt(prompt, system=system, raw=raw)
        with options.load_and_tell(*options.catalog(emulator)) as loaded:
            return generate.score(loaded, question, completion, as_json=json)
    from eftlocal.apps import batch

    not_both(prompt, "--prompt")
    not_both(completion, "--completion")
    no_raw_guidance(raw, options.negative)
    wanted = batch.Options(
        source=input,
        target=output,
        format=format,
        on_error=on_error,
        overwrite=overwrite,
        system=system,
        raw=raw,
        quiet=quiet,
        date=options.day,
        tokens=tokens,
    )
    return batch.score(lambda day: options.load_and_tell(*options.catalog(emulator), day=day), wanted)


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
        tell([*loaded.members.notes, *loaded.engine.workers.notes.values()])
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
