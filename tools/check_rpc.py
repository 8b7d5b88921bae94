"""Proves a base on llama.cpp's workers: its logits, its speed, and a chat that outlives a worker.

`PYTHONPATH=BUILD_WITH_RPC:. python -m tools.check_rpc [--kills 30] [--hangs 10] [--models FILE]` starts two workers,
and

- compares the logits of the base here, in a child process, on one worker and on two, and times a token of each,
- chats in a terminal, kills a worker with SIGKILL in the middle of an answer, in turn the first and the second, looks
  that the chat says so and is there, starts the worker again, and continues the answer, which has no end of its own,
- does the same with SIGSTOP and SIGCONT, so that a worker hangs; a chat with shorter waits than usual must give it up.

It needs Linux and a llama-cpp-python with GGML_RPC (docs/rpc.md). Without --models the demo chats; use a models.toml
with a base that takes some time for a token.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from eftlocal.catalog import models as catalog
from eftlocal.catalog.endpoints import Endpoint
from eftlocal.catalog.toml import emulator_lines, model_lines
from eftlocal.errors import WorkerError
from eftlocal.runtime import gguf
from eftlocal.runtime.child.context import ChildContext, ChildModel
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.rpc.hello import probe
from tests.apps.terminal import Terminal

PROMPT, TOKENS = list(range(5, 69)), 60
IMPATIENT = """from eftlocal.cli import main
from eftlocal.runtime.child import patience
patience.PATIENCE_S, patience.FIRST_S, patience.LOAD_S, patience.PROBE_S = 2.0, 20.0, 20.0, 1.0
main()"""


class Worker:
    """`eftlocal worker` on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.endpoint = Endpoint("127.0.0.1", port)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "eftlocal", "worker", "--port", str(self.endpoint.port), "--threads", "1"]
        self._popen = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            time.sleep(0.1)
            if self._popen.poll() is not None:  # another one may listen there
                break
            with suppress(WorkerError):
                probe(self.endpoint, 1.0)
                return
        raise SystemExit(f"{self.endpoint} does not start")

    def stop(self) -> None:
        """Let the process that serves hang."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, and wait until it answers: its client has left, and it must see that first."""
        self._signal(signal.SIGCONT)
        for _ in range(100):
            with suppress(WorkerError):
                probe(self.endpoint, 1.0)
                return
        raise SystemExit(f"{self.endpoint} does not go on")

    def _signal(self, number: int) -> None:
        for one in psutil.Process(self._popen.pid).children(recursive=True):
            one.send_signal(number)

    def kill(self) -> None:
        """Kill it and the process that serves, with SIGKILL, if it runs."""
        if self._popen.poll() is not None:
            return
        for one in (*psutil.Process(self._popen.pid).children(recursive=True), psutil.Process(self._popen.pid)):
            one.kill()
        self._popen.wait()


def main(arguments: list[str] | None = None) -> int:
    """Do what the module says, print what was seen, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--hangs", type=int, default=10)
    parser.add_argument("--models", type=Path, help="a models.toml with a default emulator (default: the demo)")
    parser.add_argument("--ports", type=int, nargs=2, default=(50091, 50092))
    given = parser.parse_args(arguments)
    workers = [Worker(port) for port in given.ports]
    try:
        wrong = compare(given.models, [worker.endpoint for worker in workers])
        wrong += chats(given.models, workers, given.kills)
        wrong += chats(given.models, workers, given.hangs, hang=True)
    finally:
        for worker in workers:
            worker.kill()
    return 1 if wrong else 0


def compare(models: Path | None, workers: list[Endpoint]) -> int:
    """Print whether the base's logits are the same wherever it is, and how long a token takes. Returns what differs."""
    cat = catalog.load(models)
    header, offload = (
        gguf.check(catalog.local_path(cat.model(cat.emulator(None if models else "demo").base))),
        Offload(),
    )
    places: list[tuple[str, list[Endpoint] | None]] = [("here", None), ("in a child", [])]
    places += [("on one worker", workers[:1]), ("on two workers", workers)]
    wanted, wrong = None, 0
    for name, rpc in places:
        model: Model | ChildModel
        context: Context | ChildContext
        if rpc is None:
            model = Model(header, offload)
            context = Context(model, n_ctx=512, n_threads=1)
        else:
            there = Offload(1 << 20, tuple(map(str, rpc))) if rpc else offload
            model = child = ChildModel(header, there, rpc)
            context = ChildContext(child, n_ctx=512, n_threads=1)
        rows = [context.feed([Feed(0, PROMPT, len(PROMPT))]).copy()]
        times = []
        for i in range(TOKENS):
            began = time.perf_counter()
            rows.append(context.feed([Feed(0, [100 + i], 1)]).copy())
            times.append(time.perf_counter() - began)
        context.close()
        model.close()
        found = np.concatenate(rows)
        wanted = found if wanted is None else wanted
        same = bool(np.array_equal(found, wanted))
        wrong += not same
        print(
            f"{header.path.name} {name:15} {1e3 * float(np.median(times)):7.2f} ms a token, {len(found)} rows "
            f"{'equal to the bit' if same else 'DIFFER'}",
            flush=True,
        )
    return wrong


def chats(models: Path | None, workers: list[Worker], times: int, *, hang: bool = False) -> int:
    """Kill workers in the middle of answers of one chat, or let them hang. Returns how often anything was wrong."""
    rpc = ",".join(str(worker.endpoint) for worker in workers)
    program, what = (["-c", IMPATIENT], "hang") if hang else (["-m", "eftlocal"], "kill")
    rng, wrong, waits = random.Random(1), 0, []
    with tempfile.TemporaryDirectory(prefix="eftlocal-rpc-") as folder:
        command = [*program, "chat", "--rpc", rpc, "--models", str(endless(models, Path(folder))), "-e", "endless"]
        more = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        terminal = Terminal(*command, "--max-tokens", "150", data=Path(folder), columns=100, lines=40, **more)
        with terminal:
            terminal.prompt(1, 60)
            chat = Chat(terminal)
            for i in range(times):
                struck = workers[i % 2]
                try:
                    chat.ask("/reset")
                    chat.must_show("new conversation")
                    chat.begin(f"Tell me a long story of {rng.randrange(1000)} words about a fox.")
                    chat.until(lambda: len(chat.shown) > 200, "an answer")
                    terminal.pump(rng.uniform(0, 1))
                    began = time.monotonic()
                    struck.stop() if hang else struck.kill()
                    chat.until(chat.is_ready, "a prompt")
                    waits.append(time.monotonic() - began)
                    chat.must_show(f"The worker {struck.endpoint} is {'busy' if hang else 'not there'}")
                    struck.resume() if hang else struck.start()
                    chat.ask("/continue")
                    chat.must_show("max_tokens reached")
                except AssertionError as error:
                    wrong += 1
                    print(f"{what} {i + 1} of {struck.endpoint}: {error}", flush=True)
                    struck.kill()
                    struck.start()
                    break
                print(f"{what} {i + 1} of {struck.endpoint}: told within {waits[-1]:.2f} s, continued", flush=True)
            left = psutil.Process(terminal.child.pid).children(recursive=True)
            terminal.send("\x04")
            terminal.close()
            time.sleep(0.5)
            wrong += (n_left := sum(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in left))
    print(
        f"{len(waits)} {what}s, {wrong} with faults, {n_left} processes left; told within {max(waits, default=0):.2f} s"
    )
    return wrong


def endless(models: Path | None, folder: Path) -> Path:
    """Write a models.toml with the emulator `endless`, whose answers end at max_tokens alone."""
    cat = catalog.load(models)
    emulator = cat.emulator(None if models else "demo")
    rewards = tuple(replace(reward, bias=catalog.Bias(end=-1000.0)) for reward in emulator.rewards)
    lines = emulator_lines(replace(emulator, name="endless", rewards=rewards))
    for name in emulator.models:
        lines += model_lines(cat.model(name), folder)
    file = folder / "models.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


class Chat:
    """A chat in a terminal, and what it showed since the last line that was typed."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._typed = 0  # the row where that line begins

    @property
    def shown(self) -> str:
        rows = [*self._terminal.above, *self._terminal.screen.display]
        return "\n".join(row.rstrip() for row in rows[self._typed :]).rstrip()

    def is_ready(self) -> bool:
        """Whether an empty prompt waits below that line."""
        below = self._row() > self._typed
        return below and self._terminal.screen.display[self._terminal.screen.cursor.y].rstrip() == ">>>"

    def begin(self, line: str) -> None:
        """Type a line at an empty prompt, and press Enter."""
        self._typed = self._row()
        self._terminal.send(line)
        self.until(lambda: line[-20:] in self.shown, f"the echo of {line!r}")
        self._terminal.send("\r")

    def ask(self, line: str) -> None:
        """Type a line, and wait for the next prompt."""
        self.begin(line)
        self.until(self.is_ready, "a prompt")

    def must_show(self, text: str) -> None:
        """Raises AssertionError with all that is shown if the text is not there, broken into rows anywhere."""
        if text.replace(" ", "") not in "".join(self.shown.split()):
            raise AssertionError(f"{text!r} is missing. Shown:\n{self.shown}")

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait a minute at most. Raises AssertionError with all that is shown."""
        end = time.monotonic() + 60
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come. Shown:\n{self.shown}")
            self._terminal.pump(0.03)

    def _row(self) -> int:
        return len(self._terminal.screen.history.top) + int(self._terminal.screen.cursor.y)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.exit(main())
