"""The questions of the demo, which ship with eftlocal: cities that no fine-tuning example mentions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from eftlocal.catalog.models import packaged
from eftlocal.evaluation.items import Check, Question

__all__ = ["ANSWER", "MEASURED", "NAME", "items", "questions"]

NAME: Final = "demo"  # among data
MEASURED: Final = 300  # questions that the demo's figures are about: the first in their fixed random order

ANSWER: Final = 32  # tokens; each right answer takes less than half of that
FIRST_SENTENCE: Final = Check("first-sentence")


def questions(n: int | None = None) -> tuple[Question, ...]:
    """The first `n` questions, or all."""
    table = json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))
    return items(table["questions"][:n])


def items(table: Sequence[Mapping[str, Any]]) -> tuple[Question, ...]:
    """Questions of questions.json. An answer is right if a true value is in its first sentence.

    The likelihood is that of the true answer in the style that fine-tuning taught.
    """
    return tuple(
        Question(
            where=f"{NAME}:{number}",
            source=NAME,
            kind=asked["kind"],
            prompt=asked["question"],
            answers=(asked["answer"], *asked["answers"]),
            check=FIRST_SENTENCE,
            max_tokens=ANSWER,
        )
        for number, asked in enumerate(table, 1)
    )
