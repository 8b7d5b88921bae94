"""A run from its first check to its summary: reads records, works on them, and writes lines in order."""

import datetime
import json
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import date
from typing import Final, Generic, Literal, NamedTuple, Protocol

from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError, SettingError
from eftlocal.interrupt import INTERRUPTED, Asked, before_leaving
from eftlocal.runs.arriving import Lines, lines
from eftlocal.runs.ctrl_c import interruptible
from eftlocal.runs.lines import LineError
from eftlocal.runs.output import Earlier, Output
from eftlocal.runs.progress import Report
from eftlocal.runs.work import Finished, Input, Item, R, Work
from eftlocal.runtime.remote.troubles import told

__all__ = ["OnError", "Wanted", "run"]

OnError = Literal["stop", "skip"]

# The most finished lines that may wait for a slower one before them. At this number, no item begins until that one has
# ended. It is many times what any machine decodes at once, so only an extremely long answer makes a run wait.
WAITING: Final = 256

ANOTHER: Final = "Name another output, or start this one again with --overwrite."


class Wanted(Protocol):
    """The options of a run.

    target     the output file; `-` is standard output
    on_error   "stop" ends the run at a record that cannot be used; "skip" writes a line with `error` instead
    overwrite  delete the lines that the output has already; else continue after them
    ordered    write lines in the order of the input; else as they finish
    quiet      show no progress and no summary
    date       the date that chat templates see; None is the output's own, and today for a new output
    """

    @property
    def target(self) -> str: ...
    @property
    def on_error(self) -> OnError: ...
    @property
    def overwrite(self) -> bool: ...
    @property
    def ordered(self) -> bool: ...
    @property
    def quiet(self) -> bool: ...
    @property
    def date(self) -> datetime.date | None: ...


def run(
    load: Callable[[datetime.date], Emulator],
    begin: Callable[[Emulator, int, int | None], Work[R]],
    source: Input[R],
    options: Wanted,
    after: Callable[[Emulator], None] = lambda _: None,
) -> int:
    """Make the lines that the output does not have yet. Returns 0, 1 if a line failed, or 130 if interrupted.

    `begin(emulator, seed, left)` makes the work: `seed` is for lines without their own seed, and `left` is the most
    lines that will be written, or None if this is not known.

    `load(date)` loads the emulator. A continued output keeps its date, so that all its lines have the same prompts.
    `after` is called with it when all lines are written.

    A regular file is read once before any model is loaded, so that a bad line is reported first. Raises EftError.
    """
    with Output(options.target) as output, before_leaving(output.withdraw):
        if any(output.is_same_file(path) for path in source.paths):
            raise SettingError("The output file is the input file.", "Name another output file: -o FILE.")
        earlier = Earlier() if options.overwrite else output.scan()
        total = _read_ahead(source, earlier, output, options.on_error) if source.rereadable else None
        done = sum(samples.bit_count() for _, samples in earlier.done.values())
        with load(options.date or earlier.date or date.today()) as emulator:
            drawn = secrets.randbits(32) if earlier.seed is None else earlier.seed
            seed = drawn if emulator.settings.seed is None else emulator.settings.seed
            work = begin(emulator, seed, None if total is None else total - done)
            _must_be_alike(earlier, work, source, output)
            output.start(overwrite=options.overwrite)
            report = Report(
                total,
                earlier=done,
                failed=earlier.failed,
                quiet=options.quiet,
                unit=work.unit,
                shown=not output.is_terminal,
            )
            batch = _Run(source, earlier, output, report, options)
            records = lines(source.records(), waits=source.waits)
            try:
                with ExitStack() as held:
                    held.enter_context(report)
                    held.enter_context(told(report.trouble))
                    taken = held.enter_context(closing(records))
                    stop = held.enter_context(interruptible(taken.wake))
                    held.enter_context(closing(work))
                    whole = batch.run(taken, work, stop)
            except BrokenPipeError:
                raise  # without a summary
            except BaseException:
                report.summary()
                raise
            report.summary()
            if whole:
                after(emulator)
    return INTERRUPTED if not whole else 1 if report.failed else 0


def _read_ahead(source: Input[R], earlier: Earlier, output: Output, on_error: OnError) -> int:
    """How many lines the output will have. Raises EftError for a bad line, and for an input that has changed."""
    total = known = 0
    for record in source.records():
        if isinstance(record, LineError) and on_error == "stop" and not earlier.has(record.line):
            raise record
        _must_be_unedited(record, source, earlier, output)
        known += record.line in earlier.done
        total += 1 if isinstance(record, LineError) else record.samples
    if known < len(earlier.done):
        raise EftError(f"{output.name} has lines that {source.name} does not have.", ANOTHER)
    return total


def _must_be_unedited(record: R | LineError, source: Input[R], earlier: Earlier, output: Output) -> None:
    digest, _ = earlier.done.get(record.line, (record.digest, 0))
    if digest != record.digest:
        raise EftError(f"{source.place(record.line)}: was edited since {output.name} was written.", ANOTHER)


def _must_be_alike(earlier: Earlier, work: Work[R], source: Input[R], output: Output) -> None:
    """Raises EftError if this run would write the output's first line with other settings or models.

    The first line is enough: each run that continued the output was compared with it, too.
    """
    if earlier.first is None:
        return
    record = source.read_back(earlier.first)
    new = json.loads(json.dumps(work.origin(None if isinstance(record, LineError) else record)))
    differences = [
        f"{name} {_shown(old)}, this run has {_shown(now)}"
        for part in ("emulator", "models", "settings")
        for name, old, now in _differing(part, earlier.first[part], new[part])
    ]
    if differences:
        more = f" (and {len(differences) - 2} more differences)" if len(differences) > 2 else ""
        raise EftError(f"{output.name} was made with {'; with '.join(differences[:2])}{more}.", ANOTHER)


def _differing(name: str, old: object, new: object) -> Iterator[tuple[str, object, object]]:
    """Yields (name, old, new) for values that differ, also inside objects.

    What an older release did not note of a server, such as the size of its weights, is not a difference.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        on_server = "url" in old and "url" in new
        for key in old if on_server else dict.fromkeys((*old, *new)):
            inside = key if name in ("settings", "models") else f"{name} {key}"
            yield from _differing(inside, old.get(key), new.get(key))
    elif old != new:
        yield name, old, new


def _shown(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Written(NamedTuple):
    """A line that is ready to be written, with what `Report` counts."""

    line: bytes
    tokens: int
    reason: str | None
    error: EftError | None


class _Run(Generic[R]):
    """Takes the items of one run from the input to the output."""

    def __init__(self, source: Input[R], earlier: Earlier, output: Output, report: Report, options: Wanted) -> None:
        self._source, self._earlier = source, earlier
        self._output, self._report, self._options = output, report, options
        self._items: deque[Item[R]] = deque()  # items of the last line that have not begun
        self._waiting: dict[int, _Written] = {}  # place -> line that waits for those before it
        self._begun = self._ended = self._written = 0  # numbers of items
        self._failed = False
        self._unread: EftError | None = None  # why the rest of the input cannot be read

    def run(self, lines: Lines[R | LineError], work: Work[R], stop: Asked) -> bool:
        """Run to the end. Returns False if `stop` was set before. Raises EftError if a failed line ends the run.

        Ctrl-C on a terminal ends the program before a pipe, too: then the pipe's end is not the input's end.
        """
        while True:
            if stop.is_set():
                work.cancel()
            else:
                self._begin(lines, work, stop)
            if not len(work):
                if self._unread is not None:
                    raise self._unread
                cut = stop.is_set() and self._source.waits
                return lines.ended and not cut and not self._items and self._ended == self._begun
            for finished in work.step():
                self._take(finished, work)

    def _begin(self, lines: Lines[R | LineError], work: Work[R], stop: Asked) -> None:
        """Begin items while there is room. If nothing runs, wait for the next line."""
        while work.room > 0 and len(self._waiting) < WAITING and self._unread is None:
            if self._failed or stop.is_set():
                return
            if not self._items:
                try:
                    line = lines.take(wait=not len(work))
                except EftError as error:  # what was read before is answered first
                    self._unread = error
                    return
                if line is None:
                    return
                self._open(line, work)
            elif (refused := work.add(self._items.popleft())) is not None:
                self._take(refused, work)

    def _open(self, line: R | LineError, work: Work[R]) -> None:
        """Make the items of a line, without those that the output has already."""
        _must_be_unedited(line, self._source, self._earlier, self._output)
        if not isinstance(line, LineError):
            samples = (sample for sample in range(line.samples) if not self._earlier.has(line.line, sample))
            self._items.extend(Item(self._place(), line, sample) for sample in samples)
        elif not self._earlier.has(line.line):
            self._end(self._place(), _Written(self._error_line(line, None, line.problem, work), 0, None, line))

    def _place(self) -> int:
        self._begun += 1
        return self._begun - 1

    def _take(self, one: Finished[R], work: Work[R]) -> None:
        place, record, sample = one.item
        numbered = sample if record.samples > 1 else None
        if isinstance(one.result, EftError):
            line = self._error_line(record, numbered, one.result.message, work)
            error = EftError(f"{self._source.place(record.line)}: {one.result.message}", one.result.hint)
            self._end(place, _Written(line, 0, None, error))
        else:
            line = self._source.line(record, numbered, {**one.result, **work.origin(record)})
            self._end(place, _Written(line, one.tokens, one.reason, None))

    def _error_line(self, record: R | LineError, sample: int | None, problem: str, work: Work[R]) -> bytes:
        origin = work.origin(None if isinstance(record, LineError) else record)
        return self._source.line(record, sample, {"error": problem, **origin})

    def _end(self, place: int, written: _Written) -> None:
        """End an item: write its line, and the lines that waited for it."""
        self._ended += 1
        self._failed |= written.error is not None and self._options.on_error == "stop"
        if not self._options.ordered:
            self._write(written)
            return
        self._waiting[place] = written
        while (following := self._waiting.pop(self._written, None)) is not None:
            self._written += 1
            self._write(following)

    def _write(self, written: _Written) -> None:
        if written.error is not None and self._options.on_error == "stop":
            self._report.failed += 1
            raise written.error
        self._output.write(written.line)
        if written.error is not None:
            self._report.error(str(written.error))
        else:
            self._report.answered(written.tokens, written.reason)
