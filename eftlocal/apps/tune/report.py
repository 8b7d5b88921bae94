"""What a run tells while it trains and at its end: lines on stderr."""

import sys
import time
from dataclasses import dataclass, field

from eftlocal.apps.common import console
from eftlocal.text import printable
from eftlocal.training.trainer import Progress

__all__ = ["Told", "say", "span"]

EVERY_S = 1.0  # a status line on a terminal
LINES = 10  # of a run without held-out examples


def say(text: str) -> None:
    """Prints lines on stderr, wrapped between words on a terminal."""
    out = console(stderr=True)
    for line in text.split("\n"):
        out.print(printable(line))


@dataclass(slots=True)
class Told:
    """Tells steps: a line at each look at the held-out examples, and on a terminal a line that changes in between.

    what  whose held-out loss it is; empty without held-out examples
    """

    tokens_per_step: float
    what: str
    _started: float = field(default_factory=time.monotonic)
    _first: int | None = None
    _shown: float = 0.0
    _width: int = 0

    def step(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = progress.step, now
        text = f"step {progress.step} of {progress.steps}: loss {progress.loss:.3f}"
        if progress.held_out is not None:
            best = " (the best so far)" if progress.best else ""
            self._line(f"{text}, {self.what} {progress.held_out:.3f}{best}{self._rest(progress, now)}", stays=True)
        elif self._is_due(progress):
            self._line(text + self._rest(progress, now), stays=True)
        elif sys.stderr.isatty() and now - self._shown > EVERY_S:
            self._line(text + self._rest(progress, now), stays=False)
            self._shown = now

    def _is_due(self, progress: Progress) -> bool:
        """Whether a step without a look has a line of its own: where there are no looks at all, ten times."""
        n, step = min(LINES, progress.steps), progress.step
        return not self.what and step * n // progress.steps > (step - 1) * n // progress.steps

    def _rest(self, progress: Progress, now: float) -> str:
        """Speed and time left, once they are known."""
        taken = progress.step - (self._first or 0)
        if taken < 1 or now <= self._started:
            return ""
        per_step = (now - self._started) / taken
        left = per_step * (progress.steps - progress.step)
        return f", {self.tokens_per_step / per_step:.0f} tokens/s, {span(left)} left"

    def _line(self, text: str, *, stays: bool) -> None:
        if sys.stderr.isatty():
            print(f"\r{text.ljust(self._width)}", end="\n" if stays else "", file=sys.stderr, flush=True)
            self._width = 0 if stays else len(text)
        elif stays:
            print(text, file=sys.stderr, flush=True)


def span(seconds: float) -> str:
    """A duration as text: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
