"""Kills a chat's terminal, or the chat, at random moments, and looks at what is left of it.

`python -m tools.kill_chat [TIMES] [--models FILE] [--seed N]` starts a chat again and again in one data folder, brings
it into one of the phases below, and kills it after a random time: by closing its terminal (SIGHUP) or by SIGTERM, in
turn. Then it must be so that

- no process of its session is left after three seconds, its editor included,
- every turn that had ended is in a file, and every file is whole.

It needs Linux. Without --models the demo runs; with a models.toml, its default emulator.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.apps.terminal import Terminal

PHASES = ("loading", "typing", "prefill", "answering", "compare", "editor", "silent terminal")
LIMIT_S = 3.0  # after the kill
EDITOR = "#!/bin/sh\ntrap '' HUP\necho 'half a message' > \"$1\"\necho EDITING\nwhile :; do sleep 0.1; done\n"


@dataclass
class Outcome:
    """What was seen after one kill. `faults` is empty if all is well."""

    phase: str
    how: str
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Kill chats as the command line says, print what was seen, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", nargs="?", type=int, default=200)
    parser.add_argument("--models", help="a models.toml with a default emulator (default: the demo)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and the chats would, too
    command = ["-m", "eftlocal", "chat", *(["--models", given.models] if given.models else ["demo"])]
    command += ["--max-tokens", "100"]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="eftlocal-kill-") as folder:
        for i, outcome in enumerate(kills(command, Path(folder), given.times, given.seed), start=1):
            outcomes.append(outcome)
            for fault in outcome.faults:
                print(f"{i}: {outcome.phase}, {outcome.how}: {fault}")
    for phase in PHASES:
        times = [outcome.seconds for outcome in outcomes if outcome.phase == phase]
        if times:
            most, average = max(times), sum(times) / len(times)
            print(f"{phase:16} {len(times):4} kills, gone after {average:.2f} s on average, {most:.2f} s at most")
    wrong = sum(bool(outcome.faults) for outcome in outcomes)
    how = Counter(outcome.how for outcome in outcomes)
    print(f"{len(outcomes)} kills ({', '.join(f'{n} {name}' for name, n in how.items())}), {wrong} with faults")
    return 1 if wrong else 0


def kills(command: Sequence[str], folder: Path, times: int, seed: int) -> Iterator[Outcome]:
    """Kill the chat that `python COMMAND` starts so many times, each time in the next phase."""
    rng = random.Random(seed)
    editor = folder / "editor"
    editor.write_text(EDITOR)
    editor.chmod(0o755)
    for i in range(times):
        phase, how = PHASES[i % len(PHASES)], ("SIGHUP", "SIGTERM")[i % 2]
        terminal = Terminal(*command, data=folder, VISUAL="", EDITOR=str(editor))
        yield _kill(terminal, folder, Outcome(phase, how), f"kill{i:04}x", rng)


def _kill(terminal: Terminal, folder: Path, outcome: Outcome, word: str, rng: random.Random) -> Outcome:
    turns = 0
    if outcome.phase == "loading":
        terminal.wait(">>>")
        if rng.random() < 0.5:
            terminal.send("How large is Lyon?\r")  # it waits for the emulator
        terminal.pump(rng.uniform(0.01, 0.4))
    else:
        terminal.wait("context ", 60)  # the status line says so when the emulator is loaded
        terminal.send(f"{word} How large is Lyon?\r")
        terminal.wait("tokens/s", 120)
        turns = 1
        _enter(terminal, outcome.phase, word, rng)
    child = terminal.child
    started = time.monotonic()
    if outcome.how == "SIGTERM":
        os.kill(child.pid, signal.SIGTERM)
    else:
        child.ptyproc.fileobj.close()  # as a terminal does that is closed; the kernel sends SIGHUP
    while (left := _session(child.pid)) and time.monotonic() - started < LIMIT_S:
        if outcome.how == "SIGTERM" and outcome.phase != "silent terminal":
            terminal.pump(0.02)
        else:
            time.sleep(0.02)
        _reap(child.pid)
    outcome.seconds = time.monotonic() - started
    if left:
        outcome.faults.append(f"processes are left after {LIMIT_S:g} s: {left}")
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.ptyproc.fileobj.close()
    child.closed = child.ptyproc.closed = True
    outcome.faults += _lost(folder, word, turns)
    return outcome


def _enter(terminal: Terminal, phase: str, word: str, rng: random.Random) -> None:
    """Bring a chat that waits at its prompt into the phase, and wait a random time."""
    if phase == "typing":
        terminal.send("and then some more words that were never sent"[: rng.randrange(1, 44)])
        terminal.pump(rng.uniform(0.01, 0.2))
    elif phase == "prefill":
        terminal.send(" ".join(f"word{n}" for n in range(40)) + f" {word}\r")
        terminal.pump(rng.uniform(0.01, 0.3))
    elif phase == "answering":
        terminal.send(f"Count from one to a hundred, {word}\r")
        terminal.pump(rng.uniform(0.01, 1.0))
    elif phase == "compare":
        terminal.send("/compare\r")
        terminal.pump(rng.uniform(0.01, 0.6))
    elif phase == "editor":
        terminal.send("/edit\r")
        terminal.wait("EDITING")
        terminal.pump(rng.uniform(0.01, 0.2))
    else:  # a terminal that takes nothing, after Ctrl-S
        terminal.send(f"Count from one to a hundred, {word}\r")
        terminal.pump(rng.uniform(0.01, 0.1))
        terminal.send("\x13")
        time.sleep(rng.uniform(0.0, 0.5))


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _session(leader: int) -> list[int]:
    """The processes of the terminal's session that still run; zombies do not."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def _lost(folder: Path, word: str, turns: int) -> list[str]:
    """What is wrong with the files, as sentences."""
    faults, found = [], False
    for file in (folder / "eftlocal/sessions").glob("*.json"):
        try:
            messages = json.loads(file.read_text())["messages"]
        except (ValueError, KeyError) as error:
            faults.append(f"{file.name} is not whole: {error}")
            continue
        if not messages or word not in messages[0]["content"]:
            continue
        found = True
        answers = sum(m["role"] == "assistant" and bool(m["content"]) for m in messages)
        if answers < turns:
            faults.append(f"{file.name} has {answers} answers of {turns}")
    if turns and not found:
        faults.append("the chat was not kept")
    left = [file.name for file in (folder / "eftlocal/sessions").glob(".*.json.*")]
    if left:
        faults.append(f"half-written files are left: {left}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
