"""The options of an evaluation."""

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eftlocal.decoding.settings import Dials
from eftlocal.errors import SettingError
from eftlocal.runs.runner import OnError
from eftlocal.runtime.llama.context import MAX_SEQUENCES

__all__ = ["ITEMS", "REPORT", "RESULTS", "UNSEEN", "Options"]

ITEMS: Final = "items.jsonl"
RESULTS: Final = "results.json"
REPORT: Final = "report.html"
UNSEEN: Final = "unseen-tokens.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of an evaluation. Raises SettingError for a value out of its range.

    data       files, or `demo`
    folder     where items, results and the report are written; None keeps nothing
    betas      strengths of the emulator; None is evaluation.columns.BETAS
    roles      the roles to measure; None is all
    limit      items of each file, drawn with `seed`; None is all
    seed       of what is drawn: the items, the halves that choose and judge, the intervals' samples
    calibrate  fit strengths and biases on half of the items, and judge them on the others
    seen       files of the examples that the tuned model was trained on, for the calibration
    max_tokens of an answer; None is the item's own, or 256
    answers    other settings of the answers
    parallel   answers at a time; None is what suits this machine
    on_error   "stop" ends the run at a line that cannot be used; "skip" leaves it out
    overwrite  measure again what the folder has already
    quiet      show no progress
    as_json    print the results as JSON instead of a table
    date       the date that chat templates see; None is the folder's own, and today for a new one
    """

    data: tuple[str, ...]
    folder: Path | None = None
    betas: tuple[float, ...] | None = None
    roles: tuple[str, ...] | None = None
    limit: int | None = None
    seed: int = 0
    calibrate: bool = False
    seen: tuple[str, ...] = ()
    max_tokens: int | None = None
    answers: Dials = field(default_factory=lambda: Dials())
    parallel: int | None = None
    on_error: OnError = "stop"
    overwrite: bool = False
    quiet: bool = False
    as_json: bool = False
    date: datetime.date | None = None

    def __post_init__(self) -> None:
        if self.seen and not self.calibrate:
            raise SettingError("--seen names data for a calibration.", "Add --calibrate.")
        if self.seen and self.folder is None:
            raise SettingError("--seen makes a file of tokens, which models.toml names.", "Say where: -o FOLDER.")
        if both := [name for name in self.seen if name in self.data]:
            hint = "Measure other items: those that were trained on say little about new ones."
            raise SettingError(f"{both[0]} is measured, and named as what was trained on.", hint)
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit is {self.limit}; it must be at least 1.")
        if self.parallel is not None and not 1 <= self.parallel <= MAX_SEQUENCES:
            raise SettingError(f"parallel is {self.parallel}; it must be between 1 and {MAX_SEQUENCES}.")
