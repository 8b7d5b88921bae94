"""Judges answers by a data file's patterns in another process, which can be ended: a pattern may search for ever.

`(a+)+$` takes twice as long for each letter more. Python's `re` knows no limit of time, and holds all threads until
it is done. Other checks are done in this process.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, cast

from eftlocal.decoding.constraints.schema import patterns
from eftlocal.errors import EftError
from eftlocal.evaluation.checks import right
from eftlocal.evaluation.ifeval import Instructions
from eftlocal.evaluation.items import Check

__all__ = ["Judge", "main"]

# The child imports from the same places as this process, and nothing from the folder that it happens to run in.
CODE: Final = """import sys; sys.path[:] = sys.argv[1:]
from eftlocal.evaluation.judge import main; main()"""
SECONDS: Final = 5.0  # that a check may take; one takes less than a thousandth
START_S: Final = 60.0  # that the child may take to start, on a busy machine
CHOICES: Final = "*+?{|"  # what gives a pattern more than one way to match
KEYWORDS: Final = ("keyword", "keywords", "forbidden_words")  # of IFEval, which searches for them as patterns
SHOWN: Final = 60  # characters of a pattern


class Judge:
    """Judges answers. It holds a process as soon as a check has a pattern: close it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """`seconds` is the most that a check may take."""
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    def right(self, check: Check, answers: Sequence[str], text: str) -> bool:
        """As `checks.right`. Raises EftError for a pattern that takes too long, too."""
        found = [pattern for pattern in _patterns(check) if any(mark in pattern for mark in CHOICES)]
        if not found or not self._runs():
            return right(check, answers, text)
        told = self._asked({"check": check.to_json(), "answers": list(answers), "text": text}, self._seconds)
        if told is None:
            self.close()
            what = f"the pattern {found[0][:SHOWN]!r}" if len(found) == 1 else "a pattern"
            raise EftError(
                f"check {check.name}: {what} was not done with an answer after {self._seconds:g} seconds",
                "Write it without a repetition in a repetition, as in (a+)+.",
            )
        if "error" in told:
            raise EftError(str(told["error"]), cast(str | None, told["hint"]))
        return bool(told["right"])

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # something was not written yet
                    if pipe is not None:
                        pipe.close()

    def _runs(self) -> bool:
        """Whether the child runs; it is started if it does not. False where no process can be started."""
        if self._child is None:
            with suppress(OSError):
                self._child = subprocess.Popen(  # in a session of its own: Ctrl-C in the terminal is for this process
                    [sys.executable, "-c", CODE, *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                if self._asked({}, START_S) is None:
                    self.close()
        return self._child is not None

    def _asked(self, question: Mapping[str, object], seconds: float) -> Mapping[str, object] | None:
        """The child's answer; None where it gives none in time, or has ended."""
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        timer = threading.Timer(seconds, child.kill)  # a pipe cannot be waited for with a limit on every system
        timer.start()
        try:
            child.stdin.write(json.dumps(question).encode() + b"\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            return None
        except BaseException:  # Ctrl-C: the answer would be taken for that of the next question
            self.close()
            raise
        finally:
            timer.cancel()
        found: Mapping[str, object] | None = json.loads(line) if line.endswith(b"\n") else None
        return found


def _patterns(check: Check) -> list[str]:
    """The patterns of a data file that a check searches for."""
    match check.name:
        case "regex":
            return [str(check.value)]
        case "json-schema":
            return [pattern for _, pattern in patterns(check.value)]
        case "ifeval":  # its keywords are patterns, too
            arguments = cast(Instructions, check.value)["kwargs"]
            return [word for one in arguments for name in KEYWORDS for word in _words(one.get(name))]
        case _:
            return []


def _words(value: object) -> list[str]:
    return [str(word) for word in (value if isinstance(value, list) else [value]) if word is not None]


def main() -> None:
    """The child: judges each line of standard input, and ends with it."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a check prints
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        told: dict[str, object] = {}
        if asked:
            try:
                told["right"] = right(Check(**asked["check"]), asked["answers"], asked["text"])
            except EftError as error:
                told = {"error": error.message, "hint": error.hint}
        out.write(json.dumps(told).encode() + b"\n")
        out.flush()
