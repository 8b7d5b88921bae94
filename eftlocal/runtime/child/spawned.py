"""One child process: started, spoken with, and ended. What it wrote says why it ended."""

import os
import selectors
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from eftlocal.errors import ModelLoadError
from eftlocal.runtime.child import patience
from eftlocal.runtime.child.channel import Channel, Message
from eftlocal.runtime.child.ends import how, last_words

__all__ = ["Spawned"]

# The child imports from the same places as this process, and nothing from the folder that it happens to run in.
CODE: Final = """import sys; sys.path[:] = sys.argv[2:]
from eftlocal.runtime.child.serve import main; main(int(sys.argv[1]))"""
LAST_S: Final = 2.0  # for a process that closed its channel to write its last words


class Spawned:
    """A process that holds nothing yet, and the channel to it. It runs until `end`, unless it ends by itself."""

    def __init__(self, path: Path) -> None:
        """path: the model's file, for an error. Raises ModelLoadError if no process can be started."""
        if sys.platform == "win32":
            raise ModelLoadError("A model in a process of its own needs Linux or macOS.", "Leave out its workers.")
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  # its output, read when it has ended
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._popen = subprocess.Popen(
                    [sys.executable, "-c", CODE, str(theirs.fileno()), *sys.path],
                    env=os.environ | {"GGML_NO_BACKTRACE": "1"},  # otherwise llama.cpp starts a debugger
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # so that Ctrl-C in the terminal does not end it
                    stdin=subprocess.DEVNULL,
                    stdout=self.said,
                    stderr=self.said,
                )
            except OSError as error:
                ours.close()
                self.said.close()
                raise ModelLoadError(f"{path}: no process can be started for it: {error.strerror}") from None
        ours.settimeout(patience.PATIENCE_S)  # between two parts of a message
        self._channel = Channel(ours)
        self._selector = selectors.DefaultSelector()
        self._selector.register(ours, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def runs(self) -> bool:
        return self._popen.poll() is None

    def send(self, message: Message, data: bytes | memoryview = b"") -> None:
        """Raises ClosedError if it has ended."""
        self._channel.send(message, data)

    def has_answered(self, seconds: float) -> bool:
        """Whether a message is there, or comes in this time. The end of the process counts as one."""
        return bool(self._selector.select(seconds))

    def receive(self, room: Callable[[Message, int], memoryview] | None = None) -> tuple[Message, memoryview]:
        """The next message, as Channel.receive. Raises ClosedError if it has ended."""
        return self._channel.receive(room)

    def end(self) -> None:
        """End it if it runs, and forget what it wrote."""
        self._selector.close()
        self._channel.close()
        self._popen.kill()
        self._popen.wait()
        self.said.close()

    def last_words(self) -> str:
        """Why it ended, in words, for one that closed its channel."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(LAST_S)
        self._popen.kill()
        return last_words(self.said) or how(self._popen.wait())
