"""The command that serves an emulator over HTTP."""

from typing import Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import EmulatorOption, Options, with_options

SERVER = "The server"


@app.command()
@with_options
def serve(
    options: Options,
    emulator: Annotated[
        str | None,
        typer.Argument(metavar="EMULATOR", help="Emulator to serve (default: the one that models.toml names)."),
    ] = None,
    named: EmulatorOption = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; others than this machine's own need a key.", rich_help_panel=SERVER),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.", rich_help_panel=SERVER)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EFTLOCAL_API_KEY",
            metavar="KEY",
            help="Key that each request must bring. Other users of this machine can read options; the variable is "
            "private.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Let web pages of this origin use the server; repeat the option for more (default: only pages of this "
            "machine).",
            rich_help_panel=SERVER,
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Answers to decode at once (default: 16 per 8 CPU threads, 64 on a GPU; fewer if memory is short).",
            rich_help_panel=SERVER,
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; further ones get status 503.", rich_help_panel=SERVER)
    ] = 64,
    models_max: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Emulators in memory at a time; above 1, requests may name others that are on this machine.",
            rich_help_panel=SERVER,
        ),
    ] = 1,
) -> int:
    """Serve an emulator to programs that speak OpenAI's API.

    A model's name in a request may carry a role and dials: NAME:base, NAME@beta=0.5, NAME@mix.REWARD=1,temperature=0.
    """
    from eftlocal.apps import serve

    if emulator is not None and named is not None:
        raise typer.BadParameter(f"{emulator} and -e {named} both name the emulator: leave one of them out")
    catalog, name = options.catalog(emulator or named)
    first = catalog.emulator(name)
    catalog.must_be_here(first)
    others = {each.name: () for each in catalog.emulators.values() if models_max > 1 and catalog.is_local(each)}
    return serve.serve(
        lambda wanted: options.load_and_tell(catalog, wanted),
        first.name,
        others,
        serve.Options(
            host=host,
            port=port,
            key=api_key,
            origins=tuple(cors or ()),
            parallel=parallel,
            queue=queue,
            models_max=models_max,
            verbose=options.verbose,
            debug=options.debug,
        ),
    )
