"""The output of a run: appends JSON Lines one by one, and reads what an earlier run wrote there.

A line is written completely or not at all: if a full disk or a killed process leaves a part of a line, it is cut off.
There is no other file beside the output; each line says how it was made.
"""

import contextlib
import datetime
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from eftlocal.errors import EftError
from eftlocal.runs.lock import lock

__all__ = ["Earlier", "Output", "encoded"]

STDOUT: Final = "-"
START: Final = b'{"index": '


@dataclass(slots=True)
class Earlier:
    """What an earlier run wrote to the output.

    done    line number of the input -> (digest of its fields, one bit for each sample that is written)
    first   the first line, to compare it with what this run would write
    seed    the seed that was drawn for lines without their own seed; None if there is no such line
    date    the date that chat templates saw; None if none asked for it
    failed  how many lines hold an error
    """

    done: dict[int, tuple[str, int]] = field(default_factory=dict)
    first: Mapping[str, object] | None = None
    seed: int | None = None
    date: datetime.date | None = None
    failed: int = 0

    def has(self, line: int, sample: int | None = None) -> bool:
        """Whether the output has this sample of this input line; None asks for any sample."""
        _, samples = self.done.get(line, ("", 0))
        return bool(samples if sample is None else samples >> sample & 1)


class Output:
    """The target of a run: a file, which is locked and can be continued, or a stream (`-`, a device, a named pipe).

    Use it as a context manager. Raises EftError if it cannot be written or another run is writing it.
    """

    def __init__(self, target: str) -> None:
        self.name = "<stdout>" if target == STDOUT else target
        self._path = None if target == STDOUT else Path(target)
        self._end = 0  # bytes of complete lines
        self._file, self._made = self._opened()
        self.resumable = self._path is not None and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        if self.resumable:
            try:
                lock(self._file, self.name)
            except BaseException:
                self._file.close()
                raise

    def _opened(self) -> tuple[BinaryIO, bool]:
        """The open file, and whether it was created now."""
        if self._path is None:
            if sys.stdout is None:
                raise EftError("Standard output is closed.", "Name a file: -o FILE.")
            sys.stdout.flush()
            # The raw stream has no buffer. With one, Python would try a failed write again when the process ends.
            return getattr(sys.stdout.buffer, "raw", sys.stdout.buffer), False
        try:
            try:
                return self._path.open("r+b", buffering=0), False
            except FileNotFoundError:
                return self._path.open("x+b", buffering=0), True
            except OSError:
                if stat.S_ISREG(self._path.stat().st_mode):
                    raise
                return self._path.open("wb", buffering=0), False  # a pipe cannot be opened for both reading and writing
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError | ValueError) -> EftError:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        hint = "The lines before it are complete. Run the same command again to continue." if self._end else None
        return EftError(f"{self.name} cannot be written: {reason}.", hint)

    @property
    def is_terminal(self) -> bool:
        """Whether lines are written to a terminal."""
        return self._file.isatty()

    def is_same_file(self, other: str) -> bool:
        """Whether the path `other` is this file."""
        try:
            return self.resumable and os.path.samestat(os.fstat(self._file.fileno()), Path(other).stat())
        except (OSError, ValueError):
            return False

    # --- reading what an earlier run wrote ----------------------------------------------------------------------------

    def scan(self) -> Earlier:
        """Read what an earlier run wrote, without an incomplete last line. EftError if a line is not of a run."""
        earlier = Earlier()
        for number, line, end in self._whole_lines():
            record = self._checked(number, line)
            index, sample = record["index"], record.get("sample", 0)
            assert isinstance(index, int) and isinstance(sample, int)
            digest, samples = earlier.done.get(index, (str(record["digest"]), 0))
            earlier.done[index] = digest, samples | 1 << sample
            earlier.failed += "error" in record
            settings = record["settings"]
            if earlier.first is None:
                earlier.first, earlier.date = record, _date(settings)
            if earlier.seed is None and isinstance(settings, dict) and record.get("seed") is None:
                earlier.seed = settings.get("seed")
            self._end = end
        return earlier

    def _whole_lines(self) -> Iterator[tuple[int, bytes, int]]:
        """Yields (number, line, its end in bytes). An incomplete last line is left out."""
        if not self.resumable:
            return
        end = 0
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                end += len(line)
                if line.endswith(b"\n"):
                    yield number, line, end
                elif not (line.startswith(START) or START.startswith(line) or not line.strip(b"\0")):
                    raise self._foreign(number)

    def _checked(self, number: int, line: bytes) -> dict[str, object]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not (isinstance(record, dict) and {"index", "digest", "settings", "emulator", "models"} <= record.keys()):
            raise self._foreign(number)
        places = record["index"], record.get("sample", 0)
        if not all(isinstance(place, int) and place >= 0 for place in places):
            raise self._foreign(number)
        return record

    def _foreign(self, number: int) -> EftError:
        return EftError(
            f"{self.name}:{number}: is not a line that a run wrote.",
            "Name another output, or use --overwrite to delete the lines of this one.",
        )

    # --- writing ------------------------------------------------------------------------------------------------------

    def start(self, *, overwrite: bool) -> None:
        """Cut off everything (`overwrite`) or an incomplete last line. Lines are appended after the rest."""
        if not self.resumable:
            return
        self._end = 0 if overwrite else self._end
        try:
            self._file.truncate(self._end)
            self._file.seek(self._end)
        except OSError as error:
            raise self._unwritable(error) from None

    def write(self, line: bytes) -> None:
        """Append one line. It stays even if the process is killed next. BrokenPipeError if the pipe has no reader."""
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut()
            raise self._unwritable(error) from None
        except BaseException:  # a second Ctrl-C in the middle of a line
            self._cut()
            raise
        self._end += len(line)

    def _cut(self) -> None:
        if self.resumable:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is None:
            return
        try:
            if self.resumable:
                os.fsync(self._file.fileno())
        except OSError as failed:
            if error is None:
                raise self._unwritable(failed) from None
        finally:
            self._file.close()
            if error is not None:
                self.withdraw()

    def withdraw(self) -> None:
        """Leave no empty output behind: delete the file if it was created now and has no line."""
        if self._path is not None and self._made and not self._end:
            with contextlib.suppress(OSError):
                self._path.unlink()


def encoded(line: Mapping[str, object]) -> bytes:
    """A line of an output."""
    try:
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: only escaped JSON can hold it
        return json.dumps(line).encode() + b"\n"


def _date(settings: object) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(settings["date"]) if isinstance(settings, dict) else None
    except (KeyError, TypeError, ValueError):
        return None
