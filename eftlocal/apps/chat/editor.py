"""Lets the user write a message in their own editor."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from eftlocal.apps.chat.ending import Ending
from eftlocal.errors import EftError

__all__ = ["edited"]


def edited(text: str, ending: Ending) -> str:
    """Open `text` in $VISUAL or $EDITOR and return it as the user saved it. `ending` ends the editor with the chat.

    Raises EftError if the editor cannot be run or exits with an error.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    with tempfile.TemporaryDirectory(prefix="eftlocal-") as folder:
        file = Path(folder) / "message.md"
        file.write_text(text, encoding="utf-8")
        try:
            with subprocess.Popen([*shlex.split(editor), str(file)]) as process, ending.child(process):
                code = process.wait()
        except (OSError, ValueError) as error:
            raise EftError(f"The editor {editor!r} cannot be run: {error}.", "Set the variable EDITOR.") from error
        if code:
            raise EftError(f"The editor {editor!r} exited with code {code}; its text was not used.")
        return file.read_text(encoding="utf-8", errors="replace")
