"""The input of a run over a file: its lines as records, and records as lines of the output."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from eftlocal.apps.batch.options import Options
from eftlocal.apps.batch.records import Form, Record, carried, line_of
from eftlocal.runs.lines import LineError
from eftlocal.runs.reader import Source

__all__ = ["Prompts"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """A source and the form of its lines, as the runner reads them (runs.work.Input)."""

    source: Source
    form: Form

    @classmethod
    def of(cls, form: Form, options: Options) -> "Prompts":
        """The input that the options name. Raises EftError if it cannot be read."""
        hint = "Name it .jsonl, .csv or .txt, or give --format."
        return cls(Source.of(options.source, options.format, hint=hint), form)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.source.path,)

    @property
    def rereadable(self) -> bool:
        return self.source.rereadable

    @property
    def waits(self) -> bool:
        return self.source.waits

    def records(self) -> Generator[Record | LineError, None, None]:
        return self.source.records(self.form)

    def place(self, line: int) -> str:
        return f"{self.name}:{line}"

    def line(self, record: Record | LineError, sample: int | None, own: Mapping[str, object]) -> bytes:
        return line_of(record, sample, own)

    def read_back(self, line: Mapping[str, object]) -> Record | LineError:
        return self.form.record(0, carried(line))
