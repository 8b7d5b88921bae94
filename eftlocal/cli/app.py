"""The program's Typer application; the commands add themselves to it."""

import typer

__all__ = ["app"]

app = typer.Typer(
    name="eftlocal",
    help="Emulated fine-tuning on one machine: a large base model, steered by a small fine-tuned one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
