"""Judges a generated answer: whether it is right by an item's check.

exact           it is an answer, whatever the case of letters and the white space
contains        it has an answer in it, as whole words, in any case
first-sentence  the same in its first sentence, where an answer must come at once
regex           a pattern (Python's) is found in it
number          the last number in it is the last number of an answer
choice          it names the right choice, by its letter or by its text
json-schema     it is JSON that is valid under a schema, perhaps in a Markdown fence
ifeval          it follows all instructions of an IFEval prompt (ifeval.py)
"""

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final, cast, get_args

from eftlocal.emulation.from_json import kind
from eftlocal.errors import EftError
from eftlocal.evaluation import ifeval, json_schema
from eftlocal.evaluation.fields import LETTERS
from eftlocal.evaluation.items import Check, CheckName
from eftlocal.runs.lines import json_value

__all__ = ["check_of", "last_number", "right"]

BY_ANSWERS: Final = ("exact", "contains", "first-sentence", "number")  # checks that need nothing but the answers

# Scripts that are written without spaces between words: there, a word has no border that can be seen.
UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
LETTER: Final = rf"[^\W{UNSPACED}]"

SPACES: Final = "\u00a0\u2009\u202f"  # that stand between thousands
NUMBER: Final = re.compile(
    r"(?<![^\W_])(?<!\d\.)"  # it begins neither in a word nor in another number
    r"(?P<sign>(?<![)\]])[-+\u2212\u2013][$€£¥]?)?"
    rf"(?P<whole>\d{{1,3}}(?:(?P<by>[,{SPACES}])\d{{3}}(?:(?P=by)\d{{3}})*)?(?!\d)|\d+|(?<!\.)(?=\.\d))"
    r"(?P<part>\.\d+)?(?P<power>[eE][-+]?\d{1,3}(?!\w))?"
)
FENCED: Final = re.compile(r"```\w*[^\S\n]*\n(.*?)```", re.DOTALL)

# A letter that names a choice. Bare, it must not be a word ("A dog", "I think"), nor begin one ("B-52", "C++").
ENDS: Final = r"(?![\w'’+#-])"
ALONE: Final = r"(?=[.):,\]*]|\s*$|\s*\n)"
BEGINS: Final = re.compile(
    r"^\W*(?i:(?:the\s+)?(?:correct\s+|right\s+)?answer(?:\s+is)?\b\W*)?"
    rf"(?:\((?P<in>[A-Za-z])\)|\[(?P<on>[A-Za-z])\]|(?P<bare>[B-HJ-NP-Z]{ENDS}|[A-Za-z]{ENDS}{ALONE}))"
)
STATED: Final = re.compile(
    rf"\b(?i:answer)(?:\s+is)?\s*:?\s*[(\[*\"]{{0,3}}(?P<letter>[A-Z]{ENDS}|[a-z]{ENDS}(?!\s+\w))"
)


def right(check: Check, answers: Sequence[str], text: str) -> bool:
    """Whether `text` is right by the check. `answers`: what is accepted; regex, json-schema and ifeval need none.

    Raises EftError where what a check needs is not installed.
    """
    return CHECKS[check.name](check.value, answers, text)


def check_of(value: object, answers: Sequence[str], choices: Sequence[str] = ()) -> Check | None:
    """The check that a line asks for: a name, or an object of one name and what it needs. None for None.

    Raises EftError for an unknown one, and for one that cannot work with these answers.
    """
    if value is None:
        return None
    name, given = _named(value)
    if name in BY_ANSWERS or name == "choice":
        if given is not None:
            raise EftError(f"check {name} has {kind(given)}; it needs only the answers", f'Write "check": "{name}".')
        if not answers:
            raise EftError(f"has the check {name} and no answer", 'Give an "answer", or a list of "answers".')
    if name == "number" and (wrong := next((a for a in answers if last_number(a) is None), None)) is not None:
        raise EftError(f"has the check number, and no number in the answer {kind(wrong)}")
    if name == "choice":
        if not choices:
            raise EftError("has the check choice and no choices", 'Give them as a list: "choices": ["...", "..."].')
        return Check(name, tuple(choices))
    if name == "regex":
        _pattern(given)
    if name == "json-schema":
        given = json_schema.checked(given)
    if name == "ifeval":
        raise EftError("check is ifeval, which a line cannot name", "Give instruction_id_list and kwargs, as IFEval.")
    return Check(name, given)


def _named(value: object) -> tuple[CheckName, object]:
    names: tuple[CheckName, ...] = get_args(CheckName)
    name, given = value, None
    if isinstance(value, dict) and len(value) == 1:
        name, given = next(iter(value.items()))
    known = ", ".join(n for n in names if n != "ifeval")
    if not isinstance(name, str):
        raise EftError(f"check is {kind(value)}; it must be one of {known}", 'For example "check": "exact".')
    if (found := next((n for n in names if n == name.replace("_", "-")), None)) is None:
        near = difflib.get_close_matches(name, names, 1)
        raise EftError(
            f"check is {kind(name)}; it must be one of {known}", f"Did you mean {near[0]}?" if near else None
        )
    return found, given


# --- texts ------------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """The text without differences that do not count: the case of letters, white space, how accents are written."""
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def _exact(_: object, answers: Sequence[str], text: str) -> bool:
    return _plain(text) in map(_plain, answers)


def _contains(_: object, answers: Sequence[str], text: str) -> bool:
    plain = _plain(text)
    return any(_words(_plain(answer)).search(plain) is not None for answer in answers)


@lru_cache(4096)
def _words(answer: str) -> re.Pattern[str]:
    """Finds a text as whole words: "dollar" is not in "dollars", and 110,000 is not in 1,110,000."""
    before = rf"(?<!{LETTER})" if re.match(LETTER, answer) else ""
    after = rf"(?!{LETTER})" if re.match(LETTER, answer[-1:]) else ""
    before += r"(?<!\d[.,])" if answer[:1].isdigit() else ""
    after += r"(?![.,]\d)" if answer[-1:].isdigit() else ""
    return re.compile(f"{before}{re.escape(answer)}{after}")


def _first_sentence(_: object, answers: Sequence[str], text: str) -> bool:
    return _contains(None, answers, re.split(r"(?<=[.!?])\s|\n", text.strip(), maxsplit=1)[0])


def _pattern(value: object) -> re.Pattern[str]:
    """A pattern that a line gives; `re` keeps the compiled ones."""
    if not isinstance(value, str):
        raise EftError(
            f"check regex has {'no pattern' if value is None else kind(value) + ', which is no pattern'}",
            r'Give it with the check: "check": {"regex": "^\\d+$"}.',
        )
    try:
        return re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise EftError(f"check regex has a pattern that Python cannot read: {error}") from None


# --- numbers ----------------------------------------------------------------------------------------------------------


def last_number(text: str) -> Decimal | None:
    """The last number in a text: 1,234.50, -5, .5, 1e3; $ and % beside it do not count. None where there is none.

    Thousands are parted by commas or by narrow or fixed spaces, and decimals by a point, as in English.
    """
    found = None
    for found in NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if found is None:
        return None
    whole = re.sub(rf"[,{SPACES}]", "", found["whole"])
    sign = "-" if (found["sign"] or "+")[0] in "-\u2212\u2013" else ""
    return Decimal(f"{sign}{whole or '0'}{found['part'] or ''}{found['power'] or ''}")


def _number(_: object, answers: Sequence[str], text: str) -> bool:
    said = last_number(text)
    return said is not None and any(said == last_number(answer) for answer in answers)


# --- choices ----------------------------------------------------------------------------------------------------------


def _choice(value: object, answers: Sequence[str], text: str) -> bool:
    choices = cast(Sequence[str], value)
    return (index := _chosen(choices, text)) is not None and _plain(choices[index]) in map(_plain, answers)


def _chosen(choices: Sequence[str], text: str) -> int | None:
    """The choice that a text names; None where it names none, or more than one.

    In this order: it is one's text; it begins with a letter, as in "B", "(b)" or "B. Paris"; it states a letter, as in
    "the answer is B"; it contains the text of just one.
    """
    plain = [_plain(choice) for choice in choices]
    if (whole := _plain(text).rstrip(".")) in (bare := [p.rstrip(".") for p in plain]):
        return bare.index(whole)
    letters = {match["letter"].upper() for match in STATED.finditer(text)}
    if (found := BEGINS.match(text)) is not None:
        letters.add((found["in"] or found["on"] or found["bare"]).upper())
    if len(letters) == 1 and (index := LETTERS.index(letters.pop())) < len(choices):
        return index
    said = [i for i, choice in enumerate(plain) if _words(choice.rstrip(".")).search(_plain(text))]
    longest = [i for i in said if not any(i != j and plain[i] in plain[j] for j in said)]  # "York" is in "New York"
    return longest[0] if len(longest) == 1 else None


# --- JSON -------------------------------------------------------------------------------------------------------------


def _json_schema(value: object, _: Sequence[str], text: str) -> bool:
    fence = FENCED.search(text)
    try:
        answer = json_value(text if fence is None else fence[1])
        return json_schema.valid(cast(Mapping[str, object] | bool, value), answer)
    except (json.JSONDecodeError, ValueError, RecursionError):
        return False


CHECKS: Final[Mapping[CheckName, Callable[[object, Sequence[str], str], bool]]] = {
    "exact": _exact,
    "contains": _contains,
    "first-sentence": _first_sentence,
    "regex": lambda value, _, text: _pattern(value).search(text) is not None,
    "number": _number,
    "choice": _choice,
    "json-schema": _json_schema,
    "ifeval": lambda value, _, text: ifeval.follows(cast(ifeval.Instructions, value), text),
}
