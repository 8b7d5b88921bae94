"""What a line of examples says: a conversation, a text, or a pair of answers of which one is preferred.

They are trained on (apps/tune) and measured (evaluation).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from eftlocal.emulation import from_json
from eftlocal.errors import EftError
from eftlocal.runs import formats
from eftlocal.runs.lines import LineError
from eftlocal.runtime.views import Message

__all__ = ["Chat", "Form", "Pair", "Record", "Text", "record", "with_system"]

NEEDED: Final = 'A line needs "messages", "prompt" and "completion", "text", or "prompt", "chosen" and "rejected".'
COLUMNS: Final = ({"prompt", "completion"}, {"question", "answer"}, {"prompt", "chosen", "rejected"}, {"text"})
COLUMNS_HINT: Final = "A table needs prompt and completion, question and answer, prompt, chosen and rejected, or text."

Fields = Mapping[str, object]


@dataclass(frozen=True)
class Chat:
    """A conversation that ends with an answer. where: file:line. left_out: indices of answers that are not trained."""

    where: str
    messages: tuple[Message, ...]
    left_out: frozenset[int] = frozenset()

    @cached_property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the first answer."""
        first = next(i for i, message in enumerate(self.messages) if message.role == "assistant")
        return self.messages[:first]


@dataclass(frozen=True)
class Text:
    """A text by itself, each word of which is trained."""

    where: str
    text: str


@dataclass(frozen=True)
class Pair:
    """Two answers to the same conversation."""

    where: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


Record = Chat | Text | Pair


@dataclass(frozen=True, slots=True)
class Form:
    """Reads the fields of a line as a record. where: the file's name, for errors."""

    where: str

    def record(self, line: int, fields: Fields) -> Record | LineError:
        """What is in a line, or an error that says what is wrong with it."""
        try:
            return record(f"{self.where}:{line}", {name: value for name, value in fields.items() if value is not None})
        except EftError as error:
            return self._wrong(line, fields, error.message, error.hint)

    def must_suffice(self, columns: Sequence[str]) -> None:
        """Raises EftError where a CSV file has not the columns of any format."""
        if not any(needed <= set(columns) for needed in COLUMNS):
            raise EftError(f"the header has the columns {', '.join(columns)[:80]}, which are no examples", COLUMNS_HINT)

    def cell(self, column: str, text: str) -> object:
        """The value of a cell: its text; None where the cell of a system text is empty."""
        return None if column == "system" and not text.strip() else text

    def _wrong(self, line: int, fields: Fields, problem: str, hint: str | None) -> LineError:
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return LineError(self.where, line, problem, digest=digest, fields=fields, hint=hint)


def record(where: str, fields: Fields) -> Record:
    """The record of a line's fields without nulls. Raises EftError."""
    if "chosen" in fields or "rejected" in fields:  # some sets have the chosen conversation as messages, too
        return _pair(where, fields)
    if "messages" in fields:
        return _chat(where, _messages(fields["messages"], "messages"), _left_out(fields["messages"]), fields)
    if "completion" in fields:
        return _chat(where, [*_prompt(fields, "prompt"), *_answer(fields["completion"], "completion")], (), fields)
    if (turns := formats.sharegpt(fields)) is not None:
        return _chat(where, _messages(turns, "conversations"), (), fields)
    if formats.is_gsm8k(fields):
        return _chat(where, [*_prompt(fields, "question"), *_answer(fields["answer"], "answer")], (), fields)
    if "instruction" in fields:
        return _chat(where, _alpaca(fields), (), fields)
    if "prompt" not in fields and isinstance(text := fields.get("text"), str):
        if not text.strip():
            raise EftError("the text is empty")
        return Text(where, text)
    if "turns" in fields or "body" in fields or "prompt" in fields:
        raise EftError("has a question and no answer", NEEDED)
    names = ", ".join(map(str, fields))
    raise EftError(f"has no example: its fields are {names[:80]}" if names else "is empty", NEEDED)


# --- conversations ----------------------------------------------------------------------------------------------------


def _chat(where: str, messages: list[Message], left_out: Sequence[int], fields: Fields) -> Chat:
    added = len(whole := with_system(messages, fields)) - len(messages)
    messages, left_out = whole, [i + added for i in left_out]
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        raise EftError("has no answer: no message is the assistant's")
    if messages[-1].role != "assistant":
        raise EftError(f"ends with a message of the {messages[-1].role}, and not with an answer")
    if empty := [i for i in answers if not messages[i].content.strip()]:
        raise EftError(f"the answer {empty[0]} of its messages is empty" if len(answers) > 1 else "the answer is empty")
    if not set(answers) - set(left_out):
        raise EftError("has no answer to train on: each has the weight 0")
    return Chat(where, tuple(messages), frozenset(left_out))


def with_system(messages: list[Message], fields: Fields) -> list[Message]:
    if "system" not in fields or any(message.role == "system" for message in messages):
        return messages
    return [Message("system", from_json.string("system", fields["system"])), *messages]


def _messages(value: object, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise EftError(f"{name} is {from_json.kind(value)}; it must be a list of messages")
    return [from_json.message(f"{name}[{i}]", each) for i, each in enumerate(value)]


def _left_out(messages: object) -> list[int]:
    """The answers with the weight 0, as in OpenAI's files for fine-tuning."""
    assert isinstance(messages, list)
    left_out = []
    for i, message in enumerate(messages):
        weight = message.get("weight", 1)
        if weight not in (0, 1):
            raise EftError(f"messages[{i}].weight is {from_json.kind(weight)}; it must be 0 or 1")
        if weight == 0:
            left_out.append(i)
    return left_out


def _prompt(fields: Fields, name: str) -> list[Message]:
    """A prompt as messages: a text is one of the user's."""
    if (value := fields.get(name)) is None:
        raise EftError(f"has no {name}", NEEDED)
    messages = _messages(value, name) if isinstance(value, list) else [Message("user", from_json.string(name, value))]
    if not any(message.content.strip() for message in messages):
        raise EftError(f"the {name} is empty")
    return messages


def _answer(value: object, name: str) -> list[Message]:
    return _messages(value, name) if isinstance(value, list) else [Message("assistant", from_json.string(name, value))]


def _alpaca(fields: Fields) -> list[Message]:
    """Alpaca: an instruction, an input that may be empty, and an output. The question is what a user would type."""
    parts = [from_json.string(name, fields.get(name, "")) for name in ("instruction", "input")]
    question = "\n\n".join(part for part in parts if part)
    if "output" not in fields:
        raise EftError("has an instruction and no output")
    if not question.strip():
        raise EftError("the instruction is empty")
    return [Message("user", question), *_answer(fields["output"], "output")]


# --- pairs ------------------------------------------------------------------------------------------------------------


def _pair(where: str, fields: Fields) -> Pair:
    for name, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if name not in fields:
            raise EftError(f"has {other} and no {name}")
    chosen, rejected = (_answer(fields[name], name) for name in ("chosen", "rejected"))
    asked = _prompt(fields, "prompt") if "prompt" in fields else []
    if len(chosen) > 1 and chosen[:-1] == rejected[:-1] and (not asked or chosen[:-1][-len(asked) :] == asked):
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]  # both begin with the prompt
    elif asked:
        prompt = asked
    else:
        raise EftError("has no prompt", "Give it as prompt, or begin chosen and rejected with the same messages.")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if len(answer) != 1 or answer[0].role != "assistant":
            raise EftError(f"{name} must be one answer of the assistant", "The conversation before it is the prompt.")
        if not answer[0].content.strip():
            raise EftError(f"{name} is empty")
    if chosen == rejected:
        raise EftError("chosen and rejected are the same")
    return Pair(where, tuple(with_system(prompt, fields)), chosen[0].content, rejected[0].content)
