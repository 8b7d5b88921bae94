"""The options of a run over a file."""

import datetime
from dataclasses import dataclass

from eftlocal.apps.batch.records import MAX_SAMPLES, Form
from eftlocal.catalog.templates import Filled
from eftlocal.errors import SettingError
from eftlocal.runs.reader import name_of
from eftlocal.runs.runner import OnError
from eftlocal.runtime.llama.context import MAX_SEQUENCES

__all__ = ["Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a run. Raises SettingError for a value out of its range, and for options that exclude each other.

    source     the input file; `-` is standard input
    target     the output file; `-` is standard output
    format     jsonl, csv or text; None decides by the file's name, or by the first characters of standard input
    on_error   "stop" ends the run at a line that cannot be used; "skip" writes a line with `error` instead
    overwrite  delete the lines that the output has already; else continue after them
    system     the system text for lines that have none
    raw        give prompts to the models unchanged, without a chat template
    template   wraps each prompt
    quiet      show no progress and no summary
    date       the date that chat templates see; None is the output's own, and today for a new output

    Only for answers:
    samples    answers to each prompt, if its line has no `n`
    parallel   prompts that are decoded at the same time; None is what suits this machine
    ordered    write lines in the order of the input; else as they finish

    Only for scores:
    tokens     write the log-probabilities of each token, too
    """

    source: str
    target: str
    format: str | None = None
    on_error: OnError = "stop"
    overwrite: bool = False
    system: str | None = None
    raw: bool = False
    template: Filled | None = None
    quiet: bool = False
    date: datetime.date | None = None
    samples: int = 1
    parallel: int | None = None
    ordered: bool = True
    tokens: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MAX_SAMPLES:
            raise SettingError(f"n is {self.samples}; it must be between 1 and {MAX_SAMPLES}.")
        if self.parallel is not None and not 1 <= self.parallel <= MAX_SEQUENCES:
            raise SettingError(f"parallel is {self.parallel}; it must be between 1 and {MAX_SEQUENCES}.")
        if self.raw and self.system is not None:
            raise SettingError("A raw prompt cannot have a system text.", "Leave out --system or --raw.")

    def form(self, *, scored: bool) -> Form:
        """How lines of the input become records."""
        return Form(
            where=name_of(self.source),
            system=self.system,
            raw=self.raw,
            template=self.template,
            samples=self.samples,
            scored=scored,
        )
