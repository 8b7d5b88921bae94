"""Numbers of a JSON Schema: what an answer may hold is exactly what the schema says, or the schema is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars
from eftlocal.errors import SettingError

GRAMMARS = Grammars([*(bytes([byte]) for byte in range(256)), b""], [256], lambda text: list(text.encode()))
BIG = 2**53


def takes(schema: Any, *values: Any) -> list[bool]:
    matcher = GRAMMARS.matcher(Constraint.json_schema(schema))
    return [matcher.complete(value if isinstance(value, str) else json.dumps(value)) for value in values]


@pytest.mark.parametrize(
    "schema",
    [
        {"const": BIG + 1},
        {"enum": ["a", {"b": [BIG + 1]}]},
        {"const": 2**63},
        {"const": 1e30},
        {"const": 1_000_000_000_000_000.5},
        {"type": "integer", "minimum": BIG + 1, "maximum": BIG + 3},
        {"type": "integer", "exclusiveMinimum": BIG},
        {"type": "integer", "exclusiveMaximum": -BIG},
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "integer", "minimum": 0, "maximum": 10**400},
        {"type": "number", "minimum": BIG + 1},
        {"type": "number", "exclusiveMaximum": 2**60},
        {"exclusiveMinimum": BIG},
        {"type": "number", "maximum": 1_000_000_000_000_000.5},
        {"type": "integer", "multipleOf": BIG + 1},
        {"type": "number", "multipleOf": 1e-30},
    ],
)
def test_a_number_that_would_be_rounded_is_refused_with_its_name_and_place(schema: dict[str, Any]) -> None:
    name = next(name for name in reversed(schema) if name != "type")
    for whole in (schema, {"properties": {"a": schema}}):
        with pytest.raises(SettingError, match="to be enforced exactly") as refusal:
            Constraint.json_schema(whole)
        assert f'"{name}"' in refusal.value.message or '"minimum"' in refusal.value.message
        assert refusal.value.hint and ("at /properties/a" in refusal.value.message) == (whole is not schema)


def test_multiples_of_zero_are_refused() -> None:
    with pytest.raises(SettingError, match='"multipleOf" is 0; it must be greater than 0'):
        Constraint.json_schema({"type": "integer", "multipleOf": 0})


def test_large_numbers_that_can_be_held_are_exact() -> None:
    for number in (BIG, -BIG, BIG + 2, 2**62, -(2**62)):
        for schema in ({"const": number}, {"type": "integer", "minimum": number, "maximum": number}):
            assert takes(schema, number, number - 1, number + 1) == [True, False, False]
    assert takes({"const": 2**63 - 1}, 2**63 - 1, 2**63, 2**63 - 2) == [True, False, False]
    assert takes({"const": 0.1234567}, 0.1234567, 0.12345671) == [True, False]


def test_integers_of_64_bits_are_within_their_bounds() -> None:
    low, high = -(2**63), 2**63 - 1
    for schema in (
        {"type": "integer", "minimum": low, "maximum": high},
        {"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1},
        {"type": "integer", "format": "int64"},
    ):
        assert takes(schema, low + 1024, -1, 0, high) == [True] * 4
        assert takes(schema, low - 1, high + 1) == [False] * 2
    assert takes({"type": ["number", "null"], "format": "int32"}, -(2**31), 2**31 - 1, None) == [True] * 3
    assert takes({"type": "integer", "format": "int32", "maximum": 7}, 7, 8, -(2**31) - 1) == [True, False, False]


def test_an_excluded_bound_is_no_answer() -> None:
    for schema in (
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1.5},
        {"type": "number", "minimum": 1, "exclusiveMinimum": True, "maximum": 1.5},
    ):
        assert takes(schema, "1", "1.0", "1.01", "1.5") == [False, False, True, True]
    assert takes({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "-0", "0", "-0.01") == [False, False, True]
    merged = {"allOf": [{"type": "number", "exclusiveMinimum": 1}, {"maximum": 1.5}]}
    assert takes(merged, "1", "1.0", "1.01", "1.5") == [False, False, True, True]


def test_multiples_in_a_narrow_range_are_found() -> None:
    tenths = {"type": "number", "multipleOf": 0.1}
    assert takes({**tenths, "minimum": 0.25, "maximum": 0.35}, "0.2", "0.3", "0.4") == [False, True, False]
    assert takes({**tenths, "minimum": 0.3, "maximum": 0.3}, "0.3") == [True]
    assert takes({**tenths, "exclusiveMinimum": -0.1, "exclusiveMaximum": 0.2}, "-0.1", "0", "0.1", "0.2") == [
        *(False, True, True, False)
    ]
    with pytest.raises(SettingError, match="nothing can satisfy it"):
        Constraint.json_schema({**tenths, "minimum": 0.31, "maximum": 0.39})


def test_multiples_that_overflow_together_are_refused() -> None:
    with pytest.raises(SettingError, match='"multipleOf" is 65537 and 65539; together'):
        Constraint.json_schema({"allOf": [{"type": "integer", "multipleOf": 65537}, {"multipleOf": 65539}]})
    assert takes({"allOf": [{"type": "integer", "multipleOf": 6}, {"multipleOf": 4}]}, 12, 6, 4) == [True, False, False]


numbers = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([BIG - 1, BIG, BIG + 1, BIG + 2, 2**60, 2**62 + 1024, 2**63 - 1, 2**63, -(2**63), -BIG - 1]),
)
bounds = st.dictionaries(
    st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]), numbers, min_size=1
)


@given(st.sampled_from(["integer", "number"]), bounds)
@settings(max_examples=150, deadline=None)
def test_bounds_allow_what_they_say_and_nothing_else(kind: str, given: dict[str, int]) -> None:
    try:
        constraint = Constraint.json_schema({"type": kind, **given})
    except SettingError:
        return
    matcher = GRAMMARS.matcher(constraint)
    for bound in given.values():
        for number in (bound - 1, bound, bound + 1):
            right = given.get("minimum", number) <= number <= given.get("maximum", number) and given.get(
                "exclusiveMinimum", number - 1
            ) < number < given.get("exclusiveMaximum", number + 1)
            found = matcher.complete(str(number))
            assert found == right or (right and number < -(2**63) + 1024)  # see `bounded`
