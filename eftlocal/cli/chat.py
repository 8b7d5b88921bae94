"""The command `chat`."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eftlocal.cli.app import app
from eftlocal.cli.options import EmulatorOption, Options, SystemOption, with_options
from eftlocal.cli.origin import elsewhere, origin_of, own_catalog, telling_a_way
from eftlocal.cli.templates import ParamOption, SaveTemplateOption, TemplateOption, filled, save, settings

if TYPE_CHECKING:
    from eftlocal.catalog.models import Catalog
    from eftlocal.emulation.emulator import Emulator

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

    elsewhere_named = named or options.base or " " in (emulator or "").strip()
    if question is None and emulator is not None and elsewhere_named and not options.names_emulator(emulator):
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
    rpc = options.rpc
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

    load = guided(catalog, options.negative)
    if record.saved is not None and options.rpc != rpc:
        words = "--continue" if session is None else f"--session {session}"
        load = telling_a_way(
            load, record.saved, words if options.models is None else f"{words} --models {options.models}"
        )
    return run(
        load,
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
