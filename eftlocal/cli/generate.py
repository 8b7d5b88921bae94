"""The commands `generate` and `score`, for one prompt or a file of them."""

from pathlib import Path
from typing import Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import (
    FILES,
    EmulatorOption,
    FormatOption,
    InputOption,
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
from eftlocal.cli.templates import ParamOption, SaveTemplateOption, TemplateOption, filled, save, settings
from eftlocal.cli.values import must_be_known, name_and_text, no_file_options, no_raw_guidance, not_both, shape

SHAPE = "The answer's shape"


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
