"""The chat's loop: it reads a message or a command and runs it, until the user leaves."""

import os
import sys

from rich.text import Text

from eftlocal.apps.chat import session, templating
from eftlocal.apps.chat.commands import Leave, run
from eftlocal.apps.chat.interrupt import Interrupts
from eftlocal.apps.chat.line import BLOCK, Line, PlainLine
from eftlocal.apps.chat.loading import Load, Loader
from eftlocal.apps.chat.markdown import clean
from eftlocal.apps.chat.screen import Screen
from eftlocal.apps.chat.state import Chat
from eftlocal.apps.chat.welcome import first_line
from eftlocal.apps.common import INTERRUPTED
from eftlocal.catalog.models import Catalog
from eftlocal.catalog.templates import Filled
from eftlocal.decoding.settings import Dials
from eftlocal.errors import EftError

__all__ = ["chat"]

RESCUE = "last"  # the session that keeps an unsaved conversation when the chat ends by Ctrl-C, a signal or an error


def chat(
    load: Load,
    emulator: str | None = None,
    *,
    catalog: Catalog,
    first: str | None = None,
    system: str | None = None,
    template: Filled | None = None,
    session_name: str | None = None,
    history: bool = True,
    plain: bool = False,
    rolling: bool = False,
    dials: Dials | None = None,
) -> int:
    """Chat until the user leaves. Returns the exit code.

    load          loads an emulator of `catalog` by its name (None: the default)
    first         the first message or command, as if the user had typed it
    template      wraps each message; its system text counts where `system` is None, and `dials` has its settings
    session_name  the session to continue, if it exists, and to save
    history       store what the user types
    rolling       drop the oldest turns when the context is full

    Raises EftError when the emulator cannot be loaded or the session is damaged.
    """
    saved = None
    if session_name is not None and session.session_path(session_name).exists():
        saved = session.load(session_name)
    loader = Loader(load, emulator or (saved.emulator if saved else None), catalog)
    screen = Screen(plain=plain)
    with Interrupts() as interrupts:
        state = Chat(loader, screen, interrupts, system=system, session_name=session_name, rolling=rolling, dials=dials)
        loader.start()
        if saved is not None:
            state.resume(saved)
            if system is not None:
                state.system = system
            screen.note(f"session {session_name}: {len(state.turns)} messages")
        if template is not None:
            templating.start(state, template, with_system=system is None)
            screen.note(templating.describe(template))
        try:
            code = _loop(state, history, first)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:
            _rescue(state, history)
            raise
        if code:
            _rescue(state, history)
    if loader.loading:  # llama.cpp cannot be interrupted while it loads, so end the process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    loader.close()
    return code


def _loop(state: Chat, history: bool, first: str | None) -> int:
    line: Line | PlainLine
    if sys.stdin.isatty() and not dumb() and (sys.stdout.isatty() or sys.stderr.isatty()):
        line = Line(state, session.data_folder() / "history" if history else None)
        state.interactive = True
    else:
        _ = state.emulator
        line = PlainLine(state)
    if first is None and not state.turns and sys.stdin.isatty():
        state.screen.show(Text(clean(first_line(state.loader.entry, state.screen.width)), style="dim"))
    waiting = [] if first is None else [first]
    state.offered += waiting
    while (text := waiting.pop() if waiting else line.read()) is not None:
        text = _unquoted(text)
        if not text.strip():
            continue
        state.say_remarks()
        try:
            run(state, text)
        except Leave:
            return 0
        except EftError as error:
            if state.loader.error is not None:
                raise
            state.screen.error(error)
        except KeyboardInterrupt:
            if state.interrupts.leaving:
                raise
    return 0


def dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "") in ("", "dumb", "unknown")


def _unquoted(text: str) -> str:
    """The message without the three quotes around a block of several lines."""
    stripped = text.strip()
    if stripped.startswith(BLOCK):
        return stripped.removeprefix(BLOCK).removesuffix(BLOCK).strip("\n")
    return text


def _rescue(state: Chat, history: bool) -> None:
    """Save an unsaved conversation as the session `last`. Does nothing with --no-history or piped input."""
    if (
        state.session_name is not None
        or not state.interactive
        or not state.turns
        or not history
        or state.loader.loading
    ):
        return
    try:
        session.save(RESCUE, state.saved())
        state.screen.note(f"saved; /load {RESCUE} continues the conversation")
    except EftError:
        pass
