"""What a line of data becomes: items, told by its fields. A public benchmark's lines (public.py) must all be its own.

{prompt | question | messages, answer | answers, check?}   a Question; without a check its likelihood alone
{prompt | messages, choices, answer}                       Choices; with the check choice a Question that lists them
{prompt, chosen, rejected}                                 a Preference; both answers may be conversations
{prompt, completion}, conversations, {text}                as training data has them (runs/examples.py)

`answer` of choices is a text, a letter or an index from 0; `answers` are several right ones. `kind` is kept.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from eftlocal.emulation.from_json import kind, whole
from eftlocal.emulation.prompts import Prompt
from eftlocal.errors import EftError
from eftlocal.evaluation.checks import check_of
from eftlocal.evaluation.fields import Fields, listed, number, place, prompt, text, texts
from eftlocal.evaluation.items import Choices, Item, Preference, Question, Text
from eftlocal.evaluation.needed import MissingPackageError
from eftlocal.evaluation.public import FORMATS, Format, Marks
from eftlocal.runs import examples
from eftlocal.runs.lines import LineError, json_value
from eftlocal.runtime.views import Message

__all__ = ["KNOWN", "Form"]

KNOWN: Final = (
    "Known: prompt or messages, with answer or check; prompt, choices, answer; prompt, chosen, rejected; text; "
    f"examples as for tune; {', '.join(dict.fromkeys(known.name for known in FORMATS))}."
)
ASKED: Final = ("prompt", "question", "messages")  # the names of a prompt
AS_JSON: Final = frozenset({"choices", "answers", "check", "messages", "chosen", "rejected", "answer"})  # in a cell


@dataclass(slots=True)
class Form:
    """Reads the lines of one file as items.

    where    the file's name, for errors
    source   its name among the results
    public   the benchmark that the file is, as its first good line told it
    """

    where: str
    source: str
    public: Format | None = field(default=None, init=False)

    def record(self, line: int, fields: Fields) -> tuple[Item, ...] | LineError:
        """The items of a line, or an error that says what is wrong with it. Raises MissingPackageError."""
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            _must_be_text(fields)
            return self._items(f"{self.where}:{line}", given)
        except MissingPackageError:
            raise
        except EftError as error:
            digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]
            return LineError(self.where, line, error.message, digest=digest, fields=fields, hint=error.hint)

    def must_suffice(self, columns: Sequence[str]) -> None:
        """Raises EftError where no line of a table with these columns could be read."""
        names: Fields = dict.fromkeys(columns, "")
        if any(known.tells(names) for known in FORMATS) or _own(names) or _example(names):
            return
        raise EftError(f"the header has the columns {_names(columns)}, which are no known data", KNOWN)

    def cell(self, column: str, text: str) -> object:
        """The value of a cell: its text, or the JSON in it where a list or an object may stand. Empty is None."""
        if not text.strip():
            return None
        if column in AS_JSON and text.lstrip()[0] in "[{":
            try:
                return json_value(text)
            except (ValueError, RecursionError):
                return text
        return text

    def _items(self, where: str, fields: Fields) -> tuple[Item, ...]:
        label = fields.get("kind")
        if label is not None and not isinstance(label, str):
            raise EftError(f"kind is {kind(label)}; it must be a text")
        marks = Marks(where=where, source=self.source, kind=(label or "").strip() or None)
        told = next((known for known in FORMATS if known.tells(fields)), None)
        if self.public is not None and (told is None or told.name != self.public.name):
            self._not_alike(marks, fields)
        if told is None:
            return (_plain(marks, fields),)
        items = told.read(marks, fields)
        self.public = told
        return items

    def _not_alike(self, marks: Marks, fields: Fields) -> None:
        """Raises EftError for a line that is not in the benchmark's form, as the lines before it are."""
        assert self.public is not None
        try:
            self.public.read(marks, fields)
        except EftError as error:
            raise EftError(error.message, f"The lines before it are {self.public.name}'s.") from None
        raise EftError(
            f"is not in the form of {self.public.name}, as the lines before it are: its fields are {_names(fields)}",
            "Give data of different forms as different files.",
        )


def _must_be_text(fields: Fields) -> None:
    """Raises EftError for half of a surrogate pair: escaped JSON can hold it, and no model can read it."""
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise EftError("has half of a surrogate pair (as \\ud800), which is no character") from None


def _names(names: Sequence[str] | Fields) -> str:
    found = ", ".join(map(str, names))
    return found if len(found) <= 80 else f"{found[:77]}..."


# --- lines of the user's own ------------------------------------------------------------------------------------------


def _own(fields: Fields) -> bool:
    """Whether a line asks something and says what is right."""
    asked = any(name in fields for name in ASKED)
    return asked and any(name in fields for name in ("answer", "answers", "check", "choices"))


def _example(fields: Fields) -> bool:
    """Whether a line is an example as for training."""
    if "chosen" in fields or "rejected" in fields or "completion" in fields or "conversations" in fields:
        return True
    return "messages" in fields or "text" in fields or {"instruction", "output"} <= fields.keys()


def _plain(marks: Marks, fields: Fields) -> Item:
    if _own(fields):
        return _with_choices(marks, fields) if "choices" in fields else _question(marks, fields)
    if _example(fields):
        return _of_example(marks, examples.record(marks["where"], fields))
    if any(name in fields for name in ASKED):
        raise EftError(f"has a prompt and nothing to measure: its fields are {_names(fields)}", KNOWN)
    raise EftError(f"has no known form: its fields are {_names(fields)}" if fields else "is empty", KNOWN)


def _asked(fields: Fields) -> Prompt:
    given = [name for name in ASKED if name in fields]
    if len(given) > 1:
        raise EftError(f"has both {given[0]} and {given[1]}")
    asked = prompt(fields, *ASKED)
    if not isinstance(asked, str) and isinstance(last := asked[-1], Message) and last.role == "assistant":
        raise EftError(
            "the messages end with an answer of the assistant", "What is asked ends with the user's message."
        )
    return asked


def _answers(fields: Fields) -> tuple[str, ...]:
    """The accepted answers: `answer`, which may be a list, or `answers`."""
    if "answer" in fields and "answers" in fields:
        raise EftError("has both answer and answers")
    if "answers" in fields:
        return texts(fields, "answers")
    if isinstance(fields.get("answer"), list):
        return texts(fields, "answer")
    if "answer" not in fields:
        return ()
    return (text({"answer": number("answer", fields["answer"])}, "answer"),)


def _question(marks: Marks, fields: Fields) -> Question:
    asked, answers = _asked(fields), _answers(fields)
    check = check_of(fields.get("check"), answers)
    return Question(**marks, prompt=asked, answers=answers, check=check, max_tokens=_most(fields))


def _most(fields: Fields) -> int | None:
    """The most tokens of an answer, where the line says it."""
    value = fields.get("max_tokens")
    most = None if value is None else whole("max_tokens", value)
    if most is not None and most < 1:
        raise EftError(f"max_tokens is {most}; it must be at least 1")
    return most


def _with_choices(marks: Marks, fields: Fields) -> Item:
    asked, choices = _asked(fields), texts(fields, "choices", 2)
    if len(set(choices)) < len(choices):
        raise EftError(f"has the choice {kind(next(c for c in choices if choices.count(c) > 1))} twice")
    if "answer" in fields and "answers" in fields:
        raise EftError("has both answer and answers")
    name = "answers" if "answers" in fields else "answer"
    given = fields.get(name)
    if given is None or given == []:
        raise EftError("has choices and no answer")
    right = frozenset(place(name, each, choices) for each in (given if isinstance(given, list) else [given]))
    if "check" not in fields:
        return Choices(**marks, pairs=tuple((asked, choice) for choice in choices), right=right)
    answers = tuple(choices[i] for i in sorted(right))
    check = check_of(fields["check"], answers, choices)
    if check is None or check.name != "choice":
        raise EftError(f"has choices and the check {kind(fields['check'])}; with choices it can be choice")
    return Question(**marks, prompt=listed(asked, choices), answers=answers, check=check, max_tokens=_most(fields))


def _of_example(marks: Marks, record: examples.Record) -> Item:
    """The last answer of a conversation is measured, after all that comes before it."""
    match record:
        case examples.Text():
            return Text(**marks, text=record.text)
        case examples.Pair():
            return Preference(**marks, prompt=_shortest(record.prompt), chosen=record.chosen, rejected=record.rejected)
        case examples.Chat():
            if len(record.messages) < 2:
                raise EftError("has an answer and no question before it")
            return Question(**marks, prompt=_shortest(record.messages[:-1]), answers=(record.messages[-1].content,))


def _shortest(messages: Sequence[Message]) -> Prompt:
    """A single question as its text."""
    return messages[0].content if len(messages) == 1 and messages[0].role == "user" else tuple(messages)
