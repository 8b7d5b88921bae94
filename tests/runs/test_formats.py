"""Other programs' formats: what can mean one thing is read, and the command in a hint converts what cannot."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from eftlocal.apps.batch.records import Form, Record
from eftlocal.runs.lines import LineError
from eftlocal.runtime.views import Message

USER, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}


def read(fields: dict[str, Any], *, scored: bool = False) -> Record:
    record = Form(where="in", scored=scored).record(1, fields)
    assert isinstance(record, Record), record
    assert record.fields == fields  # they are carried as they are
    return record


def refused(fields: dict[str, Any], *, scored: bool = False) -> LineError:
    error = Form(where="in", scored=scored).record(1, fields)
    assert isinstance(error, LineError), error
    return error


def openai(**body: Any) -> dict[str, Any]:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    return {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages, **body}}


def test_a_line_of_openais_batches_is_its_conversation_with_its_settings() -> None:
    record = read(openai(model="gpt", temperature=0, max_completion_tokens=5, n=2, seed=3, stop="x", top_p=None))
    assert record.prompt == [Message("system", "Be brief."), Message("user", "Hi")]
    assert record.dials == {"temperature": 0.0, "max_tokens": 5, "seed": 3, "stop": ["x"]} and record.samples == 2
    assert read(openai(logprobs=True, top_logprobs=4)).dials == {"logprobs": 4}
    assert read(openai(logprobs=True)).dials == {"logprobs": 0} and read(openai(logprobs=False)).dials == {}


def test_the_response_format_of_openais_batches_is_a_shape() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for wanted, expected in ((named, schema), ({"type": "json_object"}, {"type": "object"})):
        constraint = read(openai(response_format=wanted)).dials["constraint"]
        assert constraint is not None and json.loads(constraint.text) == expected
    assert read(openai(response_format={"type": "text"})).dials == {}


def test_a_lines_own_fields_go_before_those_of_a_format() -> None:
    assert read({**openai(temperature=0), "temperature": 1, "beta": 2}).dials == {"temperature": 1.0, "beta": 2.0}


def test_sharegpt_that_ends_with_a_question_is_a_conversation() -> None:
    record = read({"id": "x", "conversations": [{"from": "system", "value": "S"}, USER, GPT, USER]})
    assert record.prompt == [
        Message("system", "S"),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Hi"),
    ]
    assert read({"conversations": [{"role": "user", "content": "Hi"}]}).prompt == [Message("user", "Hi")]


def test_gsm8k_and_one_turn_of_mt_bench_are_prompts() -> None:
    assert read({"question": "1 + 1?", "answer": "2", "id": 3, "beta": 2}).prompt == [Message("user", "1 + 1?")]
    assert read({"question_id": 81, "category": "writing", "turns": ["Hi"]}).prompt == [Message("user", "Hi")]


def test_a_prompt_of_ours_goes_first() -> None:
    assert read({"prompt": "a", "conversations": [GPT], "instruction": "b"}).prompt == [Message("user", "a")]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (openai(tools=[]), "body.tools is not supported"),
        (openai(response_format={"type": "xml"}), "body.response_format is an object, which is not supported"),
        ({"custom_id": "1", "body": {"prompt": "a"}}, "body has no messages"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "conversations[0].from is 'tool'; it must be one of"),
        ({"conversations": [{"from": "human"}]}, "messages[0].content is null; it must be a string"),
        ({"conversations": []}, "has no prompt"),
        ({"question": "a", "answer": "b", "choices": ["c"]}, "has no prompt"),
    ],
)
def test_what_cannot_be_read_in_a_known_format_is_told(fields: dict[str, Any], problem: str) -> None:
    error = refused(fields)
    assert error.problem.startswith(problem) and error.hint != ""


@pytest.mark.parametrize(
    ("fields", "problem", "scored", "converted"),
    [
        (
            {"instruction": "Add.", "input": "1, 2", "output": "3"},
            "has an instruction and no prompt, as in Alpaca's format",
            False,
            {"prompt": "Add.\n\n1, 2"},
        ),
        ({"instruction": "Sing.", "input": "", "output": "La"}, "has an instruction", False, {"prompt": "Sing."}),
        ({"instruction": "Sing."}, "has an instruction", False, {"prompt": "Sing."}),
        ({"conversations": [USER, GPT]}, "conversations ends with an answer", False, {"conversations": [USER]}),
        (
            {"conversations": [USER, GPT]},
            "conversations ends with an answer",
            True,
            {"conversations": [USER], "completion": "Hello"},
        ),
        ({"turns": ["a", "b"]}, "has 2 turns without the answers between them", False, {"prompt": "a"}),
        ({"id": "7", "query": "a"}, "has no prompt", False, {"prompt": "a"}),
    ],
)
def test_the_command_in_a_hint_converts_the_line(
    fields: dict[str, Any], problem: str, scored: bool, converted: dict[str, Any]
) -> None:
    error = refused(fields, scored=scored)
    assert error.problem.startswith(problem) and error.hint is not None
    assert len(str(error)) < 300
    program = error.hint.partition("jq -c '")[2].partition("' FILE")[0]
    if (jq := shutil.which("jq")) is None:
        pytest.skip("jq is not installed")
    made = subprocess.run([jq, "-c", program], input=json.dumps(fields), capture_output=True, check=True, text=True)
    assert json.loads(made.stdout) == {**fields, **converted}
    read(json.loads(made.stdout), scored=scored)
