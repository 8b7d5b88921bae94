"""The prompt template of a chat: its system text and settings count at once, and its prompt wraps each message."""

import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat.dials import value_of
from eftlocal.apps.chat.state import Chat, InUse
from eftlocal.catalog import templates
from eftlocal.catalog.templates import Filled
from eftlocal.errors import EftError
from eftlocal.text import one_line, printable

__all__ = ["begin", "message", "names", "start", "template"]

SHOWN = 60  # characters of a prompt in a note


def begin(chat: Chat, filled: Filled) -> None:
    """Use a template from now on, in place of another. Raises SettingError, and then nothing changed."""
    changed: Any = filled.template.settings
    chat.emulator.settings.turned(**changed)
    end(chat)
    before = {name: value_of(chat.emulator.settings, name) for name in changed}
    chat.turn(**changed)
    _use(chat, filled, before, with_system=True)


def start(chat: Chat, filled: Filled, *, with_system: bool) -> None:
    """Use a template in a chat that begins, whose emulator is loaded with the template's settings."""
    _use(chat, filled, {}, with_system=with_system)


def _use(chat: Chat, filled: Filled, before: Mapping[str, Any], *, with_system: bool) -> None:
    own = filled.system if with_system else None
    system = None if own is None else (chat.system,)
    if own is not None:
        chat.system = own
    chat.template = InUse(filled, system, before)


def end(chat: Chat) -> InUse | None:
    """Use no template any more, and return the one that was in use.

    What it changed is as before, if the user has not changed it again. The settings of one that the chat began with
    stay, because the emulator was loaded with them.
    """
    if (used := chat.template) is None:
        return None
    chat.template = None
    if used.system is not None and chat.system == used.filled.system:
        chat.system = used.system[0]
    now, settings = chat.emulator.settings, used.filled.template.settings
    chat.turn(**{name: value for name, value in used.settings.items() if value_of(now, name) == settings[name]})
    return used


def _stays(used: InUse | None) -> str:
    stay = {} if used is None or used.settings else used.filled.template.settings
    return "".join(f"; {name} stays {value:g}" for name, value in stay.items())


def message(chat: Chat, text: str) -> str:
    """The message that the models read for the user's text."""
    return text if chat.template is None else chat.template.filled.message(text)


def template(chat: Chat, argument: str) -> None:
    """List the templates, or use one: `NAME [VARIABLE=VALUE ...]`; `off` ends that."""
    if not argument:
        _list(chat)
    elif argument.lower() == "off":
        chat.screen.note("there is no template" + _stays(end(chat)))
    else:
        filled = _filled(argument)
        begin(chat, filled)
        chat.screen.note(describe(filled))


def _filled(argument: str) -> Filled:
    try:
        name, *words = shlex.split(argument)
    except ValueError as error:
        raise EftError(f"/template cannot read {argument!r}: {error}.") from None
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise EftError(f"/template has {word!r}; it must be VARIABLE=VALUE.", 'Example: style="very short"')
        values[key] = value
    return templates.load(name).fill(values)


def describe(filled: Filled) -> str:
    """What a template does, for a note."""
    prompt = " ".join(filled.message("$input").split())
    parts = [f"each message becomes “{prompt[:SHOWN]}{'…' * (len(prompt) > SHOWN)}”"] if filled.template.prompt else []
    parts += ["with its system text"] if filled.system is not None else []
    parts += [f"{name} {value:g}" for name, value in filled.template.settings.items()]
    return printable(f"template {filled.template.name}: {', '.join(parts)}")


def _list(chat: Chat) -> None:
    found = names()
    if not found:
        chat.screen.note("no template is saved yet; in a shell, `eftlocal templates edit NAME` makes one")
        return
    used = chat.template.filled.template.name if chat.template else None
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name in found:
        try:
            stored = templates.load(name)
            text = stored.prompt or stored.system or "settings"
        except EftError as error:
            text = error.message
        table.add_row("*" if name == used else "", printable(name), Text(one_line(text), style="dim"))
    chat.screen.show(table)


def names() -> list[str]:
    """The names of all templates."""
    return templates.names()
