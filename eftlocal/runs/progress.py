"""Reports progress on stderr: a bar in a terminal, else one line each minute, and a summary at the end."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from eftlocal.runs.ctrl_c import cursor_comes_back
from eftlocal.runtime.remote.troubles import Trouble
from eftlocal.text import printable

__all__ = ["Report"]

EVERY: Final = 60.0  # seconds between two lines if stderr is not a terminal


class Report:
    """Counts what a run has done, and shows it. Use it as a context manager: the bar disappears at the end.

    total    how many lines the output will have; None if this is not known
    earlier  how many lines it had before this run
    failed   how many of these hold an error
    unit     what one line is called: "answer" or "score"
    shown    False if the output itself goes to the terminal; then there is no bar
    """

    def __init__(
        self,
        total: int | None,
        *,
        earlier: int,
        failed: int,
        quiet: bool,
        unit: str,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failed = failed
        self.done = earlier
        self.tokens = 0
        self.reasons: Counter[str] = Counter()
        self._total, self._earlier, self._unit = total, earlier, unit
        self._quiet, self._clock = quiet, clock
        self._started = self._told = clock()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        watched = shown and not quiet and self._console.is_terminal and not self._console.is_dumb_terminal
        columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self._bar = Progress(*columns, console=self._console, transient=True) if watched else None
        self._ends = ExitStack()
        self._task = self._bar.add_task(self.line(), total=total, completed=earlier) if self._bar else None

    def answered(self, tokens: int, reason: str | None) -> None:
        """Count a line that was written: its tokens, and the finish reason of its answer."""
        self.tokens += tokens
        if reason is not None:
            self.reasons[reason] += 1
        self._advance()

    def error(self, text: str) -> None:
        """Count a line that holds an error, and print the error."""
        self.failed += 1
        self._console.print(f"eftlocal: {text}", markup=False)
        self._advance()

    def trouble(self, trouble: Trouble) -> None:
        """Print that a server does not answer, or does so again. Any thread may call this."""
        if line := printable(str(trouble)):
            self._console.print(f"eftlocal: {line}", markup=False)

    def _advance(self) -> None:
        self.done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, description=self.line())
        elif not self._quiet and self._clock() - self._told >= EVERY:
            self._told = self._clock()
            self._console.print(self.line(), markup=False)

    def line(self) -> str:
        """The progress as text: `1,200 of 10,000 answers, 153 tokens/s, 12 min left, 3 failed`."""
        elapsed, new = self._clock() - self._started, self.done - self._earlier
        parts = [self._count()]
        if elapsed > 0 and self.tokens:
            parts.append(_rate(self.tokens / elapsed))
        if self._total is not None and new and elapsed > 0 and self.done < self._total:
            parts.append(f"{_span((self._total - self.done) * elapsed / new)} left")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return ", ".join(parts)

    def summary(self) -> None:
        """Print the result of the run in one or two lines."""
        if self._quiet:
            return
        elapsed, new = self._clock() - self._started, self.done - self._earlier
        before = f" ({self._earlier:,} of them earlier)" if self._earlier else ""
        parts = [self._count() + before]
        if new:
            parts.append(f"{self.tokens:,} tokens in {_span(elapsed)}")
            parts.append(_rate(self.tokens / elapsed if elapsed > 0 else 0.0))
        parts += [f"{reason} {n:,}" for reason, n in sorted(self.reasons.items())]
        parts.append(f"failed {self.failed:,}")
        self._console.print(", ".join(parts), markup=False)

    def _count(self) -> str:
        of = f" of {self._total:,}" if self._total not in (None, self.done) else ""
        return f"{self.done:,}{of} {self._unit}{'' if not of and self.done == 1 else 's'}"

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._ends.enter_context(cursor_comes_back(self._console))
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._ends.close()


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 10 else f"{tokens_per_s:.1f} tokens/s"


def _span(seconds: float) -> str:
    """A duration as text: 45 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
