"""The slash commands, in one table: a new one is a function and an entry. Help and completion come from it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat import actions, dials, explain, session
from eftlocal.apps.chat.state import Chat
from eftlocal.errors import EftError

__all__ = ["TABLE", "Command", "Leave", "find", "run", "split"]

Choices = Callable[[Chat], Iterable[str]]


class Leave(Exception):  # noqa: N818  # no error: the way out
    """The user wants to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """One entry: `run` gets the chat and what was typed after the name; `choices` completes that."""

    name: str
    arguments: str
    help: str
    run: Callable[[Chat, str], None]
    choices: Choices | None = None
    aliases: tuple[str, ...] = ()


def split(line: str) -> tuple[str, str] | None:
    """A line as (command's name, its argument); None where it is a message (also `/usr/bin`, and `//` for a slash)."""
    found = re.fullmatch(r"/([a-z_?]+)(?:\s+(.*))?\s*", line.strip(), re.DOTALL)
    return (found[1], (found[2] or "").strip()) if found else None


def find(name: str) -> Command:
    """The command of that name. Raises EftError, with the nearest."""
    for command in TABLE:
        if name in (command.name, *command.aliases):
            return command
    near = get_close_matches(name, [command.name for command in TABLE], 1)
    raise EftError(f"There is no command /{name}.", f"Is it /{near[0]}?" if near else "/help lists them.")


def run(chat: Chat, line: str) -> None:
    """Do what a line says: a command, or a message to answer. Raises EftError, and Leave."""
    parts = split(line)
    if parts is None:
        chat.ask(line[1:] if line.startswith("//") else line)
        return
    name, argument = parts
    find(name).run(chat, argument)


def _help(chat: Chat, argument: str) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for command in [find(argument.lstrip("/"))] if argument else TABLE:
        names = ", ".join(f"/{name}" for name in (command.name, *command.aliases))
        table.add_row(Text(f"{names} {command.arguments}".rstrip()), Text(command.help))
    chat.screen.show(table)
    if not argument:
        chat.screen.note('Alt-Enter or """ for several lines; Ctrl-C stops an answer, twice leaves; Ctrl-D leaves')


def _bye(chat: Chat, argument: str) -> None:
    raise Leave


def _names(chat: Chat) -> Iterable[str]:
    return dials.NAMES


def _saved(chat: Chat) -> Iterable[str]:
    return session.names()


TABLE: tuple[Command, ...] = (
    Command("beta", "[B]", "strength of all rewards: 0 is the base alone, 1 as configured", actions.dial("beta")),
    Command(
        "mix",
        "[NAME=W ...|off]",
        "each reward's own strength",
        actions.mix,
        lambda chat: [] if chat.loader.loading else [f"{name}=" for name in chat.emulator.betas],
    ),
    Command("temp", "[T]", "temperature; 0 is greedy", actions.dial("temperature"), aliases=("temperature",)),
    Command("top_p", "[P]", "keep the nucleus of this probability; 1 is off", actions.dial("top_p")),
    Command("seed", "[N|off]", "makes sampling repeatable", actions.dial("seed"), lambda chat: ["off"]),
    Command("set", "[NAME [VALUE]]", "any other setting; alone, all of them", actions.set_, _names),
    Command("compare", "[PROMPT]", "base alone, tuned alone and emulated, side by side", explain.compare),
    Command("sweep", "[BETA ...]", "the last prompt at several betas", explain.sweep),
    Command("why", "[N|TEXT]", "what the reward did to the last answer, or to its token N", explain.why),
    Command("regen", "", "answer the last message again", actions.regen),
    Command("retry", "TEXT", "put another message in place of the last one", actions.retry),
    Command("continue", "", "let the last answer go on", actions.continue_),
    Command("undo", "", "take back the last turn", actions.undo),
    Command("system", "[TEXT|off]", "the system text", actions.system, lambda chat: ["off"]),
    Command("reset", "", "begin a new conversation", actions.reset),
    Command("drop", "[N]", "drop the oldest turns from the context", actions.drop),
    Command(
        "context",
        "[rolling|ask]",
        "how full it is, and what happens at its end",
        actions.context,
        lambda chat: ["rolling", "ask"],
    ),
    Command("stats", "", "speed and counts", actions.stats),
    Command("save", "[NAME]", "save the conversation and its settings", actions.save, _saved),
    Command("load", "NAME", "go on with a saved one", actions.load, _saved),
    Command("sessions", "", "the saved ones", actions.sessions),
    Command("export", "FILE.md|.json", "write the conversation to a file", actions.export),
    Command(
        "copy",
        "[code]",
        "the last answer, or its last code block, to the clipboard",
        actions.copy,
        lambda chat: ["code"],
    ),
    Command("edit", "[TEXT]", "write the message in $EDITOR", actions.edit),
    Command(
        "emulator", "[NAME]", "the emulators, or switch to another", actions.emulator, lambda chat: chat.loader.names()
    ),
    Command("help", "[COMMAND]", "this", _help, lambda chat: [command.name for command in TABLE], aliases=("?",)),
    Command("bye", "", "leave", _bye, aliases=("exit", "quit")),
)
