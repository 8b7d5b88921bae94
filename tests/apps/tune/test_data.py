"""Tests of reading training data: every known form is an example, and every broken line is told with its number."""

import json
from pathlib import Path
from typing import Any

import pytest

from eftlocal.apps.tune.data import prompt_of, read, split
from eftlocal.errors import EftError
from eftlocal.runs.examples import Chat, Pair, Record, Text
from eftlocal.runtime.views import Message

ASKED = (Message("user", "Hi"),)
ANSWERED = (*ASKED, Message("assistant", "Hello"))
BRIEF = Message("system", "Be brief.")
SYSTEM = {"role": "system", "content": "Be brief."}


def U(content: Any) -> dict[str, Any]:  # noqa: N802
    return {"role": "user", "content": content}


def A(content: Any) -> dict[str, Any]:  # noqa: N802
    return {"role": "assistant", "content": content}


def of(folder: Path, *lines: Any, name: str = "data.jsonl") -> Path:
    """A file with these lines: values are written as JSON, texts as they are."""
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def only(folder: Path, fields: dict[str, Any]) -> Record:
    data = read([of(folder, fields)])
    assert not data.problems, data.problems
    (record,) = data.records
    return record


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"messages": [U("Hi"), A("Hello")]}, ANSWERED),
        ({"messages": [{"role": "developer", "content": "Be brief."}, U("Hi"), A("Hello")]}, (BRIEF, *ANSWERED)),
        ({"messages": [U([{"type": "text", "text": "Hi"}]), A("Hello")], "system": "Be brief."}, (BRIEF, *ANSWERED)),
        ({"prompt": "Hi", "completion": "Hello", "id": 3}, ANSWERED),
        ({"prompt": "Hi", "completion": "Hello", "system": "Be brief."}, (BRIEF, *ANSWERED)),
        (
            {"prompt": [{"role": "system", "content": "Be brief."}, U("Hi")], "completion": [A("Hello")]},
            (BRIEF, *ANSWERED),
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, ANSWERED),
        ({"question": "Hi", "answer": "Hello", "id": 1}, ANSWERED),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, ANSWERED),
        ({"instruction": "Say", "input": "Hi", "output": "Hello"}, (Message("user", "Say\n\nHi"), ANSWERED[1])),
        ({"messages": [U("Hi"), A("Hello")], "chosen": None, "text": None}, ANSWERED),
    ],
)
def test_each_known_form_is_its_conversation(
    tmp_path: Path, fields: dict[str, Any], messages: tuple[Message, ...]
) -> None:
    record = only(tmp_path, fields)
    assert isinstance(record, Chat) and record.messages == messages and record.where.endswith("data.jsonl:1")


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
        {"prompt": [U("Hi")], "chosen": [A("Hello")], "rejected": [A("No")]},
        {"chosen": [U("Hi"), A("Hello")], "rejected": [U("Hi"), A("No")]},
    ],
)
def test_each_form_of_a_pair_is_its_two_answers(tmp_path: Path, fields: dict[str, Any]) -> None:
    record = only(tmp_path, fields)
    assert isinstance(record, Pair)
    assert (record.prompt, record.chosen, record.rejected) == (ASKED, "Hello", "No")


def test_a_text_is_a_text_and_a_text_file_is_one(tmp_path: Path) -> None:
    record = only(tmp_path, {"text": "Once.\n\nTwice."})
    assert isinstance(record, Text) and record.text == "Once.\n\nTwice."
    path = tmp_path / "notes.md"
    path.write_bytes(b"\xef\xbb\xbf# Notes\n\nOne.\n")
    (whole,) = read([path]).records
    assert isinstance(whole, Text) and whole.text == "# Notes\n\nOne.\n"


def test_answers_of_weight_0_are_context(tmp_path: Path) -> None:
    said = [U("Hi"), {**A("Hello"), "weight": 0}, U("Again"), {**A("Hi"), "weight": 1}]
    record = only(tmp_path, {"messages": said, "system": "Be brief."})
    assert isinstance(record, Chat) and record.left_out == {2}  # the system text is the first


def test_a_table_is_read_by_its_columns(tmp_path: Path) -> None:
    path = of(tmp_path, "prompt,completion,system", '"Hi",Hello,', "Hi,Hello,Be brief.", name="data.csv")
    first, second = read([path]).records
    assert isinstance(first, Chat) and isinstance(second, Chat)
    assert first.messages == ANSWERED and second.messages == (BRIEF, *ANSWERED)
    assert second.where.endswith("data.csv:3")


def test_a_folder_is_read_with_its_folders_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name, text in (("b/2.jsonl", "two"), ("a.jsonl", "one"), (".git/x.jsonl", "hidden")):
        of(tmp_path, {"text": text}, name=name)
    (tmp_path / "picture.png").write_bytes(b"png")
    data = read([tmp_path, tmp_path / "a.jsonl"])  # a file that was given twice is read once
    assert [record.text for record in data.records if isinstance(record, Text)] == ["one", "two"]
    assert [path.name for path in data.ignored] == ["picture.png"]
    assert data.digest == read([tmp_path]).digest != read([tmp_path / "a.jsonl"]).digest


def test_a_json_file_is_a_list_or_lines_and_one_object_in_a_folder_is_not_data(tmp_path: Path) -> None:
    listed = of(tmp_path, json.dumps([{"text": "one"}, {"text": "two"}], indent=1), name="list.json")
    lines = of(tmp_path, {"text": "three"}, {"text": "four"}, name="w.json")
    settings = of(tmp_path, json.dumps({"name": "a program"}, indent=1), name="package.json")
    data = read([tmp_path])
    assert [record.text for record in data.records if isinstance(record, Text)] == ["one", "two", "three", "four"]
    assert data.unread == "not read: package.json" and read([listed, lines]).records == data.records
    problem, *_ = read([settings]).problems  # named by the user, it is told
    assert "package.json:1: is not JSON" in problem.message
    (wrong,) = read([of(tmp_path, '[{"text": "one"},', "3]", name="wrong.json")]).problems
    assert wrong.message.endswith("wrong.json:2: is not a JSON object")


# --- what is broken ---------------------------------------------------------------------------------------------------

GOOD = {"prompt": "Hi", "completion": "Hello"}

BROKEN: list[tuple[Any, str]] = [
    ('{"prompt": "Hi", "completion": "Hel', "is not JSON: Unterminated string"),
    ("[1, 2]", "is not a JSON object"),
    ('"Hi"', "is not a JSON object"),
    ('{"prompt": NaN}', "is not JSON: NaN is no number"),
    ({}, "is empty"),
    ({"id": 3, "question": "Hi"}, "has no example: its fields are id, question"),
    ({"prompt": "Hi"}, "has a question and no answer"),
    ({"completion": "Hello"}, "has no prompt"),
    ({"prompt": "Hi", "completion": 3}, "completion is 3; it must be a string"),
    ({"prompt": "Hi", "completion": " \n"}, "the answer is empty"),
    ({"prompt": "", "completion": "Hello"}, "the prompt is empty"),
    ({"messages": []}, "messages is empty; it must be a list of messages"),
    ({"messages": [U("Hi")]}, "has no answer: no message is the assistant's"),
    ({"messages": [U("Hi"), A("Hello"), U("Bye")]}, "ends with a message of the user, and not with an answer"),
    ({"messages": [U("Hi"), {"role": "tool", "content": "x"}]}, "A message has the role 'tool'"),
    ({"messages": [U("Hi"), A(3)]}, "messages[1].content is 3; it must be a string"),
    ({"messages": [U("Hi"), {**A("Hello"), "weight": 0}]}, "has no answer to train on: each has the weight 0"),
    ({"messages": [U("Hi"), {**A("Hello"), "weight": 2}]}, "messages[1].weight is 2; it must be 0 or 1"),
    ({"conversations": [{"from": "bird", "value": "Hi"}]}, "conversations[0].from is 'bird'; it must be one of"),
    ({"instruction": "Hi"}, "has an instruction and no output"),
    ({"text": "  "}, "the text is empty"),
    ({"turns": ["Hi"]}, "has a question and no answer"),
    ({"prompt": "Hi", "chosen": "Hello"}, "has chosen and no rejected"),
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Hello"}, "chosen and rejected are the same"),
    ({"chosen": "Hello", "rejected": "No"}, "has no prompt"),
    ({"prompt": "Hi", "chosen": [U("x")], "rejected": "No"}, "chosen must be one answer of the assistant"),
]


@pytest.mark.parametrize(("line", "problem"), BROKEN, ids=[problem for _, problem in BROKEN])
def test_a_broken_line_is_told_with_its_number_and_the_others_are_read(tmp_path: Path, line: Any, problem: str) -> None:
    pair = isinstance(line, dict) and ("chosen" in line or "rejected" in line)
    good = {"prompt": "Hi", "chosen": "Hello", "rejected": "No"} if pair else GOOD
    path = of(tmp_path, good, "", line, good)
    data = read([path])
    assert [error.message.partition(problem)[0] for error in data.problems] == [f"{path}:3: "], data.problems
    assert [record.where for record in data.records] == [f"{path}:1", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"Caf\xe9\n", ":1: is not UTF-8 text"),
        ("a.txt", b"one\ntwo \xff\n", ":2: is not UTF-8 text"),
        ("a.md", b" \n", ":1: the text is empty"),
        ("a.jsonl", b'{"text": "a"}\n\xff\xfe\n', ":2: is not UTF-8 text"),
        (
            "a.csv",
            b"question,reply\nHi,Hello\n",
            ":1: the header has the columns question, reply, which are no examples",
        ),
        ("a.csv", b"prompt,completion\nHi\n", ":2: has 1 columns, the header 2"),
        ("a.csv", b'prompt,completion\nHi,"Hello\n', ":2: a quote is opened here and never closed"),
    ],
)
def test_a_broken_file_is_told_with_the_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    (problem,) = read([path]).problems
    assert problem.message.startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"\n\n", "there is no example"),
        ("a.jsonl", "{}".encode("utf-16"), "is UTF-16 text"),
        ("a.json", b"[]", "there is no example"),
        ("a.parquet", b"PAR1", "the format cannot be told"),
        ("missing.jsonl", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_an_error(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(EftError, match=message):
        read([tmp_path / name])


def test_pairs_beside_other_examples_are_a_problem(tmp_path: Path) -> None:
    path = of(tmp_path, GOOD, {"prompt": "Hi", "chosen": "Hello", "rejected": "No"})
    (problem,) = read([path]).problems
    assert problem.message == f"{path}:2: is a pair of answers, and {path}:1 is not: both cannot be trained together"


# --- what is kept back ------------------------------------------------------------------------------------------------


def questions(n: int, answers: int = 1) -> tuple[Chat, ...]:
    return tuple(
        Chat(f"x:{i}.{j}", (Message("user", f"Question {i}?"), Message("assistant", f"Answer {j}.")))
        for i in range(n)
        for j in range(answers)
    )


@pytest.mark.parametrize(("n", "back"), [(1, 0), (2, 1), (15, 2), (100, 10), (5000, 200)])
def test_a_tenth_of_the_prompts_is_kept_back(n: int, back: int) -> None:
    found = split(questions(n))
    assert (len(found.trained), len(found.held_out)) == (n - back, back)


def test_no_prompt_is_in_both_parts(tmp_path: Path) -> None:
    records = questions(40, answers=3)
    found = split(records)
    assert not {prompt_of(r) for r in found.trained} & {prompt_of(r) for r in found.held_out}
    assert len(found.held_out) == 12 and set(found.trained) | set(found.held_out) == set(records)
    assert split(records) == found != split(records, seed=1)
    other = Chat("y:1", (Message("user", "  Question\n7? "), Message("assistant", "Another.")))
    given = split(records, [other])
    assert given.held_out == (other,) and given.moved == 3
    assert all(prompt_of(record) != prompt_of(other) for record in given.trained)
