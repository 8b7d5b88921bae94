"""The command `eftlocal sessions` and its own commands: the conversations that are kept on this machine."""

from typing import Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.help import Program
from eftlocal.cli.options import JsonOption

sessions = Program(no_args_is_help=False)
app.add_typer(sessions, name="sessions")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Session or kept chat.")]


@sessions.callback(invoke_without_command=True)
def list_(
    context: typer.Context,
    search: Annotated[
        str | None, typer.Option("--search", "-q", metavar="TEXT", help="List only conversations with this text.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the conversations that are kept, or show, rename, delete and export them."""
    if context.invoked_subcommand is None:
        from eftlocal.apps.chat.manage import listing

        raise typer.Exit(listing(search, as_json=json))
    if search is not None or json:
        raise typer.BadParameter("--search and --json before a command are for the list alone: leave them out")


@sessions.command()
def show(name: NameArgument, json: JsonOption = False) -> None:
    """Print a conversation."""
    from eftlocal.apps.chat.manage import show

    raise typer.Exit(show(name, as_json=json))


@sessions.command()
def rename(name: NameArgument, new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")]) -> None:
    """Give a conversation a name; it then stays until you delete it."""
    from eftlocal.apps.chat.manage import rename

    raise typer.Exit(rename(name, new))


@sessions.command()
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Sessions or kept chats.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete conversations."""
    from eftlocal.apps.chat.manage import delete

    raise typer.Exit(delete(names, yes=yes))


@sessions.command()
def export(
    name: NameArgument,
    file: Annotated[str, typer.Argument(metavar="FILE.md|.json", help="File to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a conversation to a file of Markdown or JSON."""
    from eftlocal.apps.chat.manage import export

    raise typer.Exit(export(name, file, force=force))
