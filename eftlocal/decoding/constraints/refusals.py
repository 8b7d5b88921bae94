"""Why a constraint cannot be used: the errors of llguidance in our words."""

import re
from typing import Final

from eftlocal.decoding.constraints.schema import LENIENT
from eftlocal.errors import SettingError

__all__ = ["DEAD_END", "name_of", "refused", "too_deep"]

DEAD_END: Final = "NoExtensionBias"  # llguidance's error if no token can follow and the text is not complete


def name_of(kind: str) -> str:
    """What a kind of constraint is called: "regex", "JSON schema"."""
    return {"json_schema": "JSON schema", "choice": "list of choices"}.get(kind, kind)


def too_deep(kind: str) -> SettingError:
    """The error for a constraint that is nested too deeply."""
    return SettingError(f"The {name_of(kind)} cannot be used: it is nested too deeply.")


def refused(kind: str, text: str, error: str) -> SettingError:
    """The error of llguidance about a constraint, with the user's `text` and the place in it, not llguidance's form."""
    found = error.replace("<non-verbose/>", "").partition("\n   1 | ")[0].strip()
    reason = found.rpartition("\nerror: ")[2] + "."  # before it, the regex with a mark
    hint = None
    if kind == "json_schema":
        reason, hint = _of_schema(reason)
    elif "lookarounds not supported" in reason:
        reason = rf"look-around (\b, and ^ or $ inside the regex) is not supported: {text}"
    elif mark := re.search(r"parse error:\n    .*\n    ( *)\^", found):
        reason = f"{reason[:-1]}: {_marked(text, len(mark[1]))}"
    return SettingError(f"The {name_of(kind)} cannot be used: {reason}", hint)


def _marked(pattern: str, place: int) -> str:
    """The regex with a mark at a place in llguidance's form of it, which writes / as \\/ and a line end as \\n."""
    escaped = re.compile(r"\\.|/|\n", re.DOTALL)
    at = 0
    while at < len(pattern) and place > 0:
        found = escaped.match(pattern, at)
        size = 1 if found is None else 2
        if place < size:
            break
        place -= size
        at += 1 if found is None else len(found[0])
    return f"character {at + 1}: {pattern[:at]}<here>{pattern[at:]}"


def _of_schema(reason: str) -> tuple[str, str | None]:
    """What llguidance says about a JSON schema, in our words, and a hint."""
    if "oneOf constraints" in reason:
        return (
            'the alternatives of a "oneOf" may overlap, and "exactly one" cannot be enforced.',
            f'Use "anyOf" instead, or {LENIENT}',
        )
    if "Failed to generate regex for" in reason:
        return "a number has a bound that is too large to be enforced exactly.", "Use bounds within 2^53."
    if "Regex is empty" in reason:
        return "nothing can satisfy it: no text matches its pattern, format and length together.", None
    if "only supported when all keys listed" in reason:
        return (
            '"minProperties" and "maxProperties" cannot be enforced beside properties that are not required.',
            f'List the properties in "required", or {LENIENT}',
        )
    if "recursion limit" in reason:
        return "it is nested too deeply.", None
    return reason.replace("Unsatisfiable schema: ", "nothing can satisfy it: "), None
