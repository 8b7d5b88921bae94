"""Writes the numbers of a JSON Schema so that llguidance enforces them exactly, or refuses them.

llguidance 1.9 reads each number as a 64-bit float, and makes the bounds of an integer into signed 64-bit integers. So a
number from 2^53 on may be rounded, and one from 2^63 on may be cut (`normalize_integer_bounds` in its numeric.rs). It
holds `multipleOf` as a decimal number with a coefficient of 32 bits (`Decimal` in the same file).
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

__all__ = ["FORMATS", "NumberError", "bounded", "combined", "constant"]

BIG = 2**53  # whole numbers up to here are exact in a float
HIGHEST = 2**63 - 1  # llguidance rounds it up to 2^63 and cuts that, which gives it back
LOWEST = -(2**63) + 1024  # the lowest whole number above -2^63 that is exact in a float
FORMATS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}  # OpenAPI's
EASY = 10**6  # whole numbers below it have room for many decimals
MOST_DECIMALS = 22
MOST_LISTED = 200
FEWER = "Use a number with fewer digits."
BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


class NumberError(ValueError):
    """A number that cannot be enforced exactly: its message says which, and why; `hint` what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def constant(value: float, name: str) -> float:
    """A number of `const` or `enum` as llguidance should get it. Raises NumberError."""
    if abs(value) <= BIG or value % 1:
        _check_digits(value, name)
        return value
    whole = int(value)
    if whole == HIGHEST or _exact(whole):
        return whole
    raise _inexact(whole, name, 'Use a text ("type": "string") for numbers that are names, or another number.')


def bounded(schema: Mapping[str, Any], *, merged: bool) -> dict[str, Any]:
    """The schema with bounds, `multipleOf` and the formats int32 and int64 as llguidance should get them.

    merged: whether other bounds may be added to these, by `allOf` or beside a `$ref`

    Raises NumberError. An integer's bound of -2^63 becomes -2^63 + 1024, because llguidance cannot hold -2^63.
    """
    found = dict(schema)
    types = found.get("type", ["number"])
    types = dict.fromkeys([types] if isinstance(types, str) else types)
    if not types.keys() & {"integer", "number"}:
        return found
    if _is_number(found.get("multipleOf")):
        _check_multiple(found["multipleOf"])
    given = {name: found[name] for name in BOUNDS if _is_number(found.get(name))}
    for name, value in given.items():
        _check_digits(value, name)
    limits = FORMATS.get(found["format"]) if isinstance(found.get("format"), str) else None
    if limits is not None:
        del found["format"]
    if limits is None and all(abs(value) < BIG for value in given.values()):
        if "number" not in types:
            return found
        return _listed(found, given) or _opened(found, merged=merged)
    if "number" in types:
        for name, value in given.items():
            _check_bound_of_a_number(value, name)
        return found | ({} if limits is None else _within(types, given, limits))
    return {name: value for name, value in found.items() if name not in BOUNDS} | _whole(found, given, limits)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(types: Iterable[str], given: Mapping[str, float], limits: tuple[int, int]) -> dict[str, Any]:
    """The bounds of a number that has a format for whole numbers."""
    low, high = limits
    others = [each for each in types if each not in ("number", "integer")]
    return {
        "type": ["integer", *others],
        "minimum": max(low, LOWEST, given.get("minimum", low)),
        "maximum": min(high, given.get("maximum", high)),
    }


def _whole(schema: Mapping[str, Any], given: Mapping[str, float], limits: tuple[int, int] | None) -> dict[str, int]:
    """The bounds of an integer: at most one `minimum` and one `maximum`."""
    lows = [(limits[0], "format")] if limits else []
    highs = [(limits[1], "format")] if limits else []
    if (low := given.get("minimum")) is not None:  # draft 4: "exclusiveMinimum": true
        lows.append((math.floor(low) + 1 if schema.get("exclusiveMinimum") is True else math.ceil(low), "minimum"))
    if (low := given.get("exclusiveMinimum")) is not None:
        lows.append((math.floor(low) + 1, "exclusiveMinimum"))
    if (high := given.get("maximum")) is not None:
        highs.append((math.ceil(high) - 1 if schema.get("exclusiveMaximum") is True else math.floor(high), "maximum"))
    if (high := given.get("exclusiveMaximum")) is not None:
        highs.append((math.ceil(high) - 1, "exclusiveMaximum"))
    found = {}
    if lows:
        least, name = max(lows)
        found["minimum"] = LOWEST if -(2**63) <= least < LOWEST else _bound(least, name)
    if highs:
        most, name = min(highs)
        found["maximum"] = most if most == HIGHEST else _bound(most, name)
    return found


def _listed(schema: dict[str, Any], given: Mapping[str, float]) -> dict[str, Any] | None:
    """The schema of a number with all its values as an `enum`, if it has a fraction as `multipleOf` and few values.

    llguidance finds no value in a narrow range: its bounds ask for more decimals than its `multipleOf` allows.
    """
    step, lows, highs = schema.get("multipleOf"), list[Fraction](), list[Fraction]()
    if not _is_number(step) or step is None or step % 1 == 0 or schema.get("type") != "number":
        return None
    if schema.keys() & {"enum", "const"} or True in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")):
        return None
    each = Fraction(repr(step))
    for name, value in given.items():
        place = Fraction(repr(value)) / each
        if "inimum" in name:
            lows.append(Fraction(math.floor(place) + 1 if name.startswith("exclusive") else math.ceil(place)))
        else:
            highs.append(Fraction(math.ceil(place) - 1 if name.startswith("exclusive") else math.floor(place)))
    if not lows or not highs or not 0 <= min(highs) - max(lows) < MOST_LISTED:
        return None
    values = [n * each for n in range(int(max(lows)), int(min(highs)) + 1)]
    rest = {name: value for name, value in schema.items() if name not in (*BOUNDS, "multipleOf")}
    return rest | {"enum": [int(value) if value.denominator == 1 else float(value) for value in values]}


def _opened(schema: dict[str, Any], *, merged: bool) -> dict[str, Any]:
    """The schema of a number, with the next number instead of an excluded whole bound where that is needed.

    llguidance does not exclude L in L < x < L + 1 if the upper bound is nearer than L + 1 (`rx_float_range`), and the
    same below zero. The next number has 15 digits: 1.00000000000001 for 1.
    """
    found = dict(schema)
    for low, high, sign in (("minimum", "maximum", 1), ("maximum", "minimum", -1)):
        bound: Any = schema.get(f"exclusive{low.capitalize()}")
        bound = schema.get(low) if bound is True else bound  # as in draft 4
        if not _is_number(bound) or bound % 1:
            continue
        inner = [sign * schema[name] for name in (low, f"exclusive{low.capitalize()}") if _is_number(schema.get(name))]
        outer = [
            sign * schema[name] for name in (high, f"exclusive{high.capitalize()}") if _is_number(schema.get(name))
        ]
        near = bool(outer) and sign * bound < min(outer) < sign * bound + 1
        if sign * bound >= max(inner) and (near or merged):
            following = bound + sign * 10.0 ** -(15 - len(str(abs(int(bound)))))
            if near or abs(bound) < EASY:
                _check_digits(following, f"exclusive{low.capitalize()}")
                del found[f"exclusive{low.capitalize()}"]
                found[low] = following
    return found


def combined(values: Iterable[float]) -> None:
    """Raise NumberError if llguidance may not find the least common multiple of these values of `multipleOf`."""
    numbers = [Decimal(repr(value)) for value in values if _is_number(value) and value > 0]
    for i, one in enumerate(numbers):
        for other in numbers[:i]:
            decimals = max(0, -int(one.as_tuple().exponent), -int(other.as_tuple().exponent))
            if one.scaleb(decimals) * other.scaleb(decimals) >= 2**32:
                raise NumberError(
                    f'"multipleOf" is {other} and {one}; together they have too many digits to be enforced exactly',
                    "Write one multipleOf, without allOf.",
                )


def _check_digits(value: float, name: str) -> None:
    """llguidance reads a number with more digits than these one step too high or too low."""
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if value % 1 and (int("".join(map(str, digits))) > BIG or abs(int(exponent)) > MOST_DECIMALS):
        raise NumberError(f'"{name}" is {value}; it has too many digits to be enforced exactly', FEWER)


def _bound(whole: int, name: str) -> int:
    if abs(whole) <= BIG or _exact(whole):
        return whole
    raise _inexact(whole, name, "Use a bound within 2^53, or -2^63 and 2^63 - 1 for 64-bit integers.")


def _check_bound_of_a_number(value: float, name: str) -> None:
    """A bound of a type that is not only "integer". llguidance compares digits, and rounds when it excludes a bound."""
    if abs(value) < BIG:
        return
    whole = int(value)
    if name.startswith("exclusive") or not _exact(whole) or int(Decimal(repr(float(whole)))) != whole:
        raise _inexact(whole, name, 'Use a bound below 2^53, or "type": "integer".')


def _check_multiple(value: float) -> None:
    if value <= 0:
        raise NumberError(f'"multipleOf" is {value}; it must be greater than 0')
    number = Decimal(repr(value)).normalize()
    decimals = max(0, -int(number.as_tuple().exponent))
    coefficient = int(number.scaleb(decimals))
    if coefficient < 2**32 and decimals <= MOST_DECIMALS:
        scaled, steps = float(value), 0  # llguidance finds the coefficient like this
        while scaled % 1:
            scaled, steps = scaled * 10, steps + 1
        if (scaled, steps) == (coefficient, decimals):
            return
    raise NumberError(f'"multipleOf" is {value}; it has too many digits to be enforced exactly', FEWER)


def _exact(whole: int) -> bool:
    """Whether llguidance keeps this whole number as it is."""
    return abs(whole) < 2**63 and float(whole) == whole


def _inexact(whole: int, name: str, hint: str) -> NumberError:
    verb = "holds" if name in ("const", "enum") else "is"
    return NumberError(f'"{name}" {verb} {whole}; it is too large to be enforced exactly', hint)
