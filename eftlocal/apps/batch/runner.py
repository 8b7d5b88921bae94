"""A run from its first check to its summary: read, work, write in order; the same for answers and for scores."""

import json
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from threading import Event
from typing import Final, NamedTuple

from eftlocal.apps.batch.ahead import ahead
from eftlocal.apps.batch.options import OnError, Options
from eftlocal.apps.batch.output import Earlier, Output
from eftlocal.apps.batch.progress import Report
from eftlocal.apps.batch.reader import Source
from eftlocal.apps.batch.records import Form, LineError, Record, carried, line_of
from eftlocal.apps.batch.work import Finished, Item, Work
from eftlocal.apps.common import INTERRUPTED, interruptible
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError, SettingError

__all__ = ["run"]

# Answers that may wait for a slower one before them. When it is reached no prompt is begun until that one has ended:
# many times what any machine decodes at once, so that this happens only to an answer of extraordinary length.
WAITING: Final = 256

ANOTHER: Final = "Name another file, or start this one anew with --overwrite."


def run(
    load: Callable[[], Emulator], begin: Callable[[Emulator, int, int | None], Work], form: Form, options: Options
) -> int:
    """Do what is left to do. Returns the exit code: 0, 1 where a line failed, 130 interrupted.

    begin: the work with an emulator, the seed for those lines that have none of their own, and how many lines are to be
    written at most (None: not known).

    A file is read once before anything is loaded: a bad line is told now, and not when its turn comes.
    """
    source = Source.of(options.source, options.format)
    with Output(options.target) as output:
        if output.is_same_file(options.source):
            raise SettingError("The output is the input's file.", "Name another file: -o FILE.")
        earlier = Earlier() if options.overwrite else output.scan()
        total = _read_ahead(source, form, earlier, output, options.on_error) if source.rereadable else None
        done = sum(samples.bit_count() for _, samples in earlier.done.values())
        with load() as emulator:
            drawn = secrets.randbits(32) if earlier.seed is None else earlier.seed
            seed = drawn if emulator.settings.seed is None else emulator.settings.seed
            work = begin(emulator, seed, None if total is None else total - done)
            _must_be_alike(earlier, work, form, output)
            output.start(overwrite=options.overwrite)
            report = Report(
                total,
                earlier=done,
                failed=earlier.failed,
                quiet=options.quiet,
                unit=work.unit,
                shown=not output.is_terminal,
            )
            batch = _Batch(source, form, earlier, output, report, options)
            try:
                with report, interruptible() as stop:
                    whole = batch.run(work, stop)
            except BrokenPipeError:
                raise  # and nothing more is said
            except BaseException:
                report.summary()
                raise
            report.summary()
    return INTERRUPTED if not whole else 1 if report.failed else 0


def _read_ahead(source: Source, form: Form, earlier: Earlier, output: Output, on_error: OnError) -> int:
    """How many lines the output will have. Raises what a later reading would, and EftError for an edited input."""
    total = known = 0
    for record in source.records(form):
        if isinstance(record, LineError) and on_error == "stop" and not earlier.has(record.line):
            raise record
        _must_be_unedited(record, source, earlier, output)
        known += record.line in earlier.done
        total += record.samples if isinstance(record, Record) else 1
    if known < len(earlier.done):
        raise EftError(f"{output.name} has lines that {source.name} does not have.", ANOTHER)
    return total


def _must_be_unedited(record: Record | LineError, source: Source, earlier: Earlier, output: Output) -> None:
    digest, _ = earlier.done.get(record.line, (record.digest, 0))
    if digest != record.digest:
        raise EftError(f"{source.name}:{record.line}: was edited since {output.name} was written.", ANOTHER)


def _must_be_alike(earlier: Earlier, work: Work, form: Form, output: Output) -> None:
    """EftError where this run would not have written the first line that the output has.

    (The others follow: every run that continued the output was compared with that line too.)
    """
    if earlier.first is None:
        return
    record = form.record(0, carried(earlier.first))
    new = json.loads(json.dumps(work.origin(record if isinstance(record, Record) else None)))
    differences = [
        f"{name} {_shown(old)}, this run has {_shown(now)}"
        for part in ("emulator", "models", "settings")
        for name, old, now in _differing(part, earlier.first[part], new[part])
    ]
    if differences:
        more = f" (and {len(differences) - 2} more differences)" if len(differences) > 2 else ""
        raise EftError(f"{output.name} was made with {'; with '.join(differences[:2])}{more}.", ANOTHER)


def _differing(name: str, old: object, new: object) -> Iterator[tuple[str, object, object]]:
    """(name, old, new) of the values that differ, inside of objects too."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            inside = key if name in ("settings", "models") else f"{name} {key}"
            yield from _differing(inside, old.get(key), new.get(key))
    elif old != new:
        yield name, old, new


def _shown(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Written(NamedTuple):
    """A line that waits to be written, with what is counted when it is."""

    line: bytes
    tokens: int
    reason: str | None
    error: LineError | None


class _Batch:
    """The items of one run on their way from the input to the output."""

    def __init__(
        self, source: Source, form: Form, earlier: Earlier, output: Output, report: Report, options: Options
    ) -> None:
        self._source, self._form, self._earlier = source, form, earlier
        self._output, self._report, self._options = output, report, options
        self._waiting: dict[int, _Written] = {}  # by place: what has ended before something in front of it
        self._begun = self._ended = self._written = 0  # items
        self._all_begun = self._failed = False

    def run(self, work: Work, stop: Event) -> bool:
        """Whether everything was done; False where `stop` was set before. Raises LineError where one is to stop it."""
        with closing(self._records()) as records:
            todo = self._todo(records)
            # Where too much waits for one answer, a round ends, and the next begins when that answer is there.
            while not (self._all_begun or self._failed or stop.is_set()):
                with closing(work.do(self._round(todo, work), stop.is_set)) as finished:
                    for one in finished:
                        self._take(one, work)
        return self._all_begun and self._ended == self._begun

    def _records(self) -> Generator[Record | LineError | None, None, None]:
        """Every line, and None where the next one is waited for: a file has all of them, a pipe may not."""
        records = self._source.records(self._form)
        return ahead(records) if self._source.waits else records

    def _todo(self, records: Iterable[Record | LineError | None]) -> Iterator[Item | LineError | None]:
        for record in records:
            if record is None:
                yield None
                continue
            _must_be_unedited(record, self._source, self._earlier, self._output)
            if isinstance(record, LineError):
                if not self._earlier.has(record.line):
                    yield record
                continue
            for sample in range(record.samples):
                if not self._earlier.has(record.line, sample):
                    yield Item(self._begun, record, sample)

    def _round(self, todo: Iterator[Item | LineError | None], work: Work) -> Iterator[Item | None]:
        while len(self._waiting) < WAITING and not self._failed:
            try:
                item = next(todo)
            except StopIteration:
                self._all_begun = True
                return
            if item is None:
                yield None
                continue
            place = self._begun
            self._begun += 1
            if isinstance(item, LineError):
                self._end(place, _Written(self._error_line(item, None, item.problem, work), 0, None, item))
            else:
                yield item

    def _take(self, one: Finished, work: Work) -> None:
        place, record, sample = one.item
        numbered = sample if record.samples > 1 else None
        if isinstance(one.result, EftError):
            line = self._error_line(record, numbered, one.result.message, work)
            error = LineError(
                self._form.where,
                record.line,
                one.result.message,
                digest=record.digest,
                fields=record.fields,
                hint=one.result.hint,
            )
            self._end(place, _Written(line, 0, None, error))
        else:
            line = line_of(record, numbered, {**one.result, **work.origin(record)})
            self._end(place, _Written(line, one.tokens, one.reason, None))

    def _error_line(self, record: Record | LineError, sample: int | None, problem: str, work: Work) -> bytes:
        origin = work.origin(record if isinstance(record, Record) else None)
        return line_of(record, sample, {"error": problem, **origin})

    def _end(self, place: int, written: _Written) -> None:
        """An item has ended: write it and what waited for it."""
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
