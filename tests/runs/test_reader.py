"""The input: each line becomes a record, or an error with the line's number, for any bytes."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eftlocal.apps.batch.records import Form, Record, carried, line_of
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import Raw
from eftlocal.emulation.from_json import SETTINGS, SHAPES
from eftlocal.errors import EftError, SettingError
from eftlocal.runs import lines as limits
from eftlocal.runs.lines import LineError
from eftlocal.runs.reader import Format, Source
from eftlocal.runtime.views import Message

Read = Callable[..., list[Record | LineError]]
HYPOTHESIS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(data: bytes | str, format: Format = "jsonl", **form: Any) -> list[Record | LineError]:
        path = tmp_path / "in"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return list(Source.of(str(path), format).records(Form(where="in", **form)))

    return read


def only(found: list[Record | LineError]) -> Record:
    (record,) = found
    assert isinstance(record, Record), record
    return record


def problems(found: list[Record | LineError]) -> list[str]:
    return [record.message for record in found if isinstance(record, LineError)]


def user(text: str) -> list[Message]:
    return [Message("user", text)]


# --- formats ----------------------------------------------------------------------------------------------------------


def test_a_line_of_json_is_a_prompt_with_settings_and_fields_of_its_own(read: Read) -> None:
    line = {"id": 7, "prompt": "Hi", "beta": 2, "seed": 5.0, "mix": {"a": 1}, "stop": "END", "draft": "auto", "x": [1]}
    record = only(read(json.dumps(line)))
    assert record.prompt == user("Hi") and record.line == 1 and record.fields == line
    assert record.dials == {"beta": 2.0, "seed": 5, "mix": {"a": 1.0}, "stop": ["END"], "draft": "auto"}
    assert isinstance(record.dials["seed"], int)


def test_messages_are_a_conversation_and_system_texts_come_first(read: Read) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, "}]
    talk = [Message("user", "Hi"), Message("assistant", "Hello, ")]
    assert only(read(json.dumps({"messages": turns}))).prompt == talk
    own = only(read(json.dumps({"messages": turns, "system": "Be brief."}), system="Be long."))
    assert own.prompt == [Message("system", "Be brief."), *talk]
    assert only(read(json.dumps({"prompt": "Hi"}), system="Be long.")).prompt == [
        Message("system", "Be long."),
        *user("Hi"),
    ]
    with_system = {"messages": [{"role": "system", "content": "S"}, *turns]}
    assert only(read(json.dumps(with_system), system="Be long.")).prompt == [Message("system", "S"), *talk]


def test_a_field_that_stands_twice_is_an_error_also_inside_of_another(read: Read) -> None:
    """Python's reader would keep the last one and say nothing."""
    twice = ['{"prompt": "a", "prompt": "b"}', '{"prompt": "a", "mix": {"x": 1, "x": 2}}', '{"prompt": "a"}']
    found = read("\n".join(twice))
    assert problems(found) == [
        "in:1: is not JSON: it has 'prompt' twice in one object",
        "in:2: is not JSON: it has 'x' twice in one object",
    ]


def test_a_raw_prompt_stays_raw(read: Read) -> None:
    prompt = only(read('{"prompt": "1, 2,"}', raw=True)).prompt
    assert isinstance(prompt, Raw) and prompt == "1, 2,"


def test_null_is_the_same_as_nothing(read: Read) -> None:
    record = only(read('{"prompt": "a", "messages": null, "seed": null, "n": null, "system": null}', samples=3))
    assert record.dials == {} and record.samples == 3 and record.prompt == user("a")


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ('"logprobs": true', "logprobs"),
        ('"draft": "text"', "draft"),
        ('"seed": -1', "seed"),
        ('"n": "many"', "n"),
        ('"n": 0', "n"),
        ('"stop": 3', "stop"),
        ('"choice": 2', "choice"),
        ('"regex": "["', "regex"),
        ('"constraint": "none"', "constraint"),
    ],
)
def test_a_field_with_the_name_of_a_setting_and_another_value_says_how_to_carry_it(
    read: Read, field: str, name: str
) -> None:
    (bad,) = read(f'{{"prompt": "a", {field}}}')
    assert isinstance(bad, LineError)
    assert bad.hint == f"{name} is a setting. If it is a field of your own, give it another name, such as my_{name}."


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"json_schema": {"type": "object"}}, "json_schema", '{"type": "object"}'),
        ({"json_schema": '{"type": "object"}'}, "json_schema", '{"type": "object"}'),
        ({"grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"regex": "[0-9]+"}, "regex", "[0-9]+"),
        ({"choice": ["a", "b"]}, "choice", '["a", "b"]'),
        ({"choice": "a", "regex": None}, "choice", '["a"]'),
        ({"constraint": {"regex": "[0-9]+"}}, "regex", "[0-9]+"),
    ],
)
def test_a_line_has_a_shape_of_its_own(read: Read, fields: dict[str, Any], kind: str, text: str) -> None:
    constraint = only(read(json.dumps({"prompt": "a", **fields}))).dials["constraint"]
    assert constraint is not None and (constraint.kind, constraint.text) == (kind, text)
    scored = only(read(json.dumps({"prompt": "a", "completion": "b", **fields}), scored=True))
    assert scored.dials == {}  # a score has no answer


def test_a_table_has_shapes_too(read: Read) -> None:
    table = 'prompt,regex,choice,json_schema\na,12,,\nb,,"[""x"", ""y""]",\nc,,12,\nd,,,"{""type"": ""object""}"\n'
    found = [record.dials.get("constraint") for record in read(table, "csv") if isinstance(record, Record)]
    assert [c and (c.kind, c.text) for c in found] == [
        ("regex", "12"),
        ("choice", '["x", "y"]'),
        ("choice", '["12"]'),
        ("json_schema", '{"type": "object"}'),
    ]


@pytest.mark.parametrize(
    ("data", "command"),
    [('[{"prompt": "a"}, {"prompt": "b"}]', "jq -c '.[]' FILE"), ('{\n"prompt": "a"\n}', "jq -c . FILE")],
)
def test_json_that_is_not_one_object_a_line_says_how_to_make_it_so(read: Read, data: str, command: str) -> None:
    first = read(data)[0]
    assert isinstance(first, LineError) and command in (first.hint or "")


def test_text_is_one_prompt_a_line_as_it_stands(read: Read) -> None:
    found = read(b"\xef\xbb\xbf one \r\n\r\n   \ntwo\x00\n\xff\n{last", "text")
    assert [(r.line, r.prompt) for r in found if isinstance(r, Record)] == [
        (1, user(" one ")),
        (4, user("two\x00")),
        (6, user("{last")),
    ]
    assert problems(found) == ["in:5: is not UTF-8 text (byte 0)"]


def test_csv_has_a_header_typed_settings_and_records_of_several_lines(read: Read) -> None:
    table = (
        '\ufeffid,prompt,beta,seed,stop,n,system\r\n1,"Hi, ""you""\r\nthere",0.5,3,END,,\r\n\r\n'
        '2,x,,,"[""a"", ""b""]",2.0,S\r\n'
    )
    first, second = read(table, "csv")
    assert isinstance(first, Record) and isinstance(second, Record)
    assert (first.line, first.prompt) == (2, user('Hi, "you"\r\nthere'))
    assert first.fields["id"] == "1" and first.dials == {"beta": 0.5, "seed": 3, "stop": ["END"]}
    assert (second.line, second.samples, second.dials) == (5, 2, {"stop": ["a", "b"]})
    assert second.prompt == [Message("system", "S"), *user("x")]


def test_a_broken_record_of_csv_is_told_and_the_next_one_is_read(read: Read) -> None:
    found = read(b'prompt,x\na,1\nb\n\xff,2\n"c"d,3\ne,4\n"f,5\ng,6\n', "csv")
    assert [(r.line, r.prompt) for r in found if isinstance(r, Record)] == [(2, user("a")), (6, user("e"))]
    assert problems(found) == [
        "in:3: has 1 columns, the header 2",
        "in:4: is not UTF-8 text",
        "in:5: is not CSV: ',' expected after '\"'",
        "in:7: a quote is opened here and never closed",
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("text,x\na,b\n", "in:1: the header has no column 'prompt'; it has text, x"),
        ("prompt;x\na;b\n", "in:1: the header has no column 'prompt'; it has prompt;x"),
        (f"{'y' * 90}\na\n", f"in:1: the header has no column 'prompt'; it has {'y' * 77}..."),
        ("prompt,x,x\na,b,c\n", "in:1: two columns are named 'x'"),
        ('"prompt\na\n', "in:1: a quote is opened here and never closed"),
    ],
)
def test_a_csv_header_without_a_prompt_ends_it(read: Read, table: str, message: str) -> None:
    with pytest.raises(LineError) as failed:
        read(table, "csv")
    assert failed.value.message == message


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n\r\n \n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
def test_an_input_without_lines_has_no_records(read: Read, data: bytes, format: Format) -> None:
    assert read(data, format) == []


def test_utf_16_is_told_as_such(read: Read) -> None:
    with pytest.raises(EftError, match="UTF-16"):
        read("hello".encode("utf-16"), "text")


@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
def test_a_line_beyond_the_limit_is_an_error_and_the_next_is_read(
    read: Read, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINE_LIMIT", 1 << 20)
    form = '{{"prompt": "{}"}}' if format == "jsonl" else "{}"
    lines = ["prompt", "a", "x" * (3 << 20), "b", "y" * (2 << 20)]
    found = read(
        "\n".join(line if line == "prompt" else form.format(line) for line in lines[format != "csv" :]), format
    )
    assert [r.prompt for r in found if isinstance(r, Record)] == [user("a"), user("b")]
    assert [p.partition(": ")[2] for p in problems(found)] == ["is longer than 1 MB"] * 2


# --- the fields of a line ---------------------------------------------------------------------------------------------

MISTAKES = [
    ("[1]", "is not a JSON object"),
    ('{"prompt": "a", "regex": "["}', "The regex cannot be used"),
    ('{"prompt": "a", "grammar": "x"}', "The grammar cannot be read"),
    ('{"prompt": "a", "choice": []}', "A choice is empty"),
    ('{"prompt": "a", "json_schema": 5}', "json_schema is 5; it must be an object, or a string that is its JSON"),
    ('{"prompt": "a", "regex": "a", "choice": "b"}', "has regex and choice; an answer can have only one shape"),
    ('{"prompt": "a", "constraint": {"regex": "a"}, "choice": "b"}', "has choice and constraint"),
    ('{"prompt": "a", "constraint": "short"}', "constraint is 'short'; it must be an object with one of json_schema"),
    ('"x"', "is not a JSON object"),
    ("{", "is not JSON: Expecting property name"),
    ('{"prompt": NaN}', "is not JSON: NaN is no number"),
    ('{"prompt": "a", "x": 1e999}', "a number is out of range"),
    ('{"prompt": "a", "beta": ' + "9" * 400 + "}", "beta is out of range"),
    ("[" * 100_000, "is not JSON: nested too deeply"),
    ('{"x": ' + "9" * 5000 + "}", "is not JSON: Exceeds the limit"),
    ("{}", "has no prompt"),
    ('{"prompt": null}', "has no prompt"),
    ('{"prompt": 5}', "prompt is 5; it must be a string"),
    ('{"prompt": ["a"]}', "prompt is a list; it must be a string"),
    ('{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "has both a prompt and messages"),
    ('{"messages": []}', "messages is empty; it must be a list of messages"),
    ('{"messages": ["hi"]}', "messages[0] is 'hi'; it must be an object"),
    ('{"messages": [{"role": "user"}]}', "messages[0].content is null; it must be a string"),
    ('{"messages": [{"role": "tool", "content": "x"}]}', "A message has the role 'tool'"),
    ('{"messages": [{"role": "system", "content": "x"}], "system": "y"}', "has a system text and a system message"),
    ('{"prompt": "a", "beta": "much"}', "beta is 'much'; it must be a number"),
    ('{"prompt": "a", "beta": true}', "beta is true; it must be a number"),
    ('{"prompt": "a", "top_p": 2}', "top_p is 2.0; it must be between 0 and 1"),
    ('{"prompt": "a", "seed": 1.5}', "seed is 1.5; it must be a whole number"),
    ('{"prompt": "a", "seed": -1}', "seed is -1; it must be a whole number, 0 or above"),
    ('{"prompt": "a", "max_tokens": 0}', "max_tokens is 0"),
    ('{"prompt": "a", "stop": [""]}', "A stop string is empty"),
    ('{"prompt": "a", "stop": [1]}', "stop is 1; it must be a string"),
    ('{"prompt": "a", "mix": {"x": "y"}}', "mix of x is 'y'; it must be a number"),
    ('{"prompt": "a", "mix": 1}', "mix is 1; it must be an object of numbers"),
    ('{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias has 'x'; its keys must be token ids"),
    ('{"prompt": "a", "draft": "some"}', "draft is 'some'"),
    ('{"prompt": "a", "n": 0}', "n is 0; it must be between 1 and"),
    ('{"prompt": "a", "text": "b", "input_text": "c"}', "has both text and input_text"),
]


@pytest.mark.parametrize(("line", "problem"), MISTAKES, ids=[line[:40] for line, _ in MISTAKES])
def test_a_mistake_is_told_with_the_file_and_the_line(read: Read, line: str, problem: str) -> None:
    first, bad, last = read('{"prompt": "a"}\n' + line + '\n{"prompt": "b"}\n')
    assert isinstance(first, Record) and isinstance(last, Record)
    assert isinstance(bad, LineError) and bad.message.startswith(f"in:2: {problem}") and bad.line == 2
    assert len(str(bad)) < 300


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "a"}', "has no completion"),
        ('{"prompt": "a", "completion": ""}', "a completion is empty"),
        ('{"prompt": "a", "completion": "b", "completions": ["c"]}', "has both a completion and completions"),
        ('{"prompt": "a", "completions": []}', "completions is empty; it must be a list of strings"),
        ('{"prompt": "a", "completions": ["b", 1]}', "a completion is 1; it must be a string"),
    ],
)
def test_a_pair_to_score_has_completions(read: Read, line: str, problem: str) -> None:
    assert problems(read(line, scored=True))[0].startswith(f"in:1: {problem}")
    assert only(read('{"prompt": "a", "completions": ["b", "c"]}', scored=True)).completions == ("b", "c")


def test_a_logit_bias_has_token_ids_and_may_ban_a_token(read: Read) -> None:
    record = only(read('{"prompt": "a", "logit_bias": {"5": -1, "7": "-inf"}}'))
    assert record.dials["logit_bias"] == {5: -1.0, 7: float("-inf")}


def test_a_line_can_set_whatever_can_be_set() -> None:
    assert set(SETTINGS) == set(Dials.__annotations__) - {"constraint"}


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.csv", "csv"), ("a.txt", "text")],
)
def test_a_files_name_says_its_format(tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).touch()
    assert Source.of(str(tmp_path / name)).format == format
    assert Source.of(str(tmp_path / name), "csv").format == "csv"


@pytest.mark.parametrize(("name", "hint"), [("prompts", "csv or .txt"), ("a.json", "jq"), ("a.tsv", "or Y")])
def test_a_name_that_says_nothing_is_an_error(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SettingError, match=hint):
        Source.of(str(tmp_path / name), hint="Name it X.csv or .txt, or Y.")


def test_what_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EftError, match=r"none\.txt cannot be read: No such file"):
        Source.of(str(tmp_path / "none.txt"))
    folder = tmp_path / "folder.txt"
    folder.mkdir()
    with pytest.raises(EftError, match="cannot be read: it is a folder"):
        Source.of(str(folder))
    with pytest.raises(SettingError, match="format is 'xml'"):
        Source.of("-", "xml")
    with pytest.raises(EftError, match="cannot be read"):
        Source.of("nul\0l")
    monkeypatch.setattr(sys, "stdin", None)  # Python's stdin if it is closed (<&-)
    with pytest.raises(EftError, match="Standard input is closed"):
        Source.of("-")


@pytest.mark.parametrize(
    ("data", "prompts"),
    [
        (b'\n \n{"prompt": "a"}\n{"prompt": "b"}', ["a", "b"]),
        (b'\xef\xbb\xbf  {"prompt": "a"}\n', ["a"]),
        (b"a\n{b\n", ["a", "{b"]),
        (b"", []),
    ],
)
def test_standard_input_is_json_lines_where_it_begins_with_a_brace(
    data: bytes, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    found = list(Source.of("-").records(Form(where="<stdin>")))
    assert [r.prompt for r in found if isinstance(r, Record)] == [user(p) for p in prompts]


# --- any bytes --------------------------------------------------------------------------------------------------------

LINES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r", b'"', b"\xef\xbb\xbf", b"prompt,id", b'{"prompt": "a"}', b'{"prompt": "\\ud800"}', b"\0"]),
    st.text(max_size=20).map(lambda text: json.dumps({"prompt": text}).encode()),
)


@pytest.mark.slow
@HYPOTHESIS
@given(st.lists(LINES, max_size=8).map(b"\n".join), st.sampled_from(["jsonl", "csv", "text"]))
def test_no_bytes_crash_it_and_every_line_is_numbered(read: Read, data: bytes, format: Format) -> None:
    try:
        found = read(data, format)
    except EftError:  # a bad CSV header, or UTF-16
        return
    numbers = [record.line for record in found]
    assert numbers == sorted(set(numbers)) and all(1 <= n <= data.count(b"\n") + 1 for n in numbers)
    for record in found:
        line = json.loads(line_of(record, None, {"text": "x"}))
        assert line["index"] == record.line and carried(line) == record.fields


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
NAMES = st.text().filter(
    lambda name: name not in {*SETTINGS, *SHAPES, "constraint", "n", "system", "messages"} and name[:6] != "input_"
)
OBJECTS = st.builds(
    lambda rest, prompt: {**rest, "prompt": prompt}, st.dictionaries(NAMES, VALUES, max_size=4), st.text()
)


@pytest.mark.slow
@HYPOTHESIS
@given(st.lists(OBJECTS, max_size=5), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_json_lines_come_out_as_they_went_in(
    read: Read, objects: list[dict[str, Any]], escaped: bool, end: str, mark: bool
) -> None:
    lines = [json.dumps(fields, ensure_ascii=escaped) for fields in objects]
    found = read(("\ufeff" if mark else "") + end.join(lines))
    assert [record.fields for record in found] == objects
    assert [json.loads(line_of(record, 3, {}))["sample"] for record in found] == [3] * len(objects)
    assert [carried(json.loads(line_of(record, None, {"error": "x"}))) for record in found] == objects


@pytest.mark.slow
@HYPOTHESIS
@given(st.lists(st.tuples(st.text(min_size=1), st.text()).filter(lambda row: "".join(row).strip()), max_size=5))
def test_csv_comes_out_as_it_went_in(read: Read, rows: list[tuple[str, str]]) -> None:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([("prompt", "note"), *rows])
    found = read(table.getvalue(), "csv")
    assert [(record.fields["prompt"], record.fields["note"]) for record in found] == rows
