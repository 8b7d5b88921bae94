"""Tests of what is told of the data: counts, oddities with their places, and what is trained, token by token."""

from collections.abc import Iterator

import pytest

from eftlocal.apps.tune.check import Prepared, notes, prepare, shown, summary
from eftlocal.runs.examples import Chat, Pair, Record, Text
from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.views import TRANSCRIPT, Message, View
from eftlocal.training.examples import Asked
from tests.families import CHATML, Family
from tests.training.templates import MISTRAL


@pytest.fixture(scope="module")
def model(family: Family) -> Iterator[Model]:
    made = Model(gguf.check(family.tuned))
    yield made
    made.close()


def chat(where: str, question: str = "Why?", *answers: str) -> Chat:
    turns = [m for i, a in enumerate(answers) for m in (Message("user", question + "?" * i), Message("assistant", a))]
    return Chat(where, tuple(turns))


def prepared(model: Model, *records: Record, template: str = CHATML, length: int = 1000) -> list[Prepared]:
    found, problems = prepare(records, Asked(View(template=template, variables={}), model), length)
    assert not problems
    return found


def test_the_summary_counts_what_is_trained(model: Model) -> None:
    found = prepared(model, chat("a:1", "Hi", "abc"), chat("a:2", "Hi there", "ab", "c"))
    tokens = sum(len(row.tokens) for each in found for row in each.rows)
    assert summary(found, ()) == (
        f"2 examples: {tokens} tokens, 9 of them trained; the longest has {len(found[1].rows[0].tokens)}"
    )
    assert summary(found[:1], found[1:]).endswith("\n1 more are kept back to judge by, and are not trained on")
    assert summary(prepared(model, Text("a", "abc")), ()) == "1 text: 3 tokens, 3 of them trained; the longest has 3"


def test_what_is_odd_is_told_with_its_places(model: Model) -> None:
    long = "a b c d e f g h i"
    records = [
        chat("a:1", "Q", f"{long}."), chat("a:2", "Q", f"{long}."), chat("a:3", " Q ", f"{long}!"),
        chat("a:4", "R", f"{long} and the"), chat("a:5", "S", "x" * 300), chat("a:6", "T", "Yes"),
    ]  # fmt: skip
    assert notes(prepared(model, *records, length=100), 100) == [
        "1 has an answer that makes more than 100 tokens, which is left out: a:5",
        "1 is the same as an earlier one: a:2",
        "1 question with different answers: a:1 and a:2",
        "1 seems to end inside a sentence: a:4",
    ]
    assert notes(prepared(model, *records[:1], *records[5:]), 100) == []


def test_answers_that_all_end_without_a_full_stop_are_a_style(model: Model) -> None:
    assert notes(prepared(model, *(chat(f"a:{i}", f"Q{i}", "a b c d e f g h i") for i in range(4))), 100) == []


def test_conversations_that_go_on_differently_do_not_contradict(model: Model) -> None:
    assert notes(prepared(model, chat("a:1", "Q", "Yes.", "One."), chat("a:2", "Q", "Yes.", "Two.")), 1000) == []


def test_many_places_are_counted(model: Model) -> None:
    (note,) = notes(prepared(model, *(chat(f"a:{i}", "Q", "Yes.") for i in range(9))), 100)
    assert note == "8 are the same as an earlier one: a:1, a:2, a:3, a:4, a:5 and 3 more"


def test_a_conversation_that_is_too_long_keeps_what_fits(model: Model) -> None:
    (each,) = prepared(model, chat("a:1", "Hi", "abc", "x" * 90), length=80)
    assert each.too_long == 1 and [row.trained for row in each.rows] == [4]


def test_a_pair_is_a_row_for_each_answer(model: Model) -> None:
    pair = Pair("a:1", (Message("user", "Hi"),), "abc", "ab")
    (each,) = prepared(model, pair)
    assert [row.trained for row in each.rows] == [4, 3]
    (each,) = prepared(model, Pair("a:1", pair.prompt, "abc", "x" * 300), length=100)
    assert each.rows == () and each.too_long == 1
    assert notes(prepared(model, pair, pair), 100) == ["1 is the same as an earlier one: a:1"]


def test_what_a_view_refuses_is_a_problem_with_its_line(model: Model) -> None:
    wrong = Chat("my file:12", (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes")))
    asked = Asked(View(template=MISTRAL, variables={"bos_token": "", "eos_token": "<|im_end|>"}), model)
    found, (problem,) = prepare([wrong, chat("my file:13", "Hi", "Yes")], asked, 1000)
    assert problem.message.startswith("my file:12: The chat template refuses this conversation: Conversation roles")
    assert [each.record.where for each in found] == ["my file:13"]


def test_a_row_is_shown_with_what_is_trained_in_brackets(model: Model) -> None:
    (each,) = prepared(model, chat("a:1", "Hi", "The é", "ab"))
    assert shown(each.rows[0], model) == (
        "<|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎[The][ ][é][<|im_end|>]⏎"
        "<|im_start|>user⏎Hi?<|im_end|>⏎<|im_start|>assistant⏎[a][b][<|im_end|>]"
    )
    assert shown(each.rows[0], model, most=4) == "… ⏎[a][b][<|im_end|>]"


def test_an_end_that_the_next_prompt_does_not_hold_is_shown_too(model: Model) -> None:
    (each,) = prepared(model, chat("a:1", "Hi", "a", "b"), template=TRANSCRIPT)
    assert shown(each.rows[0], model) == ("User:⏎Hi⏎⏎Assistant:⏎[a][<|im_end|>]⏎⏎User:⏎Hi?⏎⏎Assistant:⏎[b][<|im_end|>]")
    wild = prepared(model, chat("a:1", "\x1b[31m", "\x07"))
    assert "\x1b" not in shown(wild[0].rows[0], model) and "[\\x07]" in shown(wild[0].rows[0], model)
