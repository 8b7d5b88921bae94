"""Lines of items.jsonl: read back as they were written, and anything else is an error."""

import json
from typing import Any

import pytest

from eftlocal.errors import EftError
from eftlocal.evaluation.items import Check, Choices, Preference, Question, Text, fields
from eftlocal.evaluation.line import (
    Answered,
    Apart,
    Chosen,
    Likelihood,
    Line,
    Preferred,
    TokenFact,
    column_beta,
)
from eftlocal.runtime.views import Message

APART = Apart(positions=3, kl_base=0.5, same_base=2, kl_upper=0.25, same_upper=1)
HEAD: dict[str, Any] = {"where": "a.jsonl:1", "source": "a.jsonl"}
LIKELIHOOD = Likelihood(logprob=-2.5, tokens=3, bytes=5, apart=APART)
LINES = (
    Line(
        **HEAD,
        kind="knowledge",
        shape="question",
        prompt="Where?",
        answers=("Lyon", "lyon"),
        columns={"base": Answered(likelihood=LIKELIHOOD, text="Lyon.", right=True, ended=False, length=2)},
        tokens=(TokenFact("Ly", -1.0, 0.5, True), TokenFact("", -1.5, 0.0, False)),
    ),
    Line(**HEAD, kind=None, shape="question", prompt="Where?", columns={"base": Answered(text="x", right=False)}),
    Line(
        **HEAD,
        kind=None,
        shape="choices",
        prompt="Which?",
        answers=("one", "two"),
        right=frozenset({1}),
        columns={"emulated@0.5": Chosen(logprobs=(-1.0, -2.0), tokens=(1, 2), bytes=(3, 4), apart=APART)},
    ),
    Line(
        **HEAD,
        kind=None,
        shape="preference",
        prompt="Say.",
        answers=("good", "bad"),
        columns={"tuned": Preferred(chosen=-1.0, rejected=-2.0, tokens=(2, 3))},
    ),
    Line(**HEAD, kind=None, shape="text", prompt="A text.", columns={"base": LIKELIHOOD}),
    Line(**HEAD, kind=None, shape="question", prompt="Where?", answers=("x",), error="it does not fit"),
)
ITEMS = (
    Question(**HEAD, kind="knowledge", prompt="Where?", answers=("Lyon", "lyon"), check=Check("contains")),
    Question(**HEAD, prompt=[Message("system", "Be kind."), Message("user", "Where?")], answers=("x",)),
    Choices(**HEAD, pairs=(("Which?", "one"), ("Which?", "two")), right=frozenset({1})),
    Choices(**HEAD, pairs=(("Which, A?", "one"), ("Which, B?", "one")), right=frozenset({0})),
    Preference(**HEAD, prompt="Say.", chosen="good", rejected="bad"),
    Text(**HEAD, text="A text."),
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.shape)
def test_a_line_comes_back_from_json(line: Line) -> None:
    assert Line.from_json(json.loads(json.dumps({"index": 3, "settings": {}, **line.to_json()}))) == line


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.shape)
def test_the_fields_of_an_item_are_read_as_a_line(item: Question) -> None:
    line = Line.from_json(json.loads(json.dumps(fields(item))))
    assert (line.where, line.source, line.kind, line.shape) == (item.where, item.source, item.kind, item.shape)


def test_fields_of_one_prompt_and_of_several_differ() -> None:
    assert fields(ITEMS[2])["prompt"] == "Which?"
    assert fields(ITEMS[3])["prompts"] == ["Which, A?", "Which, B?"]
    assert fields(ITEMS[1])["prompt"] == "system: Be kind.\n\nuser: Where?"


@pytest.mark.parametrize("value", [{}, [], None, {"where": "a", "source": "a", "shape": "table"}, {"shape": "text"}])
def test_what_is_no_line_is_an_error(value: object) -> None:
    with pytest.raises(EftError, match="is not a line of an evaluation"):
        Line.from_json(value)


def test_columns_of_strengths_have_their_beta() -> None:
    assert [column_beta(name) for name in ("base", "emulated@0.25", "upper", "tuned:style")] == [None, 0.25, None, None]
