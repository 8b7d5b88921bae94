"""Reads training data: files and folders in, records out, with an error for each line that is wrong."""

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eftlocal.errors import EftError, SettingError
from eftlocal.runs.examples import Form, Pair, Record, Text
from eftlocal.runs.folder import ENDINGS, TEXTS, files, told
from eftlocal.runs.lines import LineError
from eftlocal.runs.reader import Source
from eftlocal.runs.whole import is_list, objects, text_of, wrong

__all__ = ["Data", "Examples", "Split", "WrongLinesError", "must_suit", "prompt_of", "read", "split"]

Examples = Sequence[Path | Mapping[str, object]]

HELD_OUT: Final = 0.1  # share of the prompts that is kept back
MOST_HELD_OUT: Final = 200  # prompts; more would make each evaluation slow and hardly more exact


class WrongLinesError(EftError):
    """Lines of the data that cannot be used. `problems` has an error for each; the first one is in the hint."""

    def __init__(self, problems: Sequence[LineError]) -> None:
        are = "line is" if len(problems) == 1 else "lines are"
        super().__init__(
            f"{len(problems):,} {are} wrong; nothing was trained.", f"The first one: {problems[0].message}"
        )
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What was read.

    records   in the order of the files and their lines
    problems  one for each line that cannot be used
    ignored   files of a folder that are not data
    digest    SHA-256 of the files' contents, in their order
    """

    records: tuple[Record, ...]
    problems: tuple[LineError, ...]
    ignored: tuple[Path, ...]
    digest: str

    @property
    def unread(self) -> str:
        """The files that are not data, as a line for people; "" without any."""
        return told(self.ignored) if self.ignored else ""


def read(examples: Examples) -> Data:
    """Reads JSON Lines, JSON lists and CSV (records), and text (a record a file), also all such files of folders.

    A mapping stands for the fields of a line. Raises EftError for a file that cannot be read at all, and where there is
    nothing in all of them.
    """
    paths = [each for each in examples if isinstance(each, Path)]
    given = [each for each in examples if not isinstance(each, Path)]
    read_, ignored = files(paths)
    records: list[Record] = []
    problems: list[LineError] = []
    digest = hashlib.sha256()
    sources = [_text(file) if file.suffix.lower() in TEXTS else _records(file) for file in read_]
    for found in itertools.chain(*sources, _given(given)):
        if isinstance(found, LineError):
            problems.append(found)
        else:
            records.append(found)
    for file in read_:
        digest.update(file.read_bytes())
    if given:
        digest.update(_as_json(given))
    if not records and not problems:
        where = f"{', '.join(map(str, paths))}: there" if paths else "There"
        raise EftError(f"{where} is no example.", f"Files end in {', '.join(ENDINGS)}." if paths else None)
    return Data(
        records=tuple(records),
        problems=(*problems, *_mixed(records)),
        ignored=tuple(ignored),
        digest=digest.hexdigest(),
    )


def must_suit(data: Data, *, pairs: bool) -> None:
    """Raises SettingError for pairs of answers where the method does not train on them, and for others where it does.

    Data that has wrong lines is not judged: those are told first.
    """
    if data.problems:
        return
    pair = next((record for record in data.records if isinstance(record, Pair)), None)
    if pair is not None and not pairs:
        raise SettingError(
            f"These are pairs of answers, of which one is preferred: {pair.where}.", "Train on them with --method dpo."
        )
    if pair is None and pairs:
        where = data.records[0].where
        raise SettingError(
            f"dpo trains on pairs, and there is none: {where}.", 'Each line needs "prompt", "chosen" and "rejected".'
        )


def _given(examples: Sequence[Mapping[str, object]]) -> Iterable[Record | LineError]:
    """The records of a Python program, which are numbered as lines are."""
    form = Form("examples")
    for number, fields in enumerate(examples, 1):
        yield form.record(number, fields)


def _as_json(examples: Sequence[Mapping[str, object]]) -> bytes:
    try:
        return json.dumps([dict(each) for each in examples], sort_keys=True).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError) as error:
        raise SettingError(f"The examples are no values of JSON: {error}.") from None


def _records(file: Path) -> Iterable[Record | LineError]:
    if file.exists() and not file.is_file():
        raise EftError(f"{file} cannot be read: it is not a regular file.", "Examples are read more than once.")
    is_json = file.suffix.lower() == ".json"
    try:
        lines: Iterable[Record | LineError]
        if is_json and is_list(file):
            lines = objects(file, Form(str(file)))
        else:
            lines = Source.of(str(file), "jsonl" if is_json else None).records(Form(str(file)))
        yield from lines
    except LineError as error:  # a table's header: nothing of the file can be read
        yield error


def _text(file: Path) -> Iterable[Record | LineError]:
    """The one text of a file."""
    try:
        text = text_of(file)
    except LineError as error:
        yield error
        return
    yield Text(str(file), text) if text.strip() else wrong(file, 1, "the text is empty")


def _mixed(records: Sequence[Record]) -> list[LineError]:
    """A problem where pairs stand beside other examples: they are trained in another way."""
    pair = next((record for record in records if isinstance(record, Pair)), None)
    other = next((record for record in records if not isinstance(record, Pair)), None)
    if pair is None or other is None:
        return []
    file, _, line = pair.where.rpartition(":")
    problem = f"is a pair of answers, and {other.where} is not: both cannot be trained together"
    return [LineError(file, int(line), problem, digest="", fields={}, hint="Give them to two runs.")]


# --- what is kept back ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """Records to train on, and records that are kept back to judge by. moved: how many of both are not trained."""

    trained: tuple[Record, ...]
    held_out: tuple[Record, ...]
    moved: int = 0

    @property
    def answers(self) -> bool:
        """Whether answers are trained, and not only texts."""
        return any(not isinstance(record, Text) for record in self.trained)


def split(records: Sequence[Record], held_out: Sequence[Record] | None = None, *, seed: int = 0) -> Split:
    """Keeps a tenth of the prompts back, or the records given. No prompt is in both parts.

    One prompt stands for all records that begin with it, so that no answer to it is seen in training.
    """
    if held_out is not None:
        theirs = {prompt_of(record) for record in held_out}
        trained = tuple(record for record in records if prompt_of(record) not in theirs)
        return Split(trained, tuple(held_out), len(records) - len(trained))
    prompts = list(dict.fromkeys(prompt_of(record) for record in records))
    random.Random(seed).shuffle(prompts)
    back = set(prompts[: min(MOST_HELD_OUT, round(HELD_OUT * len(prompts)) or int(len(prompts) > 1))])
    return Split(
        tuple(record for record in records if prompt_of(record) not in back),
        tuple(record for record in records if prompt_of(record) in back),
    )


def prompt_of(record: Record) -> object:
    """What two records must share to be the same question: the messages before the answer, but for white space."""
    if isinstance(record, Text):
        return " ".join(record.text.split())
    return tuple((message.role, " ".join(message.content.split())) for message in record.prompt)
