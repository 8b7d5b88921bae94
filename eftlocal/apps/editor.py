"""Lets the user write a text in their own editor."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from eftlocal.errors import EftError

__all__ = ["edited"]

Running = Callable[["subprocess.Popen[Any]"], AbstractContextManager[object]]


def edited(text: str, name: str, running: Running = nullcontext) -> str:
    """Open `text` in $VISUAL or $EDITOR as a file of that name, and return it as the user saved it.

    running  gives the context in which the editor's process runs

    Raises EftError if the editor cannot be run or exits with an error. KeyboardInterrupt ends the editor.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    try:
        with tempfile.TemporaryDirectory(prefix="eftlocal-") as folder:
            file = Path(folder) / name
            file.write_text(text, encoding="utf-8", errors="replace")
            code = _run(editor, file, running)
            if code:
                raise EftError(f"The editor {editor!r} exited with code {code}; its text was not used.")
            return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise EftError(f"The text cannot be given to an editor: {error.strerror or error}.") from error


def _run(editor: str, file: Path, running: Running) -> int:
    """The editor's exit code."""
    try:
        with subprocess.Popen([*shlex.split(editor), str(file)]) as process, running(process):
            try:
                return process.wait()
            except KeyboardInterrupt:
                process.kill()
                raise
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise EftError(f"The editor {editor!r} cannot be run: {what}.", "Set the variable EDITOR.") from error
