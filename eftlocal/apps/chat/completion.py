"""Completes what is typed: the names of commands, their arguments, and paths after an `@` or where a command takes one.

Commands and their arguments come from the table of commands.
"""

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from eftlocal.apps.chat.commands import TABLE
from eftlocal.apps.chat.state import Chat
from eftlocal.catalog.tables import expanded
from eftlocal.errors import EftError
from eftlocal.text import path_of

__all__ = ["Completions"]

LOOKED_AT = 2_000  # entries of a folder that are looked at while someone types
MENTION = re.compile(r'(?:(?<=\s)|^)@("[^"]*|[^\s"]*)\Z')


class Completions(Completer):
    """The completions of the chat's input line."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.current_line_before_cursor
        if document.text.startswith("/") and not document.text.startswith("//") and document.cursor_position_row == 0:
            name, space, argument = line[1:].partition(" ")
            yield from self._argument(name.lower(), argument.lstrip()) if space else _commands(name.lower())
        if found := MENTION.search(line):
            yield from _paths(found[1])

    def _argument(self, name: str, argument: str) -> Iterator[Completion]:
        command = next((c for c in TABLE if name in (c.name, *c.aliases)), None)
        if command is None:
            return
        if command.files and not argument.startswith("@") and (argument.startswith('"') or " " not in argument):
            yield from _paths(argument)
        if command.choices is None:
            return
        word = argument.rpartition(" ")[2]
        try:
            choices = list(command.choices(self._chat))
        except EftError:
            return
        for choice in choices:
            if choice.startswith(word) and choice != word:
                yield Completion(choice, -len(word))


def _commands(name: str) -> Iterator[Completion]:
    for command in TABLE:
        if begun := next((each for each in (command.name, *command.aliases) if each.startswith(name)), None):
            shown = f"/{begun} {command.arguments}".rstrip()
            yield Completion(begun, -len(name), display=shown, display_meta=command.help)


def _paths(typed: str) -> Iterator[Completion]:
    """The files and folders that begin with what is typed, which may begin with a quote. Folders end with a slash."""
    quoted = typed.startswith('"')
    path = typed.removeprefix('"')
    if '"' in path or path == "~":
        return
    folder, name = os.path.split(path)
    try:
        with os.scandir(expanded(path_of(folder or "."))) as entries:
            found = [(e.name, e.is_dir()) for e in islice(entries, LOOKED_AT) if e.name.startswith(name)]
    except (OSError, ValueError):
        return
    for entry, is_folder in sorted(found):
        if (entry.startswith(".") and not name.startswith(".")) or not entry.isprintable() or '"' in entry:
            continue
        whole = path[: len(path) - len(name)] + entry + ("/" if is_folder else "")
        if quoted or any(c.isspace() for c in whole):
            whole = f'"{whole}' + ("" if is_folder else '"')
        yield Completion(whole, -len(typed), display=entry + ("/" if is_folder else ""))
