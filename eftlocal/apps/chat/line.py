"""Reads the user's input: with prompt_toolkit on a terminal (keys, completion, status line), else line by line."""

import sys
from contextlib import suppress
from pathlib import Path
from shutil import get_terminal_size

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.styles import Style

from eftlocal.apps.chat.commands import BLOCK
from eftlocal.apps.chat.completion import Completions
from eftlocal.apps.chat.room import FULL
from eftlocal.apps.chat.state import Chat
from eftlocal.errors import EftError

__all__ = ["Line", "PlainLine"]

MENU = 6  # rows below the input that are kept free for completions, where there is room
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "full": "fg:ansiyellow", "prompt": "bold"})


class _History(FileHistory):
    """What the user typed, in a file. On a full disk a line is only in memory."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


class PlainLine:
    """Reads lines from a pipe, or from a terminal that cannot move its cursor. The prompt goes to stderr."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._interactive = sys.stdin.isatty()

    def read(self) -> str | None:
        """The next message; None at the end of the input. Ctrl-C begins a new line.

        Raises KeyboardInterrupt for a Ctrl-C just after one that stopped an answer, and for any while it reads a pipe.
        Raises EftError if the input is not UTF-8.
        """
        interrupts = self._chat.interrupts
        while True:
            try:
                with interrupts.raising():
                    return self._read()
            except KeyboardInterrupt:
                if interrupts.leaving or not self._interactive:  # a pipe: nobody types there
                    raise
                print(file=sys.stderr)
            except UnicodeDecodeError as error:
                raise EftError(f"Standard input is not UTF-8 text (byte {error.start}).") from None

    def _read(self) -> str | None:
        text = self._readline("> ")
        if text is None or not self._interactive or not text.startswith(BLOCK):
            return text
        while not _is_whole(text):
            if (more := self._readline("... ")) is None:
                break
            text += f"\n{more}"
        return text

    def _readline(self, prompt: str) -> str | None:
        if self._interactive:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None


class Line:
    """Reads messages on a terminal, with history, completion, several lines and a status line below."""

    def __init__(self, chat: Chat, history: Path | None) -> None:
        self._chat = chat
        self._session: PromptSession[str] = PromptSession(
            message=[("class:prompt", ">>> ")],
            prompt_continuation=lambda width, number, wrapped: "... " if not wrapped else "    ",
            history=_history(history),
            completer=Completions(chat),
            complete_while_typing=True,
            multiline=True,
            key_bindings=self._keys(),
            bottom_toolbar=self._status,
            style=STYLE,
            output=None if sys.stdout.isatty() else create_output(sys.stderr),
            enable_open_in_editor=True,
            enable_suspend=True,
            refresh_interval=0.0,
        )
        # A terminal that does not report its cursor's position works, too; prompt_toolkit would print a warning.
        self._session.app.renderer.cpr_not_supported_callback = None

    def read(self) -> str | None:
        """The next message, or None for Ctrl-D.

        Raises KeyboardInterrupt for a Ctrl-C just after one that stopped an answer, and what loading raised.
        """
        loader = self._chat.loader
        self._chat.count()  # the status line shows the count
        self._session.refresh_interval = 0.1 if loader.loading else 0.0
        self._offer()
        self._session.reserve_space_for_menu = min(MENU, max(0, get_terminal_size().lines - MENU))
        try:
            return self._session.prompt()
        except EOFError:
            return None
        finally:
            self._chat.interrupts.ending.arm()  # prompt_toolkit's event loop had the signals

    def _offer(self) -> None:
        """Put lines of this conversation under Up. The line begins empty, because the next one may be a command."""
        for line in self._chat.offered:
            self._session.history.append_string(line)
        self._chat.offered.clear()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if _is_whole(buffer.text):
                buffer.validate_and_handle()
            else:
                buffer.newline()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.newline()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            if self._chat.interrupts.again():
                self._chat.interrupts.leaving = True
                event.app.exit(exception=KeyboardInterrupt())
            else:
                event.current_buffer.reset()

        return keys

    def _status(self) -> FormattedText:
        """The status line: what is loading, or emulator, beta, context and speed. Ends the input if loading failed."""
        chat, loader = self._chat, self._chat.loader
        if loader.error is not None:
            get_app().exit(exception=loader.error)
            return FormattedText()
        if loader.loading:
            turn = SPINNER[int(loader.seconds * 10) % len(SPINNER)]
            return FormattedText([("", f"{turn} loading {loader.what} · {loader.seconds:.0f} s")])
        self._session.refresh_interval = 0.0
        emulator = chat.emulator
        parts = [emulator.name, f"beta {emulator.settings.beta:g}"]
        if emulator.settings.alone is not None:
            parts.append(f"{emulator.settings.alone} alone")
        if chat.template is not None:
            parts.append(f"template {chat.template.filled.template.name}")
        if chat.session_name:
            parts.append(f"session {chat.session_name}")
        used = chat.used
        full = used is not None and used >= FULL * emulator.context
        context = f"context {'?' if used is None else used}/{emulator.context}"
        speed = chat.last.reply.tokens_per_s if chat.last is not None else None
        return FormattedText(
            [
                ("", " · ".join(parts) + " · "),
                ("class:full" if full else "", context),
                ("", f" · {speed:.1f} tokens/s" if speed else ""),
            ]
        )


def _is_whole(text: str) -> bool:
    """Whether Enter sends the text. A block that three quotes opened must be closed first."""
    text = text.strip()
    return not text.startswith(BLOCK) or (len(text) >= 2 * len(BLOCK) and text.endswith(BLOCK))


def _history(path: Path | None) -> History:
    """The history in the file `path`, or in memory if that cannot be written."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        with path.open("ab"):
            return _History(path)
    except OSError:
        return InMemoryHistory()
