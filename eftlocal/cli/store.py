"""The commands about what there is to run: pull, list, show, rm, init and doctor."""

from pathlib import Path
from typing import Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import JsonOption, ModelsOption, named_one_by_one

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="An emulator or a model.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def pull(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="An emulator, a model or hf:owner/repo/file.gguf (default: smollm2)."),
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Models instead of a name, as in chat.")] = None,
    tuned: Annotated[str | None, typer.Option(metavar="MODEL", help="With --base.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="MODEL", help="With --base.")] = None,
    models: ModelsOption = None,
    revision: Annotated[str | None, typer.Option(help="A commit, branch or tag of the repository.")] = None,
    yes: YesOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be downloaded.")] = False,
    xet: Annotated[
        bool, typer.Option("--xet/--no-xet", help="Transfer by Xet, which cannot go on after an interruption.")
    ] = False,
) -> None:
    """Download an emulator's models, or say what stands in the way."""
    from eftlocal.apps.store.pull import pull
    from eftlocal.catalog.models import load

    catalog = load(models)
    catalog = named_one_by_one(catalog, name, base, tuned, reference) or catalog
    if name is None:  # not the first that is here, as elsewhere
        name = catalog.default[0]
    raise typer.Exit(pull(catalog, name, revision=revision, yes=yes, dry_run=dry_run, xet=xet))


@app.command("list")
def list_(
    models: ModelsOption = None,
    local: Annotated[bool, typer.Option("--local", help="Only what is on this machine.")] = False,
    json: JsonOption = False,
) -> None:
    """Emulators and models: what is on this machine, how large it is, whether it fits."""
    from eftlocal.apps.store.listing import listing
    from eftlocal.catalog.models import load

    raise typer.Exit(listing(load(models), local=local, as_json=json))


@app.command()
def show(name: NameArgument, models: ModelsOption = None, json: JsonOption = False) -> None:
    """What an emulator is made of, how each model sees a conversation, and what memory it needs."""
    from eftlocal.apps.store.show import show
    from eftlocal.catalog.models import load

    raise typer.Exit(show(load(models), name, as_json=json))


@app.command()
def rm(name: NameArgument, models: ModelsOption = None, yes: YesOption = False, json: JsonOption = False) -> None:
    """Delete downloads that no other emulator on this machine uses."""
    from eftlocal.apps.store.remove import remove
    from eftlocal.catalog.models import load

    raise typer.Exit(remove(load(models), name, yes=yes, as_json=json))


@app.command()
def init(
    base: Annotated[str, typer.Option(metavar="MODEL", help="The large model: hf:owner/repo/file.gguf or a path.")],
    tuned: Annotated[str | None, typer.Option(metavar="MODEL", help="The small fine-tuned model.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="MODEL", help="The small model it came from.")] = None,
    name: Annotated[str, typer.Option(help="What the emulator is to be called.")] = "mine",
    file: Annotated[Path | None, typer.Option(help="The models.toml to write (default: your own).")] = None,
) -> None:
    """Give models a name to chat with: writes an emulator into a models.toml."""
    from eftlocal.apps.store.init import init
    from eftlocal.catalog.models import load, users_file

    target = file or users_file()
    catalog = load(file if file is not None and file.exists() else None).with_trio(base, tuned, reference)
    raise typer.Exit(init(catalog, name, catalog.emulator(None), target))


@app.command()
def doctor(
    name: Annotated[str | None, typer.Argument(metavar="EMULATOR", help="Check it, from file to first token.")] = None,
    models: ModelsOption = None,
    json: JsonOption = False,
) -> None:
    """Find what is wrong with this installation, or with one emulator."""
    from eftlocal.apps.doctor import doctor

    raise typer.Exit(doctor(models, name, as_json=json))
