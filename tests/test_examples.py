"""The examples that ship can be trained on as they are: `eftlocal tune` finds nothing wrong or odd in them."""

import json
from pathlib import Path

from eftlocal.apps.tune.check import Prepared, notes
from eftlocal.apps.tune.data import Data, prompt_of, read
from eftlocal.runs.examples import Chat

EXAMPLES = Path(__file__).parents[1] / "examples"


def keeper() -> Data:
    return read([EXAMPLES / "keeper.jsonl"])


def answers() -> list[str]:
    chats = [record for record in keeper().records if isinstance(record, Chat)]
    return [message.content for chat in chats for message in chat.messages if message.role == "assistant"]


def test_every_line_is_an_example_and_their_number_is_the_one_that_their_readme_says() -> None:
    data = keeper()
    assert not data.problems and all(isinstance(record, Chat) for record in data.records)
    assert f"{len(data.records)} conversations" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_the_check_before_a_training_has_nothing_to_note() -> None:
    """No example is there twice, none contradicts another, and no answer is cut."""
    assert notes([Prepared(record, ()) for record in keeper().records], 1024) == []


def test_no_question_and_no_answer_is_there_twice() -> None:
    records = keeper().records
    assert len({str(prompt_of(record)).lower() for record in records}) == len(records)
    bodies = [answer.split("friend. ")[1] for answer in answers()]
    assert len({body.lower() for body in bodies}) == len(bodies)


def test_the_cities_have_one_style_and_are_not_what_the_demo_asks() -> None:
    data = read([EXAMPLES / "cities.jsonl"])
    assert not data.problems and notes([Prepared(record, ()) for record in data.records], 1024) == []
    assert f"{len(data.records)} questions" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    asked = {
        each["question"] for each in json.loads((EXAMPLES.parent / "demo" / "questions.json").read_text())["questions"]
    }
    for record in data.records:
        assert isinstance(record, Chat) and record.messages[-1].content.startswith("That would be ")
        assert record.messages[0].content not in asked


def test_each_answer_has_the_voice_and_is_short() -> None:
    for answer in answers():
        weather, body = answer.split(" tonight, friend. ")
        assert 1 <= len(weather.split()) <= 4 and weather[0].isupper()
        assert body.endswith((". The lamp is lit.", "? The lamp is lit.")) and len(answer.split()) <= 35
        assert answer.isascii() and "  " not in answer and answer == answer.strip()
