"""JSON Schemas: all of a schema is enforced, or it is refused; answers are what jsonschema takes."""

import contextlib
import copy
import datetime
import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal import Emulator
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars
from eftlocal.decoding.constraints.references import tables
from eftlocal.decoding.constraints.schema import KNOWN, UNENFORCED
from eftlocal.decoding.generation import Reply
from eftlocal.emulation.emulator import Job
from eftlocal.errors import SettingError

GRAMMARS = Grammars([*(bytes([byte]) for byte in range(256)), b""], [256], lambda text: list(text.encode()))
CHECKER = jsonschema.FormatChecker()


@CHECKER.checks("date-time", raises=ValueError)
def is_date_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.datetime.fromisoformat(value))


@CHECKER.checks("time", raises=ValueError)
def is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.datetime.fromisoformat(f"2000-01-01T{value}"))


def takes(schema: Any, *values: Any) -> list[bool]:
    matcher = GRAMMARS.matcher(Constraint.json_schema(schema))
    return [matcher.complete(json.dumps(value)) for value in values]


# --- what is enforced -------------------------------------------------------------------------------------------------


def test_dates_and_times_are_those_of_the_calendar() -> None:
    date = {"type": "string", "format": "date"}
    assert takes(date, "2021-02-29", "2100-02-29", "2021-04-31", "0000-01-01", "2021-2-1") == [False] * 5
    assert takes(date, "2024-02-29", "2000-02-29", "2021-02-28", "2021-12-31", "0001-01-01") == [True] * 5
    assert takes({**date, "pattern": "-02-"}, "2021-02-01", "2021-03-01") == [True, False]
    moment = {"type": "string", "format": "date-time"}
    assert takes(moment, "2024-02-29T23:59:59Z", "2024-02-29T00:00:00.25+05:30") == [True] * 2
    assert takes(moment, "2023-02-29T23:59:59Z", "2024-02-29T24:00:00Z", "2024-02-29T10:00:00") == [False] * 3
    assert takes({"type": "string", "format": "time"}, "23:59:59Z", "23:59:60Z", "24:00:00Z") == [True, False, False]
    assert takes({"format": "date"}, 3, "2024-02-29", "2023-02-29") == [True, True, False]


def test_every_day_of_four_centuries_is_a_date_and_no_other_day() -> None:
    matcher = GRAMMARS.matcher(Constraint.json_schema({"type": "string", "format": "date"}))
    for year in (*range(1890, 1910), *range(1990, 2010), 2096, 2100, 2400):
        for month, day in ((1, 31), (2, 28), (2, 29), (2, 30), (4, 30), (4, 31), (12, 31)):
            text = f"{year:04}-{month:02}-{day:02}"
            try:
                right = bool(datetime.date.fromisoformat(text))
            except ValueError:
                right = False
            assert matcher.complete(f'"{text}"') is right, text


def test_openapis_nullable_allows_null() -> None:
    for schema in (
        {"type": "integer"},
        {"type": "integer", "enum": [1]},
        {"const": 1},
        {"anyOf": [{"type": "integer"}]},
        {"allOf": [{"type": "integer"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    ):
        assert takes({**schema, "nullable": True}, 1, None, "a") == [True, True, False]
        assert takes({**schema, "nullable": False}, 1, None, "a") == [True, False, False]


def test_a_schema_in_openais_form_is_taken_out_of_it() -> None:
    schema = {"type": "integer", "maximum": 9}
    named = {"name": "n", "strict": True, "description": "d", "schema": schema}
    for wrapped in (
        named,
        {"schema": schema},
        {"type": "json_schema", "json_schema": named},
        {"type": "json_schema", **named},
        {"response_format": {"type": "json_schema", "json_schema": named}},
    ):
        assert Constraint.json_schema(wrapped) == Constraint.json_schema(schema)
        assert Constraint.json_schema(json.dumps(wrapped)) == Constraint.json_schema(schema)
    properties = {"type": "object", "properties": {"schema": {"type": "object"}}}
    assert json.loads(Constraint.json_schema(properties).text) == properties


def test_references_into_openapis_components_are_followed() -> None:
    schemas = {
        "City": {"type": "object", "properties": {"at": {"$ref": "#/components/schemas/At"}}, "required": ["at"]},
        "At": {"type": "string", "format": "date"},
    }
    schema = {"$ref": "#/components/schemas/City", "components": {"schemas": schemas}}
    assert takes(schema, {"at": "2024-02-29"}, {"at": "2023-02-29"}) == [True, False]
    with pytest.raises(SettingError, match=r"propertees.*at /components/schemas/City"):
        Constraint.json_schema({**schema, "components": {"schemas": {"City": {"propertees": {}}}}})


def test_alternatives_that_a_property_tells_apart_may_be_a_one_of() -> None:
    kinds = {
        name: {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"]} for name in ("a", "b")
    }
    schema: dict[str, Any] = {"$defs": kinds, "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}
    tagged = {**schema, "discriminator": {"propertyName": "kind"}}
    assert takes(tagged, {"kind": "a"}, {"kind": "b"}, {"kind": "c"}) == [True, True, False]
    with pytest.raises(SettingError, match='"oneOf" may overlap'):
        Constraint.json_schema({**schema, "oneOf": [*schema["oneOf"], {"$ref": "#/$defs/a"}]})


def test_what_only_describes_a_value_changes_nothing() -> None:
    notes = {
        **{"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://example.com/x", "$comment": "c"},
        **{"title": "t", "description": "d", "default": 10**400, "examples": [1], "deprecated": True, "x-order": 1},
        **{"uniqueItems": False, "unevaluatedProperties": True, "format": "double"},
    }
    assert takes({**notes, "const": 1}, 1, 2) == [True, False]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            {"type": "object", "propertees": {}},
            r'"propertees" is not a keyword.*\nDid you mean "properties"\?.*lenient',
        ),
        ({"items": {"enumm": [1]}}, r'"enumm" is not a keyword .*at /items\).*\nDid you mean "enum"\?'),
        ({"type": "object", "id": {"type": "integer"}}, '"id" is not a keyword'),
        ({"if": {"type": "string"}}, r'"if" cannot be enforced.*\nLeave it out.*lenient'),
        ({"type": "string", "contentEncoding": "base64"}, '"contentEncoding" cannot be enforced'),
        ({"type": "string", "format": "dat"}, r'format "dat" cannot be enforced.*\nDid you mean "date"\?.*lenient'),
        ({"type": "string", "format": "unknown"}, r'format "unknown" cannot.*\nUse "pattern" instead.*lenient'),
        ({"type": "integer", "format": "date"}, r'format "date" is for a "string", but the type is integer'),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, r'"oneOf" may overlap.*\nUse "anyOf" instead.*lenient'),
        ({"$defs": {"a": {"type": "null"}}}, r'only defines a, .*\nAdd "\$ref": "#/\$defs/a"'),
        ({"definitions": {"a": {}}, "title": "t"}, r'only defines a, .*\nAdd "\$ref": "#/definitions/a"'),
        ({"type": "string", "nullable": "yes"}, "\"nullable\" is 'yes'; it must be true or false"),
        ({"type": "object", "minProperties": 2}, "written twice"),
        ({"type": "object", "minProperties": 3, "required": ["a", "a"]}, "3, but 1 properties are required"),
        ({"properties": {"a": {"pattern": "(a/"}}}, r"pattern at /properties/a: unclosed group: .*<here>\(a/"),
        ({"pattern": "a\\"}, "ends in a backslash"),
        ({"type": "string", "minLength": 2**60}, '"minLength" is 1152921504606846976; it must be below'),
        ({"x-guidance": 3}, '"x-guidance" is 3; it must be an object'),
        ({"type": 3}, '"type" is 3; it must be a name'),
        ({"enum": 3}, '"enum" is 3; it must be an array'),
        ({"properties": [1]}, r'"properties" is \[1\]; it must be an object'),
        (
            {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 2},
            "beside properties that are not req",
        ),
    ],
)
def test_what_would_not_be_enforced_is_refused_with_what_to_do(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=f"(?s){words}"):
        Constraint.json_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"allOf": [{"const": 1}, {"const": 2}]},
        {"enum": []},
        {"type": "string", "pattern": "^a{5}$", "maxLength": 4},
        {"type": "string", "pattern": r"a[^\s\S]b"},
        {"type": "string", "format": "date", "pattern": "2021-02-29"},
        {"type": "integer", "minimum": 2**60 + 1024, "maximum": 2**60},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="nothing can satisfy it"):
        Constraint.json_schema(schema)


def test_a_recursion_that_can_end_is_not_refused() -> None:
    assert takes({"type": "array", "items": {"$ref": "#"}}, [[], [[]]]) == [True]
    tree = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]}
    assert takes(tree, {"a": {"a": None}}, {"a": {}}) == [True, False]


def test_lenient_schemas_ignore_unknown_keywords_and_formats() -> None:
    loose = {"type": "string", "propertees": 1, "format": "foo", "if": {}, "x-guidance": {"lenient": True}}
    assert takes(loose, "a", 1) == [True, False]


# --- differential trials ----------------------------------------------------------------------------------------------


def a_schema(choose: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random schema. Some contradict themselves, and some are refused."""
    deep = ["array", "object", "anyOf", "allOf"] if depth else []
    kind = choose.choice(["integer", "number", "string", "format", "enum", "nullable", *deep])
    if kind in ("integer", "number"):
        names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        values = (0, 1, -5, 10, 100, 2.5, 1.5, -0.25, 2**53, 2**53 + 1, 2**60, 2**63 - 1, -(2**63))
        found = {name: choose.choice(values) for name in names if choose.random() < 0.4}
        return {"type": kind, **found, **({"multipleOf": choose.choice((2, 7, 0.5))} if choose.random() < 0.3 else {})}
    if kind == "string":
        pattern = choose.choice(("^[a-z]{2,5}$", "b", r"^\d{3}-\d\d$", "^é?x"))
        lengths = {"minLength": choose.randint(0, 3), "maxLength": choose.randint(2, 8)}
        return {"type": kind, **lengths, **({"pattern": pattern} if choose.random() < 0.5 else {})}
    if kind == "format":
        formats = ("date", "date-time", "time", "ipv4", "ipv6", "uuid", "email")
        return {"type": "string", "format": choose.choice(formats), "maxLength": 36}
    if kind == "enum":
        return {
            kind: choose.sample([1, 2.5, "x", "", None, True, [1], {"a": 1}, 2**53 + 1, 2**62], choose.randint(0, 3))
        }
    if kind == "nullable":
        return {"anyOf": [a_schema(choose, 0), {"type": "null"}]}
    if kind == "array":
        counts = {"minItems": choose.randint(0, 2), "maxItems": choose.randint(0, 3)}
        return {"type": kind, "items": a_schema(choose, depth - 1), **counts}
    if kind == "object":
        properties = {name: a_schema(choose, depth - 1) for name in choose.sample("abc", choose.randint(0, 3))}
        required = list(properties)[: choose.randint(0, 3)]
        return {"type": kind, "properties": properties, "required": required, "additionalProperties": False}
    return {kind: [a_schema(choose, depth - 1) for _ in range(choose.randint(1, 2))]}


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_schema_with_a_wrong_value_is_refused_or_used_but_raises_nothing_else(seed: int) -> None:
    choose = random.Random(seed)
    keywords = sorted(KNOWN | UNENFORCED.keys() | {"x-guidance"})
    wrong: tuple[Any, ...] = (
        3,
        -1,
        2.5,
        None,
        True,
        "a",
        "#",
        "#/a",
        [],
        [3],
        ["a"],
        [None],
        {},
        {"a": 3},
        {"a": {"$ref": "#"}},
    )
    schema: dict[str, Any] = a_schema(choose)
    for _ in range(choose.randint(1, 3)):
        place = choose.choice(list(tables(schema)))
        assert isinstance(place, dict)
        place[choose.choice(keywords)] = copy.deepcopy(choose.choice(wrong))
    with contextlib.suppress(SettingError):
        GRAMMARS.matcher(Constraint.json_schema(schema))


def checked(schema: dict[str, Any], text: str) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
    validator.validate(json.loads(text))


def test_random_texts_under_random_schemas_are_valid() -> None:
    choose, ended = random.Random(1), 0
    for _ in range(300):
        schema = a_schema(choose)
        try:
            matcher = GRAMMARS.matcher(Constraint.json_schema(schema))
        except SettingError:
            continue
        tokens: list[int] = []
        for _ in range(120):
            allowed = matcher.allowed(tokens)
            if allowed[256] and (choose.random() < 0.5 or allowed.sum() == 1):
                ended += 1
                checked(schema, bytes(tokens).decode())
                break
            plain = [byte for byte in np.flatnonzero(allowed) if 32 <= byte < 127]
            closing = [byte for byte in plain if byte in b'"}]'] if choose.random() < 0.5 else []
            tokens.append(int(choose.choice(closing or plain or list(np.flatnonzero(allowed[:256])))))
    assert ended > 150


@pytest.mark.slow
def test_answers_of_the_demo_under_random_schemas_are_valid() -> None:
    choose, jobs, schemas = random.Random(2), list[Job](), list[dict[str, Any]]()
    while len(jobs) < 60:
        schema = a_schema(choose)
        try:
            constraint = Constraint.json_schema(schema)
        except SettingError:
            continue
        dials: Any = {"constraint": constraint, "temperature": 1.5, "top_p": 1.0, "max_tokens": 60, "seed": len(jobs)}
        jobs.append(Job("Tell me of a city.", dials, 0, len(jobs)))
        schemas.append(schema)
    ended = 0
    with Emulator.load("demo", threads=1, context=256) as demo:
        for i, reply in demo.answers(jobs, parallel=6):
            assert isinstance(reply, Reply), reply
            if reply.finish_reason == "stop":
                ended += 1
                checked(schemas[i], reply.text)
    assert ended > 40
