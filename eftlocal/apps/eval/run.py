"""An evaluation from its data to what is shown: reads items, measures what is missing, and tells what follows."""

import datetime
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eftlocal.apps.common import console, print_json
from eftlocal.apps.eval import table
from eftlocal.apps.eval.calibrate import calibration, examples, must_be_possible
from eftlocal.apps.eval.options import ITEMS, REPORT, RESULTS, UNSEEN, Options
from eftlocal.apps.eval.page import page
from eftlocal.apps.eval.work import Items, Work
from eftlocal.catalog.entries import Reward
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.evaluation.columns import columns
from eftlocal.evaluation.data import read
from eftlocal.evaluation.drawn import drawn
from eftlocal.evaluation.items import Question
from eftlocal.evaluation.line import Line
from eftlocal.evaluation.results import Calibrated, Evaluation
from eftlocal.evaluation.summary import summary
from eftlocal.interrupt import INTERRUPTED
from eftlocal.runs.lines import LineError
from eftlocal.runs.runner import OnError, run
from eftlocal.text import printable, wrapped

__all__ = ["evaluate"]

SHOWN = 5  # problems of the data that are told one by one


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the runner is asked for."""

    target: str
    on_error: OnError
    overwrite: bool
    quiet: bool
    date: datetime.date | None
    ordered: bool = True


def evaluate(load: Callable[[datetime.date], Emulator], options: Options) -> int:
    """Measure the items that the folder does not have yet, and tell what all of them say. Returns the exit code.

    It is 0, 1 if an item could not be measured, or 130 if interrupted. `load` gets the date that templates see. Raises
    EftError for data that cannot be read, and for a folder that another run is writing or that was made otherwise.
    All that the user named is looked at before anything is measured.
    """
    data = read(options.data)
    _tell(data.problems, options.on_error)
    seen = examples(options.seen)
    items = drawn(data.items, options.limit, options.seed)
    generates = any(isinstance(item, Question) and item.check is not None for _, item in items)
    rewards: tuple[Reward, ...] = ()

    def loaded(day: datetime.date) -> Emulator:
        nonlocal rewards
        emulator = load(day)
        rewards = emulator.rewards
        return emulator

    def begin(emulator: Emulator, *_: object) -> Work:
        if options.calibrate:
            must_be_possible(emulator, [item for _, item in items])
        return Work(
            emulator,
            columns(emulator.members, roles=options.roles, betas=options.betas),
            seed=options.seed,
            max_tokens=options.max_tokens,
            answers=options.answers,
            parallel=options.parallel,
            generates=generates,
        )

    found: Calibrated | None = None

    def after(emulator: Emulator) -> None:
        nonlocal found
        if options.calibrate:
            found = calibration(emulator, [item for _, item in items], seen, options, options.folder)

    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(TemporaryDirectory(prefix="eftlocal-eval-")))
        target = _folder(folder) / ITEMS
        wanted = _Wanted(str(target), options.on_error, options.overwrite, options.quiet, options.date)
        name = "the data" if options.limit is None else f"the data with --limit {options.limit}"
        code = run(loaded, begin, Items(items, name, options.data), wanted, after)
        if code == INTERRUPTED:
            if options.folder is not None and not options.quiet:
                print("Run the same command again to continue.", file=sys.stderr)
            return code
        evaluation, lines = _told(_records(target), rewards, options, found)
        if options.folder is not None:
            _write(options.folder / RESULTS, json.dumps(evaluation.to_json(), indent=1, ensure_ascii=False) + "\n")
            _write(options.folder / REPORT, page(evaluation, lines))
    if options.as_json:
        print_json(evaluation.to_json())
    else:
        out = console()
        out.print(table.drawn(evaluation, out.width if out.is_terminal else None), end="", soft_wrap=True)
        print(wrapped(_files(options.folder), sys.stdout))
    return code


def _tell(problems: Sequence[LineError], on_error: OnError) -> None:
    """Tell which lines cannot be used. Raises the first one where that ends the run."""
    if not problems:
        return
    if on_error == "stop":
        first, more = problems[0], len(problems) - 1
        lines = "line" if more == 1 else "lines"
        hint = [
            first.hint or "",
            f"{more:,} more {lines} cannot be used; --on-error skip leaves them out." if more else "",
        ]
        raise EftError(first.message, " ".join(filter(None, hint)) or "--on-error skip leaves it out.")
    for problem in problems[:SHOWN]:
        print(f"eftlocal: {printable(problem.message)}: left out", file=sys.stderr)
    if len(problems) > SHOWN:
        print(f"eftlocal: {len(problems) - SHOWN:,} more lines are left out", file=sys.stderr)


def _records(target: Path) -> list[dict[str, Any]]:
    """All lines of the folder as JSON, in the order of the data."""
    return sorted((json.loads(line) for line in target.read_bytes().splitlines()), key=lambda each: each["index"])


def _told(
    records: Sequence[dict[str, Any]], rewards: Sequence[Reward], options: Options, found: Calibrated | None
) -> tuple[Evaluation, list[Line]]:
    """What these lines say, with what was found by a calibration."""
    lines = [Line.from_json(record) for record in records]
    first: dict[str, Any] = records[0] if records else {"emulator": "", "settings": {}, "models": {}}
    limit = {} if options.limit is None else {"limit": options.limit}
    settings = {"data": list(options.data), "seed": options.seed, **limit, **first["settings"]}
    evaluation = summary(
        lines,
        emulator=first["emulator"],
        rewards=rewards,
        settings=settings,
        models=first["models"],
        calibration=found,
        seed=options.seed,
    )
    return evaluation, lines


def _folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "Name another folder: -o FOLDER."
        raise EftError(f"{folder} cannot be written: {error.strerror or error}.", hint) from None
    for path in (folder / RESULTS, folder / REPORT, folder / UNSEEN):  # they are written at the end
        if path.is_dir():
            raise EftError(f"{path} is a folder; a file is written there.", "Name another folder: -o FOLDER.")
    return folder


def _write(path: Path, text: str) -> None:
    """Write a file as a whole: nobody finds half of it."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="surrogatepass")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EftError(f"{path} cannot be written: {error.strerror or error}.") from None


def _files(folder: Path | None) -> str:
    if folder is None:
        return f"Nothing was kept: -o FOLDER keeps {ITEMS} and {RESULTS}, and {REPORT} for a browser."
    return f"In {printable(str(folder))}: {ITEMS}, {RESULTS}, and {REPORT} for a browser."
