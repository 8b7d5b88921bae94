"""The table of slash commands. To add one, write a function and an entry; help and completion read the table."""

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


class Leave(Exception):  # noqa: N818  # it is not an error
    """Ends the chat: the user wants to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command.

    arguments   as the help shows them: "[NAME=W ...|off]"
    run         is called with the chat and the text after the command's name
    choices     gives the words that complete this text; None completes nothing
    """

    name: str
    arguments: str
    help: str
    run: Callable[[Chat, str], None]
    choices: Choices | None = None
    aliases: tuple[str, ...] = ()


def split(line: str) -> tuple[str, str] | None:
    """Split a line into the command's name and its argument; None if the line is a message.

    `/usr/bin` is a message too, and so is a line that begins with `//`.
    """
    found = re.fullmatch(r"/([a-z_?]+)(?:\s+(.*))?\s*", line.strip(), re.DOTALL)
    return (found[1], (found[2] or "").strip()) if found else None


def find(name: str) -> Command:
    """The command of that name or alias. Raises EftError that suggests the nearest name."""
    for command in TABLE:
        if name in (command.name, *command.aliases):
            return command
    near = get_close_matches(name, [command.name for command in TABLE], 1)
    raise EftError(
        f"There is no command /{name}.", f"Did you mean /{near[0]}?" if near else "/help lists all commands."
    )


def run(chat: Chat, line: str) -> None:
    """Run a line: a command, or a message to answer (`//` begins a message with a slash). Raises EftError and Leave."""
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
        chat.screen.note('Alt-Enter or """ for several lines; Ctrl-C stops an answer; Ctrl-C twice or Ctrl-D leaves')


def _bye(chat: Chat, argument: str) -> None:
    raise Leave


def _names(chat: Chat) -> Iterable[str]:
    return dials.NAMES


def _saved(chat: Chat) -> Iterable[str]:
    return session.names()


TABLE: tuple[Command, ...] = (
    Command("beta", "[B]", "strength of all rewards: 0 is the base alone, 1 is as configured", actions.dial("beta")),
    Command(
        "mix",
        "[NAME=W ...|off]",
        "strength of each reward",
        actions.mix,
        lambda chat: [] if chat.loader.loading else [f"{name}=" for name in chat.emulator.betas],
    ),
    Command("temp", "[T]", "temperature; 0 is greedy", actions.dial("temperature"), aliases=("temperature",)),
    Command("top_p", "[P]", "top-p (nucleus) sampling; 1 is off", actions.dial("top_p")),
    Command("seed", "[N|off]", "seed for sampling, to repeat an answer", actions.dial("seed"), lambda chat: ["off"]),
    Command("set", "[NAME [VALUE]]", "show or change any setting; without NAME, show them all", actions.set_, _names),
    Command("compare", "[PROMPT]", "answer with base, tuned and emulator, side by side", explain.compare),
    Command("sweep", "[BETA ...]", "answer the last message at several betas", explain.sweep),
    Command("why", "[N|TEXT]", "show what the reward did to the last answer, or to its token N", explain.why),
    Command("regen", "", "answer the last message again", actions.regen),
    Command("retry", "TEXT", "replace the last message, and answer it", actions.retry),
    Command("continue", "", "continue the last answer", actions.continue_),
    Command("undo", "", "take back the last turn", actions.undo),
    Command("system", "[TEXT|off]", "show or change the system text", actions.system, lambda chat: ["off"]),
    Command("reset", "", "begin a new conversation", actions.reset),
    Command("drop", "[N]", "drop the N oldest turns (default: 1) from the context", actions.drop),
    Command(
        "context",
        "[rolling|ask]",
        "show how full the context is, or set what happens when it is full",
        actions.context,
        lambda chat: ["rolling", "ask"],
    ),
    Command("stats", "", "show speed and token counts", actions.stats),
    Command("save", "[NAME]", "save the conversation and its settings as a session", actions.save, _saved),
    Command("load", "NAME", "continue a saved session", actions.load, _saved),
    Command("sessions", "", "list the saved sessions", actions.sessions),
    Command("export", "FILE.md|.json", "write the conversation to a file", actions.export),
    Command(
        "copy",
        "[code]",
        "copy the last answer, or its last code block, to the clipboard",
        actions.copy,
        lambda chat: ["code"],
    ),
    Command("edit", "[TEXT]", "write the message in $EDITOR", actions.edit),
    Command(
        "emulator", "[NAME]", "list emulators, or switch to another", actions.emulator, lambda chat: chat.loader.names()
    ),
    Command("help", "[COMMAND]", "show help", _help, lambda chat: [command.name for command in TABLE], aliases=("?",)),
    Command("bye", "", "leave the chat", _bye, aliases=("exit", "quit")),
)
