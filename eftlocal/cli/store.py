"""The commands about models and emulators: pull, list, show, rm, init and doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import InsecureOption, JsonOption, ModelsOption, RpcOption, named_one_by_one, tell

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Emulator or model.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def _catalog(models: Path | None, name: str = "") -> "Catalog":
    """The catalogue; its mistakes are told on stderr, but not those that asking for `name` will raise."""
    from eftlocal.catalog.models import load

    catalog = load(models)
    tell(catalog.lines(without=name))
    return catalog


@app.command()
def pull(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Emulator, model or hf:owner/repo/file.gguf to download (default: the first default of models.toml).",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Large base model to download instead of NAME, as in chat.")
    ] = None,
    tuned: Annotated[
        str | None, typer.Option(metavar="MODEL", help="With --base and --reference: the small fine-tuned model.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --base and --tuned: the small base model that --tuned was made from."),
    ] = None,
    models: ModelsOption = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Commit, branch or tag of the repository (default: the one in models.toml, else main)."),
    ] = None,
    yes: YesOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be downloaded, and stop.")] = False,
    xet: Annotated[
        bool, typer.Option("--xet/--no-xet", help="Download with Xet, which starts again after an interruption.")
    ] = False,
) -> None:
    """Download an emulator's models, or say why that is not possible."""
    from eftlocal.apps.store.pull import pull
    from eftlocal.catalog.models import load

    catalog = load(models)
    tell(catalog.lines_for(name or base))
    catalog = named_one_by_one(catalog, name, base, tuned, reference) or catalog
    if name is None:  # other commands take the first default that is here; here the first is wanted
        name = next(iter(catalog.default), None) or catalog.emulator(None).name
    raise typer.Exit(pull(catalog, name, revision=revision, yes=yes, dry_run=dry_run, xet=xet))


@app.command("list")
def list_(
    models: ModelsOption = None,
    local: Annotated[bool, typer.Option("--local", help="List only what is on this machine.")] = False,
    models_too: Annotated[
        bool, typer.Option("--models-too", help="List the single models too, which emulators are made of.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List emulators: whether they are on this machine, whether they fit in its memory, and how large they are."""
    from eftlocal.apps.store.listing import listing

    raise typer.Exit(listing(_catalog(models), local=local, models_too=models_too, as_json=json))


@app.command()
def show(name: NameArgument, models: ModelsOption = None, json: JsonOption = False) -> None:
    """Show an emulator's models, how each sees a conversation, and the memory it needs."""
    from eftlocal.apps.store.show import show

    raise typer.Exit(show(_catalog(models, name), name, as_json=json))


@app.command()
def rm(name: NameArgument, models: ModelsOption = None, yes: YesOption = False, json: JsonOption = False) -> None:
    """Delete an emulator's downloads that no other one here uses, and its entry if init wrote it; or a model's."""
    from eftlocal.apps.store.remove import remove

    raise typer.Exit(remove(_catalog(models, name), name, yes=yes, as_json=json))


@app.command()
def init(
    base: Annotated[str, typer.Option(metavar="MODEL", help="Large base model: hf:owner/repo/file.gguf or a path.")],
    tuned: Annotated[str | None, typer.Option(metavar="MODEL", help="Small fine-tuned model.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Small base model that --tuned was made from.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the emulator.")] = "mine",
    file: Annotated[Path | None, typer.Option(help="The models.toml to add it to (default: your own).")] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an emulator of this name; and add what cannot be checked offline."),
    ] = False,
) -> None:
    """Check models and add them to a models.toml as an emulator, to chat with it by name. `rm NAME` undoes it."""
    from eftlocal.apps.store.init import init
    from eftlocal.catalog.added import text_of
    from eftlocal.catalog.models import users_file

    target = file or users_file()
    filled = text_of(target).strip() != ""  # raises the error of a broken file, which must stay as it is
    catalog = _catalog(file if filled else None, name).with_trio(base, tuned, reference)
    raise typer.Exit(init(catalog, name, catalog.emulator(None), target, force=force))


@app.command()
def doctor(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="EMULATOR",
            help="Emulator to check, from its files to its first token (default: check the installation).",
        ),
    ] = None,
    models: ModelsOption = None,
    rpc: RpcOption = None,
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Find what is wrong with this installation, or with one emulator."""
    from eftlocal.apps.doctor import doctor
    from eftlocal.catalog.endpoints import endpoints

    if rpc and name is None:
        raise typer.BadParameter("--rpc needs an emulator: eftlocal doctor NAME --rpc ...")
    raise typer.Exit(doctor(models, name, rpc=endpoints(rpc or (), insecure=insecure), as_json=json))
