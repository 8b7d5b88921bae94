"""The slash commands, in groups. To add one, write a function and an entry; help and completion read the table."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from rich.table import Table
from rich.text import Text

from eftlocal.apps.chat import actions, asking, compare, dials, sessions, store, templating, think, why
from eftlocal.apps.chat.answer import MODES
from eftlocal.apps.chat.state import Chat
from eftlocal.apps.common import can_ask
from eftlocal.errors import EftError

__all__ = ["BLOCK", "GROUPS", "TABLE", "Command", "Leave", "find", "run", "split"]

BLOCK = '"""'  # opens and closes a message of several lines
LEAVING = ("exit", "quit", "bye", ":q")  # messages that are meant to leave the chat
LOST = ("help", "?")  # messages that are meant for the chat, and not for the model

Choices = Callable[[Chat], Iterable[str]]


class Leave(Exception):  # noqa: N818  # it is not an error
    """Ends the chat: the user wants to leave."""


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command.

    arguments   as the help shows them: "[NAME=W ...|off]"
    run         is called with the chat and the text after the command's name
    help        what it does, in a few words
    more        sentences that `/help NAME` adds
    choices     gives the words that complete this text; None completes nothing
    files       whether it takes the path of a file, which is completed
    """

    name: str
    arguments: str
    help: str
    run: Callable[[Chat, str], None]
    choices: Choices | None = None
    files: bool = False
    aliases: tuple[str, ...] = ()
    more: str = ""


def split(line: str) -> tuple[str, str] | None:
    """Split a line into the command's name, in lower case, and its argument; None if the line is a message.

    A word that begins with a slash is a command, also an unknown one. A path such as `/usr/bin`, with a second slash in
    its first word, is a message, and so is a line that begins with `//`.
    """
    found = re.fullmatch(r"/([^\s/]*)(?:\s+(.*))?", line.strip(), re.DOTALL)
    return (found[1].lower(), (found[2] or "").strip()) if found else None


def find(name: str) -> Command:
    """The command of that name or alias, in any case. Raises EftError that suggests the nearest name."""
    names = {each: command for command in TABLE for each in (command.name, *command.aliases)}
    if (command := names.get(name.lower())) is not None:
        return command
    near = get_close_matches(name.lower(), names, 1)
    hint = f"Did you mean /{near[0]}?" if near else "/help lists all commands."
    raise EftError(f"There is no command /{name}.", f"{hint} To send it as a message, begin with //.")


def run(chat: Chat, line: str) -> None:
    """Run a line: a command, or a message to answer. Raises EftError and Leave.

    `//` begins a message with a slash. What stands between three quotes is a message, whatever it is.
    """
    word = line.strip().lower()
    if word.startswith(BLOCK):
        if block := line.strip().removeprefix(BLOCK).removesuffix(BLOCK).strip("\n"):
            asking.ask(chat, block)
    elif word in LEAVING:
        if _wants_to_leave(chat):
            raise Leave
    elif word in LOST:
        chat.screen.note(f"{word} was not sent; /help lists the commands")
    elif (parts := split(line)) is not None:
        name, argument = parts
        find(name).run(chat, argument)
    else:
        asking.ask(chat, line.lstrip()[1:] if line.lstrip().startswith("//") else line)


def _wants_to_leave(chat: Chat) -> bool:
    """Ask whether to leave, where someone can answer. Enter alone and Ctrl-D are yes. A pipe is not asked."""
    if not can_ask():
        return True
    sys.stderr.write("Leave the chat? [Y/n] ")
    sys.stderr.flush()
    try:
        with chat.interrupts.raising():
            answer = sys.stdin.readline()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return False
    if not answer:
        print(file=sys.stderr)
    return answer.strip().lower() in ("", "y", "yes")


def _help(chat: Chat, argument: str) -> None:
    if argument:
        command = find(argument.lstrip("/"))
        names = ", ".join(f"/{name}" for name in (command.name, *command.aliases))
        chat.screen.show(
            f"{names} {command.arguments}".rstrip() + f"\n{command.help}{command.more and f'. {command.more}'}"
        )
        return
    # One column is as wide in all groups, so they are one table.
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for group, commands in GROUPS.items():
        table.add_row(Text(group, style="bold"))
        for command in commands:
            table.add_row(Text(f"  /{command.name} {command.arguments}".rstrip()), Text(command.help))
    chat.screen.show(table)
    chat.screen.note(
        '@FILE in a message reads a file; // begins a message with a slash; Alt-Enter or """ for several lines; '
        "Ctrl-C stops an answer; Ctrl-C twice or Ctrl-D leaves"
    )


def _compare(chat: Chat, argument: str) -> None:
    compare.compare(chat, asking.message(chat, argument, chat.messages).content if argument else "")


def _bye(chat: Chat, argument: str) -> None:
    raise Leave


def _words(*words: str) -> Choices:
    """Completes an argument that is one of these words."""
    return lambda chat: words


def _rewards(chat: Chat) -> Iterable[str]:
    return [] if chat.loader.loading else [f"{name}=" for name in chat.emulator.betas]


def _commands(chat: Chat) -> Iterable[str]:
    return [command.name for command in TABLE]


def _emulators(chat: Chat) -> Iterable[str]:
    return chat.loader.names()


def _templates(chat: Chat) -> Iterable[str]:
    return [*templating.names(), "off"]


def _names(chat: Chat) -> Iterable[str]:
    return dials.NAMES


def _saved(chat: Chat) -> Iterable[str]:
    return store.names()


BETA = "0 is the base alone, 1 is as configured."
COMPARE = "Base, tuned and emulator answer PROMPT, or the last message, side by side. The conversation stays as it is."
CONTEXT = "When it is full, rolling drops the oldest turns by itself; with ask, you are asked what to do."
COPY = "With code: its last code block."
DROP = "Without N, one turn. The models do not see dropped turns any more."
READ = 'The same in a message: @FILE, or @"FILE WITH SPACES".'
TEMPLATE = (
    "Without NAME, your templates are listed. Values of variables follow the name: /template NAME language=French."
)
SET = "Without NAME, all of them are shown."
DELETE = "You are asked first; /delete --force NAME does not ask. This conversation itself cannot be deleted."
EXPORT = "You are asked before a file is replaced; /export --force FILE replaces it."
HISTORY = "With N, the last N turns; else all of them."
SAVE = "You are asked before another session is replaced; /save --force NAME replaces it."
THINK = "Without a word: those of the last answer. show, fold and hide set what is shown of them."
WHY = "With N or TEXT: the candidates for its token N, or for the first token that contains TEXT; <end> is its end."

GROUPS: Mapping[str, tuple[Command, ...]] = {  # each fits in a row of 60 columns
    "Ask": (
        Command("regen", "", "answer the last message again", actions.regen),
        Command("retry", "TEXT", "replace the last message", actions.retry),
        Command("continue", "", "continue the last answer", actions.continue_),
        Command("read", "FILE [TEXT]", "ask about a file's text", asking.read, files=True, more=READ),
        Command(
            "template", "[NAME|off]", "wrap each message in a template", templating.template, _templates, more=TEMPLATE
        ),
        Command("edit", "[TEXT]", "write a message in $EDITOR", actions.edit),
    ),
    "Look": (
        Command("compare", "[PROMPT]", "answers with and without reward", _compare, more=COMPARE),
        Command("sweep", "[BETA ...]", "answer again, at several betas", compare.sweep),
        Command("why", "[N|TEXT]", "what the reward did to the answer", why.why, more=WHY),
        Command("think", "[show|fold|hide]", "the thoughts of the answer", think.think, _words(*MODES), more=THINK),
        Command("stats", "", "show speed and token counts", actions.stats),
    ),
    "Dials": (
        Command("beta", "[B]", "strength of all rewards", actions.dial("beta"), more=BETA),
        Command("mix", "[NAME=W ...|off]", "strength of each reward", actions.mix, _rewards),
        Command("temp", "[T]", "temperature; 0 is greedy", actions.dial("temperature"), aliases=("temperature",)),
        Command("top_p", "[P]", "top-p sampling; 1 is off", actions.dial("top_p")),
        Command("seed", "[N|off]", "seed, to repeat an answer", actions.dial("seed"), _words("off")),
        Command("set", "[NAME [VALUE]]", "show or change any setting", actions.set_, _names, more=SET),
    ),
    "Conversation": (
        Command("system", "[TEXT|off]", "show or change the system text", actions.system, _words("off")),
        Command("negative", "[TEXT|off]", "system text to steer away from", actions.negative, _words("off")),
        Command("history", "[N]", "show the conversation again", sessions.history, more=HISTORY),
        Command("undo", "", "take back the last turn", actions.undo),
        Command("reset", "", "begin a new conversation", actions.reset, aliases=("clear",)),
        Command("drop", "[N]", "drop the N oldest turns", actions.drop, more=DROP),
        Command(
            "context",
            "[rolling|ask]",
            "how full the context is",
            actions.context,
            _words("rolling", "ask"),
            more=CONTEXT,
        ),
    ),
    "Files": (
        Command("sessions", "", "list the chats that are kept", sessions.sessions),
        Command("load", "NAME", "go on with a kept chat", sessions.load, _saved),
        Command("rename", "NAME", "name this chat, which keeps it", sessions.rename),
        Command("save", "[NAME]", "save a copy, as it is now", sessions.save, _saved, more=SAVE),
        Command("delete", "NAME", "delete a kept chat", sessions.delete, _saved, more=DELETE),
        Command(
            "export", "FILE.md|.json", "write the conversation to a file", sessions.export, files=True, more=EXPORT
        ),
        Command("copy", "[code]", "copy the answer to the clipboard", actions.copy, _words("code"), more=COPY),
    ),
    "Chat": (
        Command(
            "emulator", "[NAME]", "list or switch emulators", actions.emulator, _emulators, aliases=("model", "models")
        ),
        Command("help", "[COMMAND]", "show help", _help, _commands, aliases=("?", "h")),
        Command("bye", "", "leave the chat", _bye, aliases=("exit", "quit")),
    ),
}
TABLE: tuple[Command, ...] = tuple(command for group in GROUPS.values() for command in group)
