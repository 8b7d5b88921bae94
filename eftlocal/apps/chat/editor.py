"""A message written in the user's own editor."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from eftlocal.errors import EftError

__all__ = ["edited"]


def edited(text: str) -> str:
    """What the user makes of `text` in $VISUAL or $EDITOR. Raises EftError where that cannot be run."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    with tempfile.TemporaryDirectory(prefix="eftlocal-") as folder:
        file = Path(folder) / "message.md"
        file.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
        except (OSError, ValueError) as error:
            raise EftError(f"The editor {editor!r} cannot be run: {error}.", "Set EDITOR.") from error
        if code:
            raise EftError(f"The editor {editor!r} ended with {code}; the text is not taken.")
        return file.read_text(encoding="utf-8", errors="replace")
