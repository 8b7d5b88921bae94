"""What a run over a file is asked to do."""

from dataclasses import dataclass
from typing import Literal

from eftlocal.apps.batch.reader import name_of
from eftlocal.apps.batch.records import MAX_SAMPLES, Form
from eftlocal.errors import SettingError
from eftlocal.runtime.llama.context import MAX_SEQUENCES

__all__ = ["OnError", "Options"]

OnError = Literal["stop", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A run's input, output and manner; SettingError where it cannot be so.

    source, target  files; `-` is standard input, and output
    format          jsonl, csv or text; None: by the file's name, or by what standard input begins with
    on_error        a line that cannot be worked on ends the run ("stop"), or becomes a line with `error` ("skip")
    overwrite       start anew where the output has lines already, else go on behind them
    system          the system text of the lines that have none; raw: prompts are given as they are
    quiet           no progress, and no summary

    Of answers alone:
    samples         answers to each prompt, where the line says no `n` of its own
    parallel        prompts that are decoded at once; None: what suits the machine
    ordered         lines come out in the input's order; else as they finish

    Of scores alone:
    tokens          also token by token
    """

    source: str
    target: str
    format: str | None = None
    on_error: OnError = "stop"
    overwrite: bool = False
    system: str | None = None
    raw: bool = False
    quiet: bool = False
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
            raise SettingError("A raw prompt has no system text.", "Leave --system or --raw out.")

    def form(self, *, scored: bool) -> Form:
        """How the input's lines are read."""
        return Form(where=name_of(self.source), system=self.system, raw=self.raw, samples=self.samples, scored=scored)
