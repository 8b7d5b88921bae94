"""The command's lines on stderr: what a run tells while it trains and at its end."""

import sys
import time
from dataclasses import dataclass, field

from eftlocal.apps.common import console, span
from eftlocal.apps.tune.data import WrongLinesError
from eftlocal.apps.tune.progress import TuneProgress
from eftlocal.text import printable

__all__ = ["Told", "say", "wrong_lines"]

EVERY_S = 1.0  # a status line on a terminal
LINE_S = 10.0  # and a line in a file, where it is not of a step
PASSING = {"logits": "token ", "trial": "rate ", "judging": "answer "}  # what is counted
LINES = 10  # of a training without held-out examples
PROBLEMS = 20  # so many wrong lines are shown


def say(text: str) -> None:
    """Prints lines on stderr, wrapped between words on a terminal."""
    out = console(stderr=True)
    for line in text.split("\n"):
        out.print(printable(line))


def wrong_lines(error: WrongLinesError) -> None:
    """Prints the lines of the data that are wrong."""
    for problem in error.problems[:PROBLEMS]:
        say(f"eftlocal: {problem}")
    n = len(error.problems) - PROBLEMS
    more = f" ({n:,} more are not shown)" if n > 0 else ""
    say(f"eftlocal: {error.message.removesuffix('.')}{more}")


@dataclass(slots=True)
class Told:
    """Tells a run: its texts, a line at each look at the held-out examples, and a status line on a terminal."""

    _shown: float = field(default_factory=time.monotonic)
    _looked: bool = False
    _width: int = 0

    def __call__(self, progress: TuneProgress) -> None:
        if progress.text:
            self._clear()
            say(progress.text)
        elif progress.phase == "training":
            self._step(progress)
        else:
            self._passing(progress)

    def _step(self, progress: TuneProgress) -> None:
        text = f"step {progress.done} of {progress.total}: loss {progress.loss:.3f}"
        if progress.held_out is not None:
            self._looked = True
            whose = "held out" if progress.small is None else "held out, emulated"
            text += f", {whose} {progress.held_out:.3f}"
            text += "" if progress.small is None else f", small alone {progress.small:.3f}"
            self._line(text + (" (the best so far)" if progress.best else "") + _rest(progress), stays=True)
        elif self._is_due(progress):
            self._line(text + _rest(progress), stays=True)
        else:
            self._status(text + _rest(progress))

    def _is_due(self, progress: TuneProgress) -> bool:
        """Whether a step without a look has a line of its own: where there are no looks at all, ten times."""
        n, step = min(LINES, progress.total), progress.done
        return not self._looked and step * n // progress.total > (step - 1) * n // progress.total

    def _passing(self, progress: TuneProgress) -> None:
        text = f"  {PASSING.get(progress.phase, '')}{progress.done:,} of {progress.total:,}{_rest(progress)}"
        if progress.done >= progress.total:
            self._clear()
        elif sys.stderr.isatty():
            self._status(text)
        elif time.monotonic() - self._shown > LINE_S:
            self._line(text, stays=True)
            self._shown = time.monotonic()

    def _status(self, text: str) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._shown > EVERY_S:
            self._line(text, stays=False)
            self._shown = time.monotonic()

    def _line(self, text: str, *, stays: bool) -> None:
        if stays:
            self._clear()
            say(text)
        elif sys.stderr.isatty():
            text = text[: max(1, console(stderr=True).width - 1)]  # a longer one would stay as a line
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def _clear(self) -> None:
        """Makes room for a text where a status line stands."""
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
            self._width = 0


def _rest(progress: TuneProgress) -> str:
    """Speed and time left, once they are known."""
    speed = "" if progress.tokens_per_s is None else f", {progress.tokens_per_s:.0f} tokens/s"
    return speed + ("" if progress.left_s is None else f", {span(progress.left_s)} left")
