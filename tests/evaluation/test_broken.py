"""Broken data: whatever is wrong in a line is told with its file and line, in one or two lines, and never a traceback.

Each kind of data has three lines. The second is broken in each way that the tables name, and the other two are still
read. A mistake that no line can be blamed for (UTF-16, a table's header) ends the reading with an error of ours.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from eftlocal.errors import EftError
from eftlocal.evaluation import ifeval
from eftlocal.evaluation.data import Data, read
from eftlocal.runs import lines as limits

GONE: Final = object()
TURNS: Final = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]

GOOD: Final[Mapping[str, dict[str, Any]]] = {
    "question": {"prompt": "2+2?", "answer": "4", "check": "number", "kind": "knowledge"},
    "choices": {"prompt": "Where?", "choices": ["Paris", "Lyon", "Nice"], "answer": "B"},
    "preference": {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
    "conversation": {"messages": TURNS},
    "text": {"text": "A text."},
    "gsm8k": {"question": "How many?", "answer": "24 + 48 = 72\n#### 72"},
    "truthfulqa": {
        "question": "Is it?",
        "mc1_targets": {"choices": ["Yes", "No"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Yes", "It is", "No"], "labels": [1, 1, 0]},
    },
    "hellaswag": {
        "activity_label": "Roof",
        "ctx_a": "A man sits.",
        "ctx_b": "he",
        "endings": ["stands.", "sits.", "runs.", "eats."],
        "label": "2",
    },
    "winogrande": {"sentence": "Ann helped Bea as _ was ill.", "option1": "Ann", "option2": "Bea", "answer": "2"},
    "piqa": {"goal": "Boil butter.", "sol1": "Use a pan.", "sol2": "Use a hat.", "label": 0},
    "arc": {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
    "mmlu": {"question": "Why?", "choices": ["w", "x", "y", "z"], "answer": 2},
    "ifeval": {"key": 1, "prompt": "Say it.", "instruction_id_list": ["known"], "kwargs": [{"n": None}]},
}

# --- what may happen to any line of JSON ------------------------------------------------------------------------------

DEEP: Final = b"[" * 100_000 + b"]" * 100_000


def bytes_of(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def some_field(record: dict[str, Any]) -> bytes:
    return json.dumps(next(iter(record))).encode()


ANY_LINE: Final[Mapping[str, tuple[Callable[[dict[str, Any]], bytes], str | tuple[str, ...]]]] = {
    "cut in the middle": (lambda r: bytes_of(r)[: len(bytes_of(r)) // 2], "is not JSON: "),
    "without its brace": (lambda r: bytes_of(r)[:-1], "is not JSON: "),
    "a comma at the end": (lambda r: bytes_of(r)[:-1] + b",}", "is not JSON: "),
    "single quotes": (lambda r: bytes_of(r).replace(b'"', b"'"), "is not JSON: "),
    "two on a line": (lambda r: bytes_of(r) + b" " + bytes_of(r), "is not JSON: Extra data"),
    "NaN": (lambda r: bytes_of(r)[:-1] + b', "x": NaN}', "is not JSON: NaN is no number"),
    "infinity": (lambda r: bytes_of(r)[:-1] + b', "x": -Infinity}', "is not JSON: -Infinity is no number"),
    "a field twice": (lambda r: bytes_of(r)[:-1] + b", " + some_field(r) + b": 1}", "is not JSON: it has "),
    "not UTF-8": (lambda r: bytes_of(r)[:-1] + b', "x": "\xe9"}', "is not UTF-8 text (byte "),
    "half of a pair": (lambda r: bytes_of(r)[:-1] + b', "x": "\\ud800"}', "has half of a surrogate pair"),
    "a zero byte": (lambda r: bytes_of(r)[:-1] + b', "x": "\x00"}', "is not JSON: Invalid control character"),
    "a list": (lambda r: b"[" + bytes_of(r) + b"]", "is not a JSON object"),
    "a text": (lambda r: b'"prompt"', "is not a JSON object"),
    "too deep": (lambda r: bytes_of(r)[:-1] + b', "x": ' + DEEP + b"}", "is not JSON: nested too deeply"),
    "a long number": (lambda r: bytes_of(r)[:-1] + b', "x": ' + b"1" * 5000 + b"}", "is not JSON: "),
    "no field": (lambda r: b"{}", ("is empty", "has no ", "is not in the form")),
    "only nulls": (lambda r: bytes_of(dict.fromkeys(r)), ("is empty", "has no ", "is not in the form")),
    "other fields": (lambda r: b'{"premise": "x"}', ("has no ", "is not in the form")),
    "a kind that is no text": (lambda r: bytes_of({**r, "kind": 3}), "kind is 3; it must be a text"),
    "too long": (lambda r: bytes_of({**r, "x": "x" * 5000}), "is longer than 0 MB"),
}

# --- what may be wrong in a field: kind -> the fields that change, and what is told -----------------------------------

FIELDS: Final[Mapping[str, list[tuple[dict[str, Any], str]]]] = {
    "question": [
        ({"prompt": GONE}, "has no known form"),
        ({"prompt": 7}, "prompt is 7; it must be a string"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [{"role": "user"}]}, "prompt[0].content is null"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "A message has the role 'robot'"),
        ({"prompt": [TURNS[1]]}, "the messages end with an answer"),
        ({"messages": TURNS[:1]}, "has both prompt and messages"),
        ({"answer": GONE, "check": GONE}, "has a prompt and nothing to measure: its fields are prompt, kind"),
        ({"answer": GONE}, "has the check number and no answer"),
        ({"answer": ""}, "the answer is empty"),
        ({"answer": True}, "answer is true; it must be a string"),
        ({"answer": {"x": 1}}, "answer is an object; it must be a string"),
        ({"answer": []}, "answer has 0 texts; it needs at least 1"),
        ({"answer": ["4", None]}, "answer[1] is null; it must be a string"),
        ({"answers": ["4"]}, "has both answer and answers"),
        ({"answer": "four"}, "has the check number, and no number in the answer 'four'"),
        ({"check": "numbers"}, "check is 'numbers'; it must be one of"),
        ({"check": {"regex": "("}}, "check regex has a pattern that Python cannot read"),
        ({"check": {"json-schema": {"type": "objekt"}}}, "check json-schema is no JSON Schema"),
        ({"check": ["number"]}, "check is a list; it must be one of"),
    ],
    "choices": [
        ({"prompt": None}, "has no known form"),
        ({"choices": None, "answer": None}, "has a prompt and nothing to measure"),
        ({"choices": "Paris"}, "choices is 'Paris'; it must be a list of texts"),
        ({"choices": ["Paris"]}, "choices has 1 text; it needs at least 2"),
        ({"choices": ["Paris", ""]}, "choices[1] is empty"),
        ({"choices": ["Paris", ["Lyon"]]}, "choices[1] is a list; it must be a string"),
        ({"choices": ["Paris", "Paris"]}, "has the choice 'Paris' twice"),
        ({"choices": {"text": ["Paris"]}}, "choices is an object; it must be a list of texts"),
        ({"answer": None}, "has choices and no answer"),
        ({"answer": 3}, "answer is 3; there are 3 choices"),
        ({"answer": -1}, "answer is -1; there are 3 choices"),
        ({"answer": "D"}, "answer is 'D'; there are 3 choices"),
        ({"answer": "9" * 5000}, "answer is '999"),
        ({"answer": "Rome"}, "answer is 'Rome', which is none of the 3 choices"),
        ({"answer": ""}, "answer is '', which is none of the 3 choices"),
        ({"answer": 1.5}, "answer is 1.5, which is none of the 3 choices"),
        ({"answer": True}, "answer is true, which is none of the 3 choices"),
        ({"answer": []}, "has choices and no answer"),
        ({"answer": ["Paris", "Rome"]}, "answer is 'Rome', which is none of the 3 choices"),
        ({"check": "exact"}, "has choices and the check 'exact'; with choices it can be choice"),
        ({"check": "choise"}, "check is 'choise'"),
    ],
    "preference": [
        ({"prompt": None}, "has no prompt"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": 3}, "prompt is 3; it must be a string"),
        ({"chosen": None}, "has rejected and no chosen"),
        ({"rejected": None}, "has chosen and no rejected"),
        ({"chosen": ""}, "chosen is empty"),
        ({"rejected": " \n"}, "rejected is empty"),
        ({"chosen": 1}, "chosen is 1; it must be a string"),
        ({"rejected": {"content": "x"}}, "rejected is an object; it must be a string"),
        ({"rejected": "Hello!"}, "chosen and rejected are the same"),
        ({"chosen": []}, "chosen is empty; it must be a list of messages"),
        ({"chosen": [{"content": "x"}]}, "chosen[0].role is null"),
        ({"chosen": [{"role": "user", "content": "x"}]}, "chosen must be one answer of the assistant"),
        ({"chosen": TURNS}, "chosen must be one answer of the assistant"),
        ({"chosen": [TURNS[1]], "rejected": [{**TURNS[1], "content": ""}]}, "rejected is empty"),
        ({"prompt": None, "chosen": TURNS, "rejected": TURNS}, "chosen and rejected are the same"),
        ({"prompt": "Bye", "chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant"}]}, "chosen must be one"),
        ({"system": 4}, "system is 4; it must be a string"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "prompt[0].content[0].type is 'image'"),
        ({"prompt": ["Hi"]}, "prompt[0] is 'Hi'; it must be an object with role and content"),
    ],
    "conversation": [
        ({"messages": "Hi"}, "messages is 'Hi'; it must be a list of messages"),
        ({"messages": []}, "messages is empty; it must be a list of messages"),
        ({"messages": {}}, "messages is empty; it must be a list of messages"),
        ({"messages": ["Hi"]}, "messages[0] is 'Hi'; it must be an object with role and content"),
        ({"messages": TURNS[:1]}, "has no answer: no message is the assistant's"),
        ({"messages": [*TURNS, TURNS[0]]}, "ends with a message of the user, and not with an answer"),
        ({"messages": TURNS[1:]}, "has an answer and no question before it"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": " "}]}, "the answer is empty"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": None}]}, "the answer is empty"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": 5}]}, "messages[1].content is 5"),
        ({"messages": [{"role": "user", "content": None}, TURNS[1]]}, "messages[0].content is null"),
        ({"messages": [{"role": 1, "content": "x"}, TURNS[1]]}, "messages[0].role is 1; it must be a string"),
        ({"messages": [{"role": "tool", "content": "x"}, TURNS[1]]}, "A message has the role 'tool'"),
        ({"messages": [{"content": "x"}, TURNS[1]]}, "messages[0].role is null"),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 2}]}, "messages[1].weight is 2; it must be 0 or 1"),
        ({"messages": [TURNS[0], {**TURNS[1], "weight": 0}]}, "has no answer to train on"),
        ({"messages": [TURNS[0], {**TURNS[1], "content": [{"type": "image"}]}]}, "messages[1].content[0].type is"),
        ({"messages": [TURNS[0], {**TURNS[1], "content": ["x"]}]}, "messages[1].content[0] is 'x'"),
        ({"system": ["x"]}, "system is a list; it must be a string"),
        ({"messages": GONE, "conversations": [{"from": "cat", "value": "x"}]}, "conversations[0].from is 'cat'"),
    ],
    "text": [
        ({"text": ""}, "the text is empty"),
        ({"text": " \n\t"}, "the text is empty"),
        ({"text": 4}, "has no example"),
        ({"text": ["A text."]}, "has no example"),
        ({"text": {"x": "y"}}, "has no example"),
        ({"text": False}, "has no example"),
        ({"text": GONE, "Text": "A text."}, "has no known form: its fields are Text"),
        ({"text": GONE, "content": "A text."}, "has no known form: its fields are content"),
    ],
    "gsm8k": [
        ({"question": GONE}, "has no question"),
        ({"question": None}, "has no question"),
        ({"question": ""}, "the question is empty"),
        ({"question": 5}, "question is 5; it must be a string"),
        ({"question": []}, "the question is empty"),
        ({"answer": GONE}, "has no answer"),
        ({"answer": None}, "has no answer"),
        ({"answer": " "}, "the answer is empty"),
        ({"answer": 72}, "answer is 72; it must be a string"),
        ({"answer": ["72"]}, "answer is a list; it must be a string"),
        ({"answer": "It is 72."}, "the answer does not end with #### and a number"),
        ({"answer": "It is 72 ####"}, "the answer does not end with #### and a number"),
        ({"answer": "It is 72 #### seventy"}, "the answer does not end with #### and a number"),
        ({"answer": "### 72"}, "the answer does not end with #### and a number"),
        ({"question": GONE, "Question": "?"}, "has no question"),
    ],
    "truthfulqa": [
        ({"question": GONE}, "has no question"),
        ({"question": " "}, "the question is empty"),
        ({"question": 1}, "question is 1; it must be a string"),
        ({"mc1_targets": []}, "mc1_targets is empty; it must be an object of answers with 0 or 1"),
        ({"mc1_targets": "Yes"}, "mc1_targets is 'Yes'; it must be an object of answers with 0 or 1"),
        ({"mc1_targets": {}}, "mc1_targets is empty"),
        ({"mc1_targets": {"Yes": 1}}, "mc1_targets has 1 text; it needs at least 2"),
        ({"mc1_targets": {"Yes": 0, "No": 0}}, "MC1 has 0 true of 2 answers; it needs one true answer"),
        ({"mc1_targets": {"Yes": 1, "No": 1}}, "MC1 has 2 true of 2 answers; it needs one true answer"),
        ({"mc1_targets": {"Yes": 1, "It is": 1, "No": 0}}, "MC1 has 2 true of 3 answers; it needs one true answer"),
        ({"mc2_targets": {"Yes": 1, "No": 1}}, "MC2 has 2 true of 2 answers; it needs true and false answers"),
        ({"mc2_targets": {"Yes": 0, "No": 0}}, "MC2 has 0 true of 2 answers; it needs true and false answers"),
        ({"mc1_targets": {"Yes": "1", "No": "0"}}, "mc1_targets has the label '1'; each must be 0 or 1"),
        ({"mc1_targets": {"Yes": True, "No": False}}, "mc1_targets has the label true; each must be 0 or 1"),
        ({"mc1_targets": {"Yes": 2, "No": 0}}, "mc1_targets has the label 2; each must be 0 or 1"),
        ({"mc1_targets": {"Yes": 1, "": 0}}, "mc1_targets[1] is empty"),
        ({"mc1_targets": {"choices": ["Yes", "No"], "labels": [1]}}, "mc1_targets has not a label for each choice"),
        ({"mc1_targets": {"choices": ["Yes", "No"], "labels": None}}, "mc1_targets has not a label for each choice"),
        ({"mc1_targets": {"choices": "Yes", "labels": [1]}}, "choices is 'Yes'; it must be a list of texts"),
        ({"mc1_targets": {"choices": ["Yes", 4.5, []], "labels": [1, 0, 0]}}, "choices[2] is empty; it must be"),
        ({"mc1_targets": GONE, "mc2_targets": GONE}, "has no mc1_targets and no mc2_targets"),
    ],
    "hellaswag": [
        ({"ctx_a": GONE}, "has no ctx"),
        ({"ctx_a": ""}, "the ctx_a is empty"),
        ({"ctx_a": 3}, "ctx_a is 3; it must be a string"),
        ({"ctx_b": 3}, "ctx_b is 3; it must be a string"),
        ({"activity_label": ""}, "the activity_label is empty"),
        ({"activity_label": []}, "activity_label is empty; it must be a string"),
        ({"endings": GONE}, "has no endings"),
        ({"endings": "stands."}, "endings is 'stands.'; it must be a list of texts"),
        ({"endings": []}, "endings has 0 texts; it needs at least 2"),
        ({"endings": ["stands."]}, "endings has 1 text; it needs at least 2"),
        ({"endings": ["stands.", "", "x"]}, "endings[1] is empty"),
        ({"endings": ["stands.", "[step]", "x"], "label": "0"}, "endings[1] is empty"),
        ({"endings": ["stands.", None]}, "endings[1] is null; it must be a string"),
        ({"label": GONE}, "has no label"),
        ({"label": ""}, "has no label"),
        ({"label": "4"}, "label is '4'; there are 4 choices"),
        ({"label": 4}, "label is 4; there are 4 choices"),
        ({"label": -1}, "label is -1; there are 4 choices"),
        ({"label": "x"}, "label is 'x'; there are 4 choices"),
        ({"label": "first"}, "label is 'first', which is none of the 4 choices"),
        ({"label": 1.0}, "label is 1.0, which is none of the 4 choices"),
        ({"label": [2]}, "label is a list, which is none of the 4 choices"),
    ],
    "winogrande": [
        ({"sentence": GONE}, "has no sentence"),
        ({"sentence": ""}, "the sentence is empty"),
        ({"sentence": 8}, "sentence is 8; it must be a string"),
        ({"sentence": "Ann was ill."}, "the sentence has no blank (_) with a text after it"),
        ({"sentence": "Ann helped _"}, "the sentence has no blank (_) with a text after it"),
        ({"sentence": "Ann helped _  "}, "the sentence has no blank (_) with a text after it"),
        ({"sentence": "_ helped _ then."}, "the sentence has 2 blanks (_)"),
        ({"option1": GONE}, "has no option1"),
        ({"option1": ""}, "the option1 is empty"),
        ({"option2": GONE}, "has no option2"),
        ({"option2": 3}, "option2 is 3; it must be a string"),
        ({"option2": "Ann"}, "both options are 'Ann'"),
        ({"answer": GONE}, "has no answer"),
        ({"answer": ""}, "has no answer"),
        ({"answer": "3"}, "answer is '3'; it must be 1 or 2"),
        ({"answer": 0}, "answer is 0; it must be 1 or 2"),
        ({"answer": "A"}, "answer is 'A'; it must be 1 or 2"),
        ({"answer": "Ann"}, "answer is 'Ann'; it must be 1 or 2"),
        ({"answer": [1]}, "answer is a list; it must be 1 or 2"),
        ({"answer": True}, "answer is true; it must be 1 or 2"),
    ],
    "piqa": [
        ({"goal": GONE}, "has no goal"),
        ({"goal": ""}, "the goal is empty"),
        ({"goal": []}, "goal is empty; it must be a string"),
        ({"sol1": GONE}, "has no sol1"),
        ({"sol1": " "}, "the sol1 is empty"),
        ({"sol1": 3}, "sol1 is 3; it must be a string"),
        ({"sol2": GONE}, "has no sol2"),
        ({"sol2": None}, "has no sol2"),
        ({"sol2": ""}, "the sol2 is empty"),
        ({"label": GONE}, "has no label"),
        ({"label": ""}, "has no label"),
        ({"label": 2}, "label is 2; there are 2 choices"),
        ({"label": -1}, "label is -1; there are 2 choices"),
        ({"label": "2"}, "label is '2'; there are 2 choices"),
        ({"label": "sol1"}, "label is 'sol1', which is none of the 2 choices"),
        ({"label": True}, "label is true, which is none of the 2 choices"),
        ({"label": 0.5}, "label is 0.5, which is none of the 2 choices"),
    ],
    "arc": [
        ({"question": GONE}, "has no question"),
        ({"question": ""}, "the question is empty"),
        ({"question": 7}, "question is 7; it must be a string"),
        ({"choices": GONE}, "has no choices"),
        ({"choices": ["x", "y"]}, "choices is a list; it must be an object with text and label"),
        ({"choices": {}}, "has no text"),
        ({"choices": {"text": ["x", "y"]}}, "has no label"),
        ({"choices": {"text": ["x"], "label": ["A"]}}, "text has 1 text; it needs at least 2"),
        ({"choices": {"text": ["x", "y"], "label": ["A"]}}, "label has 1 text; it needs at least 2"),
        ({"choices": {"text": ["x", "y", "z"], "label": ["A", "B"]}}, "has 3 choices and 2 labels"),
        ({"choices": {"text": ["x", ""], "label": ["A", "B"]}}, "text[1] is empty"),
        ({"choices": {"text": "x", "label": "A"}}, "text is 'x'; it must be a list of texts"),
        ({"choices": [{"text": "x"}, {"text": "y"}]}, "label[0] is null; it must be a string"),
        ({"question": {"stem": "Why?"}}, "has no choices"),
        ({"question": {"choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]}}, "has no "),
        ({"answerKey": GONE}, "has no answerKey"),
        ({"answerKey": ""}, "the answerKey is empty"),
        ({"answerKey": 1}, "answerKey is 1; it must be a string"),
        ({"answerKey": "C"}, "answerKey is 'C'; the labels are A, B"),
        ({"answerKey": "y"}, "answerKey is 'y'; the labels are A, B"),
    ],
    "mmlu": [
        ({"question": GONE}, "has no question"),
        ({"question": ""}, "the question is empty"),
        ({"question": {"stem": "x"}}, "question is an object; it must be a string"),
        ({"choices": GONE}, "has no choices"),
        ({"choices": "w"}, "choices is 'w'; it must be a list of texts"),
        ({"choices": []}, "choices has 0 texts; it needs at least 2"),
        ({"choices": ["w"]}, "choices has 1 text; it needs at least 2"),
        ({"choices": ["w", ""]}, "choices[1] is empty"),
        ({"choices": ["w", None]}, "choices[1] is null; it must be a string"),
        ({"choices": [str(i) for i in range(27)]}, "has 27 choices; at most 26 have a letter"),
        ({"answer": GONE}, "has no answer"),
        ({"answer": ""}, "has no answer"),
        ({"answer": 4}, "answer is 4; there are 4 choices"),
        ({"answer": "E"}, "answer is 'E'; there are 4 choices"),
        ({"answer": -1}, "answer is -1; there are 4 choices"),
        ({"answer": "first"}, "answer is 'first', which is none of the 4 choices"),
        ({"answer": 1.5}, "answer is 1.5, which is none of the 4 choices"),
        ({"answer": [2]}, "answer is a list, which is none of the 4 choices"),
        ({"answer": False}, "answer is false, which is none of the 4 choices"),
    ],
    "ifeval": [
        ({"prompt": GONE}, "has no prompt"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": 3}, "prompt is 3; it must be a string"),
        ({"instruction_id_list": GONE}, "has no instruction_id_list"),
        ({"instruction_id_list": "known"}, "instruction_id_list is 'known'; it must be a list of texts"),
        ({"instruction_id_list": []}, "instruction_id_list has 0 texts; it needs at least 1"),
        ({"instruction_id_list": [3]}, "has the instruction '3', which IFEval's checks do not know"),
        ({"instruction_id_list": ["unknown"]}, "has the instruction 'unknown'"),
        ({"instruction_id_list": ["known", "known"]}, "has 2 instructions and 1 kwargs"),
        ({"kwargs": GONE}, "kwargs is null; it must be a list of objects"),
        ({"kwargs": {}}, "kwargs is empty; it must be a list of objects"),
        ({"kwargs": [None]}, "kwargs is a list; it must be a list of objects"),
        ({"kwargs": []}, "has 1 instructions and 0 kwargs"),
        ({"kwargs": [{"m": 3}]}, "the kwargs of known cannot be used: TypeError"),
        ({"kwargs": [{"n": "x"}]}, "the kwargs of known cannot be used: ValueError"),
    ],
}  # fmt: skip


class Known:
    """A check as IFEval's are, with one argument."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build_description(self, n: int = 0) -> None:
        int(n)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifeval, "_registry", lambda: {"known": Known})


def told(found: Data, path: Path, line: int, said: str | tuple[str, ...]) -> None:
    """Asserts that just this line is wrong, in words that fit in two lines."""
    assert len(found.problems) == 1, [problem.message for problem in found.problems]
    (problem,) = found.problems
    start = f"{path}:{line}: "
    assert problem.message.startswith(tuple(start + each for each in ([said] if isinstance(said, str) else said)))
    assert len(problem.message) - len(start) <= 160 and len(problem.hint or "") <= 240
    assert "\n" not in problem.message + (problem.hint or "") and problem.message.isprintable()


def cases() -> Iterator[Any]:
    for kind, good in GOOD.items():
        for name, (breaks, said) in ANY_LINE.items():
            yield pytest.param(kind, breaks(good), said, id=f"{kind}, {name}")
        for changes, said_of_field in FIELDS[kind]:
            record = {name: value for name, value in (good | changes).items() if value is not GONE}
            yield pytest.param(kind, bytes_of(record), said_of_field, id=f"{kind}, {said_of_field}"[:70])


def test_each_kind_is_broken_in_20_ways_at_least() -> None:
    assert GOOD.keys() == FIELDS.keys() and all(len(ANY_LINE) + len(FIELDS[kind]) >= 28 for kind in GOOD)


@pytest.mark.parametrize(("kind", "broken", "said"), list(cases()))
def test_a_broken_line_of_json_is_told_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, broken: bytes, said: str | tuple[str, ...]
) -> None:
    if len(broken) > 5000 and b"xxx" in broken:
        monkeypatch.setattr(limits, "LINE_LIMIT", 4000)
    good = bytes_of(GOOD[kind])
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join((good, broken, good)) + b"\n")
    found = read([path])
    told(found, path, 2, said)
    lines = [item.where.rpartition(":")[2] for item in found.items]
    assert sorted(set(lines)) == ["1", "3"]


# --- tables -----------------------------------------------------------------------------------------------------------

TABLES: Final[Mapping[str, tuple[str, str, list[tuple[str | bytes, str]]]]] = {
    # name -> header, a good row, and broken rows with what is told
    "questions": (
        "prompt,answer,check,kind\n",
        "2+2?,4,number,knowledge\n",
        [
            ("2+2?,4,number\n", "has 3 columns, the header 4"),
            ("2+2?,4,number,x,y\n", "has 5 columns, the header 4"),
            ('"2+2?,4,number,x\n', "a quote is opened here and never closed"),
            ('"2+2?"x,4,number,x\n', "is not CSV: "),
            (b"2+2\xe9?,4,number,x\n", "is not UTF-8 text"),
            (",4,number,x\n", "has no known form"),
            (" ,4,number,x\n", "has no known form"),
            ("2+2?,,number,x\n", "has the check number and no answer"),
            ("2+2?,,,x\n", "has a prompt and nothing to measure"),
            ("2+2?,four,number,x\n", "has the check number, and no number in the answer 'four'"),
            ("2+2?,4,sum,x\n", "check is 'sum'; it must be one of"),
            ("2+2?,[],number,x\n", "answer has 0 texts; it needs at least 1"),
            ('2+2?,"[""4"", null]",number,x\n', "answer[1] is null"),
            ('2+2?,4,"{""regex"": ""(""}",x\n', "check regex has a pattern that Python cannot read"),
            ('2+2?,4,"{""regex"": ""x""",x\n', "check is '{"),
            ('2+2?,4,"{""regex"": NaN}",x\n', "check is '{"),
            ("2+2?,4,regex,x\n", "check regex has no pattern"),
            ("2+2?,4,choice,x\n", "has the check choice and no choices"),
            ("2+2?,4,ifeval,x\n", "check is ifeval, which a line cannot name"),
            ("x" * 5000 + ",4,number,x\n", "is longer than 0 MB"),
        ],
    ),
    "TruthfulQA": (
        "Type,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n",
        "A,Is it?,Yes,Yes; It is,No; Never,https://x\n",
        [
            ("A,,Yes,Yes; It is,No; Never,x\n", "has no question"),
            ("A,Is it?,,Yes; It is,No; Never,x\n", "has no best_answer"),
            ("A,Is it?,Yes,,No; Never,x\n", "has no correct_answers"),
            ("A,Is it?,Yes,Yes,,x\n", "has no incorrect_answers"),
            ("A,Is it?,Yes,Yes,;,x\n", "MC1 has 1 true of 1 answers"),
            ("A,Is it?,Yes,;,No,x\n", "MC2 has 0 true of 1 answers"),
            ("A,Is it?,Yes,No\n", "has 4 columns, the header 6"),
            ("A,Is it, now?,Yes,Yes,No,x\n", "has 7 columns, the header 6"),
            ('A,"Is it?,Yes,Yes,No,x\n', "a quote is opened here and never closed"),
            ('A,"Is" it?,Yes,Yes,No,x\n', "is not CSV: "),
            (b"A,Is it\xff?,Yes,Yes,No,x\n", "is not UTF-8 text"),
            ("A,Is it?," + "y" * 5000 + ",Yes,No,x\n", "is longer than 0 MB"),
        ],
    ),
    "Winogrande": (
        "",
        "0,Ann helped Bea as _ was ill.,Ann,Bea,2\n",
        [
            ("1,Ann helped Bea as she was ill.,Ann,Bea,2\n", "the sentence has no blank (_)"),
            ("1,Ann helped _,Ann,Bea,2\n", "the sentence has no blank (_) with a text after it"),
            ("1,_ as _ was ill.,Ann,Bea,2\n", "the sentence has 2 blanks (_)"),
            ("1,,Ann,Bea,2\n", "has no sentence"),
            ("1,Ann helped as _ was ill.,,Bea,2\n", "has no option1"),
            ("1,Ann helped as _ was ill.,Ann,,2\n", "has no option2"),
            ("1,Ann helped as _ was ill.,Ann,Ann,2\n", "both options are 'Ann'"),
            ("1,Ann helped as _ was ill.,Ann,Bea,\n", "has no answer"),
            ("1,Ann helped as _ was ill.,Ann,Bea,0\n", "answer is '0'; it must be 1 or 2"),
            ("1,Ann helped as _ was ill.,Ann,Bea,3\n", "answer is '3'; it must be 1 or 2"),
            ("1,Ann helped as _ was ill.,Ann,Bea,Bea\n", "answer is 'Bea'; it must be 1 or 2"),
            ("1,Ann helped as _ was ill.,Ann,Bea\n", "has 4 columns, the header 5"),
            ("1,Ann, who helped as _ was ill.,Ann,Bea,2\n", "has 6 columns, the header 5"),
            ('1,"Ann helped as _ was ill.,Ann,Bea,2\n', "a quote is opened here and never closed"),
            ('1,"Ann" helped as _ was ill.,Ann,Bea,2\n', "is not CSV: "),
            (b"1,Ann helped \xc3 as _ was ill.,Ann,Bea,2\n", "is not UTF-8 text"),
        ],
    ),
    "MMLU": (
        "",
        "Why?,w,x,y,z,C\n",
        [
            (",w,x,y,z,C\n", "has no question"),
            ("Why?,,x,y,z,C\n", "choices[0] is empty"),
            ("Why?,w,x,y,,C\n", "choices[3] is empty"),
            ("Why?,w,x,y,z,\n", "has no answer"),
            ("Why?,w,x,y,z,E\n", "answer is 'E'; there are 4 choices"),
            ("Why?,w,x,y,z,4\n", "answer is '4'; there are 4 choices"),
            ("Why?,w,x,y,z,none\n", "answer is 'none', which is none of the 4 choices"),
            ("Why?,w,x,y,C\n", "has 5 columns, the header 6"),
            ("Why, now?,w,x,y,z,C\n", "has 7 columns, the header 6"),
            ('"Why?,w,x,y,z,C\n', "a quote is opened here and never closed"),
            (b"Why\xff?,w,x,y,z,C\n", "is not UTF-8 text"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        pytest.param(name, row, said, id=f"{name}, {said}"[:70])
        for name, (_, _, broken) in TABLES.items()
        for row, said in broken
    ],
)
def test_a_broken_row_of_a_table_is_told_and_the_rows_before_it_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, row: str | bytes, said: str
) -> None:
    if len(row) > 5000:
        monkeypatch.setattr(limits, "LINE_LIMIT", 4000)
    header, good, _ = TABLES[name]
    path = tmp_path / f"{name}.csv"
    path.write_bytes((header + good).encode() + (row if isinstance(row, bytes) else row.encode()))
    found = read([path])
    told(found, path, 2 + bool(header), said)
    assert {item.where for item in found.items} == {f"{path}:{1 + bool(header)}"}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a,b\n1,2\n", "the header has the columns a, b, which are no known data"),
        ("prompt,prompt,answer\nx,y,z\n", "two columns are named 'prompt'"),
        ("prompt\nx\n", "the header has the columns prompt, which are no known data"),
        ("Prompt;Answer\nx;y\n", "the header has the columns Prompt;Answer, which are no known data"),
        ('"prompt,answer\nx,y\n', "a quote is opened here and never closed"),
        (b"pr\xe9mpt,answer\nx,y\n", "is not UTF-8 text"),
    ],
)
def test_a_table_whose_header_cannot_be_used_is_told(tmp_path: Path, header: str | bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(header if isinstance(header, bytes) else header.encode())
    found = read([path])
    told(found, path, 1, said)
    assert not found.items


# --- lists in one JSON file -------------------------------------------------------------------------------------------

GOOD_ITEM: Final = '{"prompt": "?", "answer": "!"}'


@pytest.mark.parametrize(
    ("text", "line", "said", "read_before"),
    [
        (f"[\n{GOOD_ITEM},\n]", 3, "is not JSON: expecting an object after ','", 1),
        (f"[\n{GOOD_ITEM}\n{GOOD_ITEM}]", 3, "is not JSON: expecting ',' or ']'", 1),
        (f"[\n{GOOD_ITEM},\n{GOOD_ITEM[:12]}", 3, "is not JSON: ", 1),
        (f"[\n{GOOD_ITEM}", 2, "is not JSON: ", 1),
        (f"[\n{GOOD_ITEM},\n3]", 3, "is not a JSON object", 1),
        (f"[\n{GOOD_ITEM},\n[{GOOD_ITEM}]]", 3, "is not a JSON object", 1),
        (f'[\n{GOOD_ITEM},\n{{"prompt": "?"}}]', 3, "has a prompt and nothing to measure", 1),
        (f'[\n{GOOD_ITEM},\n{{"prompt": NaN}}]', 3, "is not JSON: NaN is no number", 1),
        (f'[\n{GOOD_ITEM},\n{{"prompt": "?", "prompt": "!"}}]', 3, "is not JSON: it has 'prompt' twice", 1),
        (f"[\n{GOOD_ITEM}]\n{GOOD_ITEM}", 3, "is not JSON: extra data after the list", 1),
        (f"[\n{GOOD_ITEM},\n" + "[" * 100_000, 3, "is not JSON: nested too deeply", 1),
        (f"[\n{GOOD_ITEM},\n" + "1" * 5000 + "]", 3, "is not JSON: ", 1),
        ("7", 1, "is not JSON: it must be a list of objects", 0),
        ('"x"', 1, "is not JSON: it must be a list of objects", 0),
    ],
)
def test_a_broken_list_is_told_with_the_line_of_its_mistake(
    tmp_path: Path, text: str, line: int, said: str, read_before: int
) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    found = read([path])
    told(found, path, line, said)
    assert len(found.items) == read_before


# --- texts, and HellaSwag in six lines --------------------------------------------------------------------------------

TASK: Final = "Roof: A man sits. He\n2\nstands.\nsits.\nruns.\neats.\n"


@pytest.mark.parametrize(
    ("broken", "line", "said"),
    [
        (TASK.replace("2", "4"), 8, "is no label from 0 to 3"),
        (TASK.replace("2", ""), 8, "is no label from 0 to 3"),
        (TASK.replace("2", "two"), 8, "is no label from 0 to 3"),
        (TASK.replace("2", "-1"), 8, "is no label from 0 to 3"),
        (TASK.replace("2", "2.0"), 8, "is no label from 0 to 3"),
        (TASK.replace("2\n", "") + TASK, 8, "is no label from 0 to 3"),
        ("\n" + TASK, 8, "is no label from 0 to 3"),
        (TASK.replace("stands.", ""), 9, "is empty, and a line of a task"),
        (TASK.replace("eats.\n", "\n"), 12, "is empty, and a line of a task"),
        (TASK.replace("Roof: A man sits. He", " "), 7, "is empty, and a line of a task"),
        (TASK.replace("eats.\n", ""), 7, "the task has 5 of its 6 lines"),
        (TASK + "Roof: A man", 13, "the task has 1 of its 6 lines"),
        (TASK + "Roof\n3\nstands.\n", 13, "the task has 3 of its 6 lines"),
        (TASK.replace("stands", "st\x00nds"), 9, "is not text: it has a zero byte"),
        (TASK.replace("stands", "st\xe4nds").encode("latin-1"), 9, "is not UTF-8 text (byte "),
    ],
)
def test_a_broken_task_of_six_lines_is_told(tmp_path: Path, broken: str | bytes, line: int, said: str) -> None:
    path = tmp_path / "hellaswag.txt"
    path.write_bytes(TASK.encode() + (broken if isinstance(broken, bytes) else broken.encode()))
    told(read([path]), path, line, said)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (b"A text,\nna\xefve.", 2, "is not UTF-8 text (byte 10 of the file)"),
        ("A text.".encode("utf-16-le"), 1, "is not text: it has a zero byte"),
        ("A text.".encode("utf-16-be"), 1, "is not text: it has a zero byte"),
        ("A text.".encode("utf-32-be"), 1, "is not text: it has a zero byte"),
        (b"GGUF\x03\x00\x00\x00", 1, "is not text: it has a zero byte"),
        (b"A text\ncut in \xf0\x9f\x98", 2, "is not UTF-8 text"),
        (b" \n\t\n", 1, "the text is empty"),
        (b"\xef\xbb\xbf", 1, "the text is empty"),
        (b"", 1, "the text is empty"),
    ],
)
def test_a_broken_text_is_told(tmp_path: Path, text: bytes, line: int, said: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(text)
    told(read([path]), path, line, said)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.json", "t.txt"])
def test_a_file_of_utf_16_or_one_too_long_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    for encoding in ("utf-16", "utf-32-le"):  # each begins with a byte order mark
        path.write_bytes(("\ufeff" if encoding == "utf-32-le" else "").encode(encoding) + "x".encode(encoding))
        with pytest.raises(EftError, match=r"is UTF-16 text; it must be UTF-8\.\nSave it as UTF-8\."):
            read([path])
    if name in ("t.json", "t.txt"):  # read as a whole
        monkeypatch.setattr("eftlocal.runs.whole.LINE_LIMIT", 3)
        path.write_text("long")
        with pytest.raises(EftError, match="is longer than 0 MB"):
            read([path])


def test_a_name_with_escapes_and_a_field_with_escapes_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mred.jsonl"
    path.write_text(json.dumps({"\x1b]0;title\x07": "x"}) + "\n")
    (problem,) = read([path]).problems
    assert problem.message.isprintable() and r"\x1b]0;title\x07" in problem.message
