"""The commands about prompt templates, and the options with which chat and generate use one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eftlocal.cli.app import app
from eftlocal.cli.help import Program
from eftlocal.cli.options import JsonOption
from eftlocal.cli.store import YesOption
from eftlocal.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eftlocal.catalog.templates import Filled
    from eftlocal.decoding.settings import Dials

__all__ = ["ParamOption", "SaveTemplateOption", "TemplateOption", "filled", "pairs", "save", "settings"]

PANEL = "Templates"
TemplateOption = Annotated[
    str | None,
    typer.Option("-t", "--template", metavar="NAME", help="Use this prompt template of yours.", rich_help_panel=PANEL),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "-p", "--param", metavar="NAME=VALUE", help="Value of a variable of the template.", rich_help_panel=PANEL
    ),
]
SaveTemplateOption = Annotated[
    str | None,
    typer.Option(
        "--save-template",
        metavar="NAME",
        help="Save the system text, the prompt and the dials that were given as a template, and stop.",
        rich_help_panel=PANEL,
    ),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Template.")]

templates = Program(no_args_is_help=False)
app.add_typer(templates, name="templates")


@templates.callback(invoke_without_command=True)
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List your prompt templates, or show, edit (make) and delete them."""
    if context.invoked_subcommand is None:
        from eftlocal.apps.templates import list_

        raise typer.Exit(list_(as_json=json))
    if json:
        raise typer.BadParameter("--json before a command is for the list alone: leave it out")


@templates.command()
def show(name: NameArgument, json: JsonOption = False) -> None:
    """Show a template, as it stands in its file."""
    from eftlocal.apps import templates

    raise typer.Exit(templates.show(name, as_json=json))


@templates.command()
def edit(name: NameArgument) -> None:
    """Write a template in your editor ($VISUAL or $EDITOR), a new one too."""
    from eftlocal.apps import templates

    raise typer.Exit(templates.edit(name))


@templates.command()
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Templates.")], yes: YesOption = False
) -> None:
    """Delete templates, after asking."""
    from eftlocal.apps import templates

    raise typer.Exit(templates.delete(names, yes=yes))


def filled(template: str | None, params: list[str] | None) -> "Filled | None":
    """The template that -t and -p name; None without -t. Raises CatalogError, and BadParameter for -p alone."""
    if template is None:
        if params:
            raise typer.BadParameter("-p gives a variable of a template its value: add -t NAME")
        return None
    from eftlocal.catalog import templates

    return templates.load(template).fill(pairs(params or []))


def settings(used: "Filled | None", given: "Dials") -> "Dials":
    """The settings of a template that were not given on the command line too."""
    kept: Any = {} if used is None else {k: v for k, v in used.template.settings.items() if k not in given}
    more: Dials = kept
    return more


def save(
    name: str, template: str | None, *, system: str | None, prompt: str | None, dials: "Mapping[str, object]"
) -> int:
    """Save what was given as a template. Returns the exit code. Raises SettingError and CatalogError."""
    if template is not None:
        raise typer.BadParameter("-t and --save-template cannot be used together: leave one of them out")
    from eftlocal.apps import templates

    return templates.save(name, system=system, prompt=prompt, dials=dials)


def pairs(texts: list[str]) -> dict[str, str]:
    """The values of -p: `NAME=VALUE`, each with one pair. Raises SettingError."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise SettingError(f"-p has {text!r}; it must be NAME=VALUE.", "Example: -p language=French")
        values[name] = value
    return values
