"""The chat's loop: it reads a message or a command and runs it, until the user leaves."""

import os
import sys

from rich.text import Text

from eftlocal.apps.chat import templating
from eftlocal.apps.chat.commands import Leave, run
from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.line import Line, PlainLine
from eftlocal.apps.chat.loading import Elsewhere, Guided, Load, Loader
from eftlocal.apps.chat.record import Record
from eftlocal.apps.chat.rows import clean
from eftlocal.apps.chat.screen import Screen, dumb
from eftlocal.apps.chat.session import Origin, Saved, data_folder
from eftlocal.apps.chat.sessions import SHOWN
from eftlocal.apps.chat.state import Chat
from eftlocal.apps.chat.welcome import first_line
from eftlocal.apps.common import INTERRUPTED
from eftlocal.catalog.models import Catalog
from eftlocal.catalog.templates import Filled
from eftlocal.decoding.settings import Dials
from eftlocal.errors import EftError

__all__ = ["chat"]


def chat(
    load: Load,
    emulator: str | None = None,
    *,
    catalog: Catalog,
    first: str | None = None,
    system: str | None = None,
    template: Filled | None = None,
    record: Record | None = None,
    origin: Origin | None = None,
    elsewhere: Elsewhere | None = None,
    guided: Guided | None = None,
    history: bool = True,
    plain: bool = False,
    rolling: bool = False,
    dials: Dials | None = None,
) -> int:
    """Chat until the user leaves. Returns the exit code.

    load          loads an emulator of `catalog` by its name (None: the default)
    first         the first message or command, as if the user had typed it
    template      wraps each message; its system text counts where `system` is None, and `dials` has its settings
    record        where the conversation is kept, and what it goes on with; None keeps nothing
    origin        the options of the command line that made `catalog`; a session keeps them
    elsewhere     gives the catalogue of another origin, for sessions that were held with it
    guided        gives what loads with another negative text
    history       store what the user types
    rolling       drop the oldest turns when the context is full

    Raises EftError when the emulator cannot be loaded.
    """
    record = record or Record()
    saved = record.saved
    loader = Loader(load, emulator or (saved.emulator if saved else None), catalog, origin, elsewhere, guided)
    screen = Screen(plain=plain)
    with Interrupts(escapes=not dumb()) as interrupts:
        state = Chat(loader, screen, interrupts, system=system, record=record, rolling=rolling, dials=dials)
        interrupts.ending.save = state.rescue
        loader.start()
        if saved is not None:
            _resume(state, saved, system)
        if template is not None:
            templating.start(state, template, with_system=system is None)
            screen.note(templating.describe(template))
        try:
            code = _loop(state, history, first)
        except KeyboardInterrupt:
            code = INTERRUPTED
        finally:
            try:
                _say_where(state)
            finally:
                record.close()
    if loader.loading:  # llama.cpp cannot be interrupted while it loads, so end the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    loader.close()
    return code


def _resume(state: Chat, saved: Saved, system: str | None) -> None:
    """Go on with a saved conversation: show its last turn. `system` replaces its system text, if one was given."""
    state.resume(saved)
    if system is not None:
        state.system = system
    turns = "1 turn" if saved.turns == 1 else f"{saved.turns} turns"
    where = f"session {state.session_name}" if state.session_name else state.record.name or "a copy"
    state.screen.note(f"{where}: {turns} with {saved.emulator}{'; /history shows them' if saved.turns > 1 else ''}")
    if sys.stdin.isatty():
        state.screen.recall(state.turns[-SHOWN:])


def _say_where(state: Chat) -> None:
    """Say where a chat is kept that got its name by itself, and what was not said yet."""
    state.say_remarks()
    if state.record.by_itself:
        state.screen.note(f"kept as {state.record.name}; eftlocal chat -c goes on with it")


def _loop(state: Chat, history: bool, first: str | None) -> int:
    line: Line | PlainLine
    if sys.stdin.isatty() and not dumb() and (sys.stdout.isatty() or sys.stderr.isatty()):
        line = Line(state, data_folder() / "history" if history else None)
        state.interactive = True
    else:
        _ = state.emulator
        line = PlainLine(state)
    if first is None and not state.turns and sys.stdin.isatty():
        state.screen.show(Text(clean(first_line(state.loader.entry, state.screen.width)), style="dim"))
    failed = False
    if first is not None and state.interactive:
        state.screen.show(Text.assemble((">>> ", "bold"), clean(first)))
    waiting = [] if first is None else [first]
    state.offered += waiting
    while (text := waiting.pop() if waiting else line.read()) is not None:
        if not text.strip():
            continue
        state.say_remarks()
        try:
            run(state, text)
        except Leave:
            break
        except EftError as error:
            if state.loader.error is not None:
                raise
            state.screen.error(error)
            failed |= not sys.stdin.isatty()  # who pipes messages in sees the exit code alone
        except KeyboardInterrupt:
            if state.interrupts.leaving:
                raise
    return int(failed)
