"""What an evaluation asks: questions, choices, preferences and texts, as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from eftlocal.emulation.prompts import Prompt, Raw, as_messages

__all__ = ["Check", "CheckName", "Choices", "Item", "Preference", "Question", "Shape", "Text", "fields", "shown"]

CheckName = Literal["exact", "contains", "first-sentence", "regex", "number", "choice", "json-schema", "ifeval"]
Shape = Literal["question", "choices", "preference", "text"]
TURNS: Final = "\n\n"  # between the messages of a prompt that is shown


@dataclass(frozen=True, slots=True)
class Check:
    """How a generated answer is judged (checks.py). `value`: a pattern, a schema, the choices, or instructions."""

    name: CheckName
    value: object = None

    def to_json(self) -> dict[str, object]:
        return {"name": self.name} | ({} if self.value is None else {"value": self.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What all items have.

    where   the place that it was read from, "FILE:LINE"
    source  the data's name: its file, or `demo`
    kind    knowledge, behaviour, or whatever the user wrote; None where nothing is written
    """

    shape: ClassVar[Shape]

    where: str
    source: str
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Item):
    """A prompt with accepted answers. The likelihood is the first answer's; it has none without answers (IFEval).

    Its end counts as a token of the answer, but for a Raw prompt. Without a check nothing is generated; `max_tokens`
    is the most of an answer, where the user does not say it.
    """

    shape = "question"

    prompt: Prompt
    answers: tuple[str, ...]
    check: Check | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices(Item):
    """Completions, each after its own prompt: mostly the same one, but Winogrande has two prompts and one completion.

    right  the indices of right choices: one in multiple choice and in MC1, several in MC2
    """

    shape = "choices"

    pairs: tuple[tuple[Prompt, str], ...]
    right: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference(Item):
    """A prompt with an answer that is preferred over another."""

    shape = "preference"

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Item):
    """A text whose perplexity is measured."""

    shape = "text"

    text: str


def shown(prompt: Prompt) -> str:
    """A prompt as text for people: a single question as it is, a conversation with its roles."""
    if isinstance(prompt, str):
        return prompt
    messages = as_messages(prompt)
    if len(messages) == 1:
        return messages[0].content
    return TURNS.join(f"{message.role}: {message.content}" for message in messages)


def fields(item: Item) -> dict[str, object]:
    """The item as JSON: what items.jsonl holds of it, and what tells whether it changed between two runs."""
    found: dict[str, object] = {"where": item.where, "source": item.source, "kind": item.kind, "shape": item.shape}
    match item:
        case Question():
            more: dict[str, object] = {} if item.check is None else {"check": item.check.to_json()}
            more |= {} if item.max_tokens is None else {"max_tokens": item.max_tokens}
            return {**found, **_prompt(item.prompt), "answers": list(item.answers), **more}
        case Choices():
            prompts = [_prompt(prompt) for prompt, _ in item.pairs]
            one = all(prompt == prompts[0] for prompt in prompts)
            each = {
                "prompts": [prompt["prompt"] for prompt in prompts],
                **({"raw": True} if "raw" in prompts[0] else {}),
            }
            asked: Mapping[str, object] = prompts[0] if one else each
            return {**found, **asked, "choices": [text for _, text in item.pairs], "right": sorted(item.right)}
        case Preference():
            return {**found, **_prompt(item.prompt), "chosen": item.chosen, "rejected": item.rejected}
        case Text():
            return {**found, "text": item.text}
    raise AssertionError(item)


def _prompt(prompt: Prompt) -> dict[str, object]:
    return {"prompt": shown(prompt)} | ({"raw": True} if isinstance(prompt, Raw) else {})
