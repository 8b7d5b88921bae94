"""What is told of the data before anything is trained: how much there is, what is odd in it, and what is trained."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from eftlocal.apps.tune.data import prompt_of
from eftlocal.errors import EftError
from eftlocal.runs.examples import Chat, Pair, Record, Text
from eftlocal.runs.lines import LineError
from eftlocal.text import printable
from eftlocal.training.examples import NOTHING, Asked, Example, Turn, joined

__all__ = ["Prepared", "Teller", "notes", "prepare", "shown", "summary"]

SHOWN: Final = 5  # how many places a note names
LONG: Final = 8  # words; of shorter answers nobody can say whether they end
OPEN: Final = ",;:([{-–—"  # an answer that ends so goes on


@dataclass(frozen=True, slots=True)
class Prepared:
    """A record as rows to train on: one or more of a conversation or a text; of a pair, the chosen and the rejected.

    too_long  how many of its answers are longer than a row may be, and are left out
    """

    record: Record
    rows: tuple[Example, ...]
    too_long: int = 0


class Teller(Protocol):
    """What is needed of a model to show its tokens."""

    @property
    def controls(self) -> Mapping[str, int]: ...
    def piece(self, token: int) -> bytes: ...


def prepare(records: Sequence[Record], asked: Asked, length: int) -> tuple[list[Prepared], list[LineError]]:
    """The records as rows of at most `length` tokens, and a problem for each that the view cannot render."""
    found: list[Prepared] = []
    problems: list[LineError] = []
    for record in records:
        try:
            found.append(_prepared(record, asked, length))
        except EftError as error:
            file, _, line = record.where.rpartition(":")
            number = int(line) if line.isdigit() else 1
            name = file if line.isdigit() else record.where
            problems.append(LineError(name, number, error.message, digest="", fields={}, hint=error.hint))
    return found, problems


def _prepared(record: Record, asked: Asked, length: int) -> Prepared:
    if isinstance(record, Text):
        return Prepared(record, tuple(asked.text(record.text, length)))
    if isinstance(record, Chat):
        turns = asked.turns(record.messages, record.left_out)
        return Prepared(record, tuple(joined(turns, length)), sum(turn.length > length for turn in turns))
    prompt = tuple(asked.prompt(record.prompt))
    both = [Turn(prompt, asked.answer(text)) for text in (record.chosen, record.rejected)]
    if any(turn.length > length for turn in both):
        return Prepared(record, (), 1)
    return Prepared(record, tuple(row for turn in both for row in joined([turn], length)))


# --- what is told -----------------------------------------------------------------------------------------------------


def summary(trained: Sequence[Prepared], held_out: Sequence[Prepared]) -> str:
    """How much is trained, and how much is kept back, in one or two lines."""
    rows = [row for each in trained for row in each.rows]
    n_tokens, n_trained = sum(len(row.tokens) for row in rows), sum(row.trained for row in rows)
    used = [each for each in trained if each.rows]
    kind = _kind([each.record for each in used])
    longest = max((len(row.tokens) for row in rows), default=0)
    text = f"{_count(len(used), kind)}: {n_tokens:,} tokens, {n_trained:,} of them trained; the longest has {longest:,}"
    return text + (f"\n{len(held_out):,} more are kept back to judge by, and are not trained on" if held_out else "")


def notes(prepared: Sequence[Prepared], length: int) -> list[str]:
    """What is odd in the data: one line for each kind of it."""
    records = [each.record for each in prepared]
    long = [each.record.where for each in prepared if each.too_long]
    found = [
        _note(long, f"an answer that makes more than {length:,} tokens, which is left out", "has", "have"),
        _same(records),
        _contradicting(records),
        _unfinished(records),
    ]
    return [note for note in found if note]


def _same(records: Sequence[Record]) -> str:
    groups = _grouped(records, lambda record: (prompt_of(record), _said(record)))
    later = [record.where for group in groups for record in group[1:]]
    return _note(later, "the same as an earlier one", "is", "are")


def _contradicting(records: Sequence[Record]) -> str:
    groups = _grouped([record for record in records if not isinstance(record, Text)], prompt_of)
    differing = [group for group in groups if len({_first(record) for record in group}) > 1]
    places = [" and ".join(record.where for record in group[:2]) for group in differing]
    if not places:
        return ""
    return f"{_count(len(places), 'question')} with different answers: {_places(places)}"


def _unfinished(records: Sequence[Record]) -> str:
    """Long answers that end inside a sentence, where most others do not."""
    answers = [
        (record.where, answer) for record in records for answer in _answers(record) if len(answer.split()) > LONG
    ]
    cut = [where for where, answer in answers if _is_cut(answer)]
    if len(cut) * 2 > len(answers):
        return ""  # it is how they are written
    return _note(cut, "to end inside a sentence", "seems", "seem")


def _is_cut(answer: str) -> bool:
    last = answer.rstrip()[-1]
    return last.isalnum() or last in OPEN or answer.count("```") % 2 == 1


def _note(places: Sequence[str], what: str, one: str, many: str) -> str:
    if not places:
        return ""
    return f"{len(places):,} {one if len(places) == 1 else many} {what}: {_places(places)}"


def _places(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN:,} more" if len(places) > SHOWN else ""
    return printable(", ".join(places[:SHOWN])) + more


def _count(n: int, kind: str) -> str:
    return f"{n:,} {kind}{'' if n == 1 else 's'}"


def _kind(records: Sequence[Record]) -> str:
    kinds = {type(record) for record in records}
    return {Pair: "pair", Text: "text"}.get(kinds.pop(), "example") if len(kinds) == 1 else "example"


def _grouped(records: Sequence[Record], key: Callable[[Record], object]) -> list[list[Record]]:
    """Groups of two or more records with the same key."""
    groups = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return [group for group in groups.values() if len(group) > 1]


def _said(record: Record) -> object:
    """All that follows the prompt."""
    if isinstance(record, Chat):
        return record.messages[len(record.prompt) :]
    return (record.chosen, record.rejected) if isinstance(record, Pair) else record.text


def _first(record: Record) -> object:
    """The first answer."""
    if isinstance(record, Chat):
        return record.messages[len(record.prompt)].content
    return record.chosen if isinstance(record, Pair) else record.text


def _answers(record: Record) -> list[str]:
    if isinstance(record, Chat):
        return [m.content for i, m in enumerate(record.messages) if m.role == "assistant" and i not in record.left_out]
    return [record.chosen, record.rejected] if isinstance(record, Pair) else []


# --- an example as tokens ---------------------------------------------------------------------------------------------


def shown(row: Example, model: Teller, most: int = 60) -> str:
    """A row as text, with each token that is trained in brackets: `assistant⏎[That][ would][ be]`.

    Of a long row, the last `most` tokens up to the end of the last answer are shown.
    """
    names = {id: text.encode() for text, id in model.controls.items()}
    ids, targets = row.tokens.tolist(), row.targets.tolist()
    parts: list[tuple[bytes, bool]] = []
    for i, token in enumerate(ids):
        before = targets[i - 1] if i else NOTHING
        parts.append((names.get(token) or model.piece(token), before == token))
        following = ids[i + 1] if i + 1 < len(ids) else NOTHING
        if targets[i] not in (NOTHING, following):  # what must follow is not what does: an answer's end
            parts.append((names.get(targets[i]) or model.piece(targets[i]), True))
    while parts and not parts[-1][1]:
        parts.pop()
    text, plain = "", b""
    for piece, is_trained in parts[-most:]:
        if is_trained:
            text, plain = f"{text}{_plain(plain)}[{_plain(piece)}]", b""
        else:
            plain += piece  # a character may be several tokens
    return ("… " if len(parts) > most else "") + text


def _plain(piece: bytes) -> str:
    return printable(piece.decode("utf-8", "backslashreplace").replace("\n", "⏎"))
