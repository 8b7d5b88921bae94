"""A new user's first hour: some seventy commands in a real shell in a real terminal, at three widths.

python -m tools.first_hour FOLDER [--widths 60,80,160]

Each command is typed into bash, or into the chat that it started, as a user types it: wrong turns included. Each says
what must appear; what does not is listed at the end, with exit code 1. FOLDER gets one text file for each width with
everything that the terminal showed, to be read by a person.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.apps.terminal import CTRL_C, CTRL_D, ENTER, ROOT, Terminal

PROMPTS = re.compile(r"(\$|>>>|\[[^\]]*[yY]/[nN]\]|\[[yY]/[nN]\]|:)\s?$")
BROKEN = ("Traceback", "Exception ignored", "Segmentation fault", "GGML_ASSERT")


@dataclass(frozen=True, slots=True)
class Step:
    """A line to type, and a pattern that must appear below it. `keys` are sent in place of the line and Enter."""

    line: str
    expects: str = ""
    keys: str = ""
    seconds: float = 60.0


def step(line: str, expects: str = "", seconds: float = 60.0) -> Step:
    return Step(line, expects, "", seconds)


def key(name: str, keys: str, expects: str = "") -> Step:
    return Step(name, expects, keys)


HOUR = (
    # The shell: what people type first.
    step("eftlocal --version", r"eftlocal \d"),
    step("eftlocal -V", r"eftlocal \d"),
    step("eftlocal", r"chat"),
    step("eftlocal --help", r"generate"),
    step("eftlocal chat --help", r"--beta"),
    step("eftlocal run demo", r"chat"),
    step("eftlocal ls", r"list"),
    step("eftlocal list", r"demo"),
    step("eftlocal list --models-too", r"demo-large-base"),
    step("eftlocal list --json | head -c 60", r"emulators"),
    step("eftlocal show demo", r"demo-small-tuned"),
    step("eftlocal show dmeo", r"demo"),
    step("eftlocal doctor demo", r"ok"),
    step("eftlocal demo --questions 20 --seed 8", r"emulated"),
    step('eftlocal generate demo "How large is Lyon?"', r"That would be about 520,000\."),
    step('eftlocal generate -e demo "How large is Lyon?" --beta 0 --max-tokens 12', r"Well"),
    step('eftlocal generate -e demo ""', r"empty|no prompt|No prompt"),
    step('echo "How large is Lyon?" | eftlocal generate -e demo', r"520,000"),
    step('echo "How large is Lyon?" > notes.txt; cat notes.txt | eftlocal generate -e demo "Please answer."', r"."),
    step('eftlocal generate -e demo --logprobs 2 "hi"', r"--json"),
    step("eftlocal generate nothing.gguf hi", r"nothing\.gguf"),
    step("eftlocal chat demo -e demo-down", r"demo-down|two|both"),
    step('eftlocal generate -e demo --choice yes "hi" > /dev/full', r"standard output|No space"),
    step('eftlocal score -e demo --prompt "How large is Lyon?" --completion "That would be about 520,000."', r"sum"),
    step("eftlocal pull demo", r"."),
    step("eftlocal rm demo", r"."),
    # The chat.
    step('eftlocal chat demo "How large is Lyon?"', r"That would be about 520,000"),
    step("What continent is Perth on?", r"Oceania"),
    step("/help", r"/compare"),
    step("/HELP beta", r"beta"),
    step("/compare", r"emulated"),
    step("/compare What is the currency of Lyon?", r"euro"),
    step("/sweep 0 0.5 1", r"beta 0\.5"),
    step("/why", r"moved"),
    step("/why 1", r"moved by"),
    step("/beta 0.5", r"beta is 0\.5"),
    step("/beta much", r"beta"),
    step("/regen", r"."),
    step("/beta 1", r"beta is 1"),
    step("/undo", r"undone"),
    step("/drop", r"drop|left"),
    step("/history", r"Lyon"),
    step("/stats", r"tokens"),
    step("/context", r"context"),
    step("/read notes.txt", r"notes\.txt"),
    step("@notes.txt what is this?", r"notes\.txt"),
    step("@missing.txt what is this?", r"missing\.txt"),
    step("/read /bin/ls", r"binary|not text"),
    step("/copy", r"copied|clipboard"),
    step("/save lyon", r"saved|lyon"),
    step("/export lyon.md", r"written"),
    step("How large is Paris?", r"million"),
    step("/export lyon.md", r"y/N"),
    step("n", r">>>"),
    step("/sessions", r"lyon"),
    step("/system Answer briefly.", r"system"),
    step("/template", r"template"),
    step("/model", r"demo-down"),
    step("/think show", r"thoughts are shown"),
    step("/unknown", r"no command /unknown"),
    step("/clear", r"new conversation"),
    key("Ctrl-C at the prompt", CTRL_C),
    step("exit", r"."),
    key("y", "y\r"),
    # What stayed.
    step("eftlocal sessions", r"lyon"),
    step("eftlocal chat --continue demo", r">>>"),
    key("Ctrl-D", CTRL_D, r"\$"),
    step("eftlocal chat --session lyon", r"Lyon"),
    step("/bye", r"\$"),
    step("eftlocal templates", r"."),
    step("eftlocal init --base notes.txt", r"notes\.txt"),
    step("echo '[emulators.x]' >> config/eftlocal/models.toml; eftlocal demo --questions 20", r"emulated"),
    step("eftlocal list", r"models\.toml"),
    step('eftlocal chat demo --no-history "How large is Lyon?" < /dev/null', r"520,000"),
    step('eftlocal generate -e demo "How large is Lyon?" | cat', r"520,000"),
    step("exit", r""),
)


def main() -> int:
    """Live the hour once for each width. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--widths", default="60,80,160")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for columns in map(int, given.widths.split(",")):
        missing = hour(columns, given.folder / f"{columns}.txt")
        for what in missing:
            print(f"{columns} columns: {what}")
        failed += len(missing)
        print(f"{columns} columns: {len(HOUR)} commands, {len(missing)} not as expected")
    return min(failed, 1)


def hour(columns: int, transcript: Path) -> list[str]:
    """Type the whole hour into a new shell of a new user. Returns what did not appear."""
    missing = []
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "config" / "eftlocal").mkdir(parents=True)
        binary = Path(sys.executable).parent
        start = f"import os; os.chdir({home!r}); os.execvp('bash', ['bash', '--norc', '-i'])"
        folders = {f"XDG_{name}_HOME": f"{home}/{name.lower()}" for name in ("CONFIG", "CACHE", "STATE")}
        with Terminal(
            "-c",
            start,
            data=Path(home) / "data",
            columns=columns,
            lines=40,
            HOME=home,
            PS1="$ ",
            PATH=f"{binary}:{os.environ['PATH']}",
            PYTHONPATH=str(ROOT),
            **folders,
        ) as terminal:
            waits(terminal, 10)
            for number, each in enumerate(HOUR, start=1):
                before = len(terminal.text.rstrip())
                terminal.send(each.keys or each.line)
                if not each.keys:
                    terminal.pump(0.3)
                    terminal.send(ENTER)
                waits(terminal, each.seconds)
                shown = terminal.text[max(0, before - columns) :]
                below = shown.replace(each.line, "", 1)
                joined = below.replace("\n", "")  # a long line of an error is broken by the terminal
                if not (re.search(each.expects, below) or re.search(each.expects, joined)) or any(
                    word in below for word in BROKEN
                ):
                    missing.append(f"{number}: {each.line}: {each.expects!r} is not in: {below[-600:]!r}")
                if not terminal.child.isalive():
                    break
            else:
                missing.append("the shell did not end")
            transcript.write_text(terminal.text, encoding="utf-8")
    return missing


def waits(terminal: Terminal, seconds: float) -> None:
    """Wait until the program has been quiet for a moment and the cursor stands behind a prompt, or has ended."""
    end = time.monotonic() + seconds
    quiet = time.monotonic()
    while time.monotonic() < end and terminal.child.isalive():
        size = len(terminal.raw)
        terminal.pump(0.1)
        if len(terminal.raw) != size:
            quiet = time.monotonic()
        row = terminal.screen.display[terminal.screen.cursor.y][: terminal.screen.cursor.x]
        if time.monotonic() - quiet > 0.5 and PROMPTS.search(row):
            return


if __name__ == "__main__":
    sys.exit(main())
