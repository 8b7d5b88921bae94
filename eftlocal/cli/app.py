"""The program's Typer application. The modules of commands add their commands to it."""

from typing import Annotated

import typer

from eftlocal.cli.help import Program

__all__ = ["app"]

app = Program(
    name="eftlocal",
    help="Emulated fine-tuning on one machine: a large base model, steered by a small fine-tuned one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # imported here, so that --help does not wait for it

        typer.echo(f"eftlocal {version('eftlocal')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...
