"""Lines of an input: what each becomes (a `Form`), and the error for one that cannot be used."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple, NoReturn, Protocol, TypeVar

from eftlocal.errors import EftError

__all__ = [
    "LINE_LIMIT",
    "BadError",
    "Form",
    "Line",
    "LineError",
    "Record",
    "decoder",
    "json_value",
    "lines_of",
    "unreadable",
]

LINE_LIMIT = 64 << 20  # bytes; a longer line is not a prompt, and its copies would not fit in memory
BOM: Final = b"\xef\xbb\xbf"


class LineError(EftError):
    """A line of the input that cannot be used. `problem` is the message without the file's name and the line number."""

    def __init__(
        self, where: str, line: int, problem: str, *, digest: str, fields: Mapping[str, object], hint: str | None = None
    ) -> None:
        super().__init__(f"{where}:{line}: {problem}", hint)
        self.line = line
        self.problem = problem
        self.digest = digest
        self.fields = fields


Record = TypeVar("Record", covariant=True)


class Form(Protocol[Record]):
    """What the lines of an input become."""

    @property
    def where(self) -> str:
        """The input's name, for errors."""
        ...

    def record(self, line: int, fields: Mapping[str, object]) -> Record | LineError:
        """What a line's fields become; a line of plain text has the field `prompt` alone."""
        ...

    def must_suffice(self, columns: Sequence[str]) -> None:
        """Raises EftError where a CSV file with these columns cannot be used."""
        ...

    def cell(self, column: str, text: str) -> object:
        """The value of a cell of a CSV file."""
        ...


class BadError(EftError):
    """One line is wrong. The lines after it can still be read."""


class Line(NamedTuple):
    number: int  # from 1
    data: bytes  # with its line end; only the beginning if the line is longer than LINE_LIMIT
    whole: bool = True  # False if `data` is only the beginning

    @property
    def blank(self) -> bool:
        return not self.data.strip()

    def bad(self, form: Form[object], problem: str, hint: str | None = None) -> LineError:
        digest = hashlib.sha256(self.data.rstrip(b"\r\n")).hexdigest()[:16]
        return LineError(form.where, self.number, problem, digest=digest, fields={}, hint=hint)

    def text(self) -> str:
        """The line without its line end. BadError if it is too long or not UTF-8."""
        if not self.whole:
            raise BadError(f"is longer than {LINE_LIMIT >> 20} MB")
        try:
            return self.data.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise BadError(f"is not UTF-8 text (byte {error.start})") from None


def lines_of(file: BinaryIO, name: str) -> Iterator[Line]:
    """The lines of a file, without a byte order mark. Only `\\n` ends a line."""
    for number in itertools.count(1):
        try:
            data = file.readline(LINE_LIMIT + 1)
            whole = len(data) <= LINE_LIMIT or data.endswith(b"\n")
            rest = data
            while not whole and rest and not rest.endswith(b"\n"):
                rest = file.readline(1 << 20)
        except OSError as error:
            raise unreadable(name, error) from None
        if not data:
            return
        if number == 1:
            if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise EftError(f"{name} is UTF-16 text; it must be UTF-8.", "Save it as UTF-8.")
            data = data.removeprefix(BOM)
        yield Line(number, data, whole)


def unreadable(path: str, error: OSError | ValueError) -> EftError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return EftError(f"{path} cannot be read: {reason}.")


def json_value(text: str) -> object:
    """The value of a JSON text. Raises ValueError, also for NaN, infinity and a name twice, and RecursionError."""
    return decoder.decode(text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object. Of two fields of one name, Python would drop the first."""
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return found


decoder: Final = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_once)
