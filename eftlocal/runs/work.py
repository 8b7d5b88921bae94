"""What a run reads, and what it does with it: the values between its loop (runner.py) and an app."""

from collections.abc import Generator, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from eftlocal.errors import EftError
from eftlocal.runs.lines import LineError

__all__ = ["Finished", "Input", "Item", "Record", "Work"]


class Record(Protocol):
    """One record of an input: `samples` lines of the output are made of it.

    line    its number in the input, from 1
    digest  a hash of its fields, to see whether they changed since an earlier run
    fields  its fields, for an error
    """

    @property
    def line(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def fields(self) -> Mapping[str, object]: ...


R = TypeVar("R", bound=Record)


class Item(NamedTuple, Generic[R]):
    """One line of the output to make. `place` numbers all items, from 0, in the order of the input."""

    place: int
    record: R
    sample: int


class Finished(NamedTuple, Generic[R]):
    """An item that has ended.

    result  the run's own fields of its line, or the error
    tokens  how many tokens were generated or scored
    reason  the finish reason of its answer; None for an error or a score
    """

    item: Item[R]
    result: Mapping[str, object] | EftError
    tokens: int = 0
    reason: str | None = None


class Input(Protocol[R]):
    """What a run reads.

    name        for errors
    paths       the files that it is read from; the output must be none of them
    rereadable  whether it is read once before the run, so that mistakes are reported at the start
    waits       whether records may still have to come, as from a pipe
    """

    @property
    def name(self) -> str: ...
    @property
    def paths(self) -> tuple[str, ...]: ...
    @property
    def rereadable(self) -> bool: ...
    @property
    def waits(self) -> bool: ...

    def records(self) -> Generator[R | LineError, None, None]:
        """Its records in order, and an error in the place of each that cannot be used."""
        ...

    def place(self, line: int) -> str:
        """Where the record of this number stands, for errors."""
        ...

    def line(self, record: R | LineError, sample: int | None, own: Mapping[str, object]) -> bytes:
        """A line of the output: the record's number, its fields, and the run's `own`. It begins with `{"index": `."""
        ...

    def read_back(self, line: Mapping[str, object]) -> R | LineError:
        """The record of a line of the output."""
        ...


class Work(Protocol[R]):
    """What a run does with its items. Add items while there is room; they end in any order."""

    @property
    def unit(self) -> str:
        """What one line is called: "answer", "score"."""
        ...

    @property
    def room(self) -> int:
        """How many more items can be added now."""
        ...

    def __len__(self) -> int:
        """How many items have not ended yet."""
        ...

    def origin(self, record: R | None) -> dict[str, object]:
        """The fields that say how a line is made: settings, emulator, models. None is a record without own settings."""
        ...

    def add(self, item: Item[R]) -> Finished[R] | None:
        """Begin an item. Returns it at once, with its error, if it cannot begin; else None."""
        ...

    def step(self) -> list[Finished[R]]:
        """Run one step for all items. Returns those that finished; cancelled items are not returned."""
        ...

    def cancel(self) -> None:
        """Cancel all items."""
        ...

    def close(self) -> None:
        """Drop all items that have not ended."""
        ...
