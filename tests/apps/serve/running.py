"""A real `eftlocal serve` in a process of its own, for tests and tools."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

STARTED = re.compile(r"answers at (http://\S+):(\d+)/v1")


class Running:
    """The program `eftlocal serve ARGUMENTS` on a free port. Use it as a context manager."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "eftlocal", "serve", *arguments]
        command += [] if "--port" in arguments else ["--port", "0"]
        # Threads that wait for each other are slow where others use the cores, and tiny models need only one.
        command += [] if "--threads" in arguments or "demo" not in arguments else ["--threads", "1"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env={**os.environ, **(environment or {})}
        )
        self.lines: list[str] = []  # of its log
        self.port = 0
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._started.wait(60)
        assert self.port, "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if (found := STARTED.search(line)) is not None:
                self.port = int(found[2])
                self._started.set()
        self._started.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self, number: int = signal.SIGINT, within: float = 10.0) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(within)
        self._reader.join(5)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()


def rss(pid: int) -> int:
    """The memory that a process holds, in bytes (Linux)."""
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 - not a file on a disk
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used (Linux)."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - not a file on a disk
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def generated(*arguments: str) -> str:
    """The text that `eftlocal generate ARGUMENTS` prints."""
    command: Sequence[str] = [sys.executable, "-m", "eftlocal", "generate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
