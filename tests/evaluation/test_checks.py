"""Tests of the checks: what counts as right in answers as models really write them."""

import sys
from decimal import Decimal
from types import ModuleType
from typing import Any, ClassVar

import pytest

from eftlocal.errors import EftError
from eftlocal.evaluation import ifeval, json_schema
from eftlocal.evaluation.checks import check_of, last_number, right
from eftlocal.evaluation.items import Check
from eftlocal.evaluation.needed import MissingPackageError


def test_exact_ignores_case_white_space_and_how_accents_are_written_and_nothing_else() -> None:
    for text in ("Café au lait", " café\n au  LAIT ", "Cafe\u0301 au lait"):
        assert right(Check("exact"), ("Tea", "café au lait"), text)
    for text in ("café au lait.", "cafe au lait", "", "The café au lait"):
        assert not right(Check("exact"), ("café au lait",), text)


@pytest.mark.parametrize(
    ("answer", "text", "is_right"),
    [
        ("dollar", "That would be the Dollar.", True),
        ("dollar", "dollars", False),
        ("New York", "It is new\nyork, I think", True),
        ("York", "It is New Yorkshire", False),
        ("110,000", "about 110,000.", True),
        ("110,000", "about 1,110,000", False),
        ("110,000", "about 110,000,000", False),
        ("5", "it costs 5.5", False),
        ("5", "it costs 5.", True),
        ("C++", "in C++, of course", True),
        ("C", "in C, of course", True),
        ("(a|b)", "the pattern (a|b)", True),
        ("巴黎", "法国的首都是巴黎。", True),  # words without spaces between them
        ("Straße", "die STRASSE", True),
        ("it", "I don't", False),
        ("x", "", False),
    ],
)
def test_contains_finds_whole_words(answer: str, text: str, is_right: bool) -> None:
    assert right(Check("contains"), ("never", answer), text) == is_right


def test_in_the_first_sentence_an_answer_comes_at_once() -> None:
    check, answers = Check("first-sentence"), ("110,000", "dollar", "U.S. dollar")
    assert right(check, answers, "That would be about 110,000.")
    assert right(check, answers, "\n That would be the dollar")
    for text in ("That would be about 1110,000.", "That would be the peso. Or the dollar.", "The peso\nthe dollar", ""):
        assert not right(check, answers, text)


def test_a_regex_is_pythons_and_may_match_anywhere() -> None:
    check = check_of({"regex": r"(?i)\byes\b"}, ())
    assert check is not None
    assert right(check, (), "Well, Yes!") and not right(check, (), "yesterday")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", "72"),
        ("She has 48, and then 24. So 72.", "72"),
        ("It costs $1,234.50.", "1234.50"),
        ("1,234,567", "1234567"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("a change of \u22125 °C", "-5"),  # the sign of Unicode
        ("10-12", "12"),  # a range, and not -12
        ("3-5 = -2", "-2"),
        ("- 5 apples", "5"),  # a list's mark
        ("50%", "50"),
        ("50 %", "50"),
        ("€ 20", "20"),
        (".5", "0.5"),
        ("the answer is...5", "5"),
        ("version 1.2.3", "1.2"),
        ("1e3", "1000"),
        ("2.5e-1", "0.25"),
        ("**42**", "42"),
        (r"\boxed{42}", "42"),
        ("#### 1,072", "1072"),
        ("1,2,3", "3"),
        ("10\u202f000", "10000"),
        ("10 000", "0"),  # a plain space parts numbers
        ("5kg", "5"),
        ("007", "7"),
        ("5", "5"),
        ("H2O and B12", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number_is_read_as_english_writes_it(text: str, value: str | None) -> None:
    assert last_number(text) == (None if value is None else Decimal(value))


def test_numbers_are_equal_by_their_value() -> None:
    check = Check("number")
    assert right(check, ("#### 1,072",), "So it is $1072.00.") and right(check, ("0.1",), ".10")
    assert not right(check, ("#### 72",), "7.2") and not right(check, ("72",), "seventy-two")
    assert not right(check, ("72",), "72 or 73") and right(check, ("73", "72"), "72")


CHOICES = ("Paris", "London", "New York", "York")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "London"),
        ("b", "London"),
        ("(b)", "London"),
        ("B. London", "London"),
        ("B) because", "London"),
        ("**B**", "London"),
        ("B because of the Thames", "London"),
        ("B\nIt has the Thames", "London"),
        ("[C]", "New York"),
        ("Answer: B", "London"),
        ("The answer is B.", "London"),
        ("The correct answer is (C).", "New York"),
        ("The answer is A because it is", "Paris"),
        ("I think the answer is D", "York"),
        ("I think it is London", "London"),
        ("paris.", "Paris"),
        ("New York is it", "New York"),  # and not York, which it contains
        ("It's York, not elsewhere", "York"),
        ("A dog", None),  # an article
        ("The answer is a city", None),
        ("Not Paris but London", None),
        ("B-52 bombers", None),
        ("E", None),
        ("The answer is B. No, the answer is C", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_its_letter_or_by_its_text(text: str, chosen: str | None) -> None:
    assert [choice for choice in CHOICES if right(Check("choice", CHOICES), (choice,), text)] == [chosen] * bool(chosen)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ('{"n": 3}', True),
        (' {"n": 3}\n', True),
        ('Here it is:\n```json\n{"n": 3}\n```\nDone.', True),
        ('{"n": 3.0}', True),
        ('{"n": "3"}', False),
        ('{"n": 3, "m": 1}', False),
        ('{"n": 3} and more', False),
        ('{"n": NaN}', False),
        ('{"n": 3, "n": 4}', False),
        ('{"n": 3', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_json_is_valid_under_a_schema(text: str, is_right: bool) -> None:
    check = check_of({"json-schema": SCHEMA}, ())
    assert check is not None and right(check, (), text) == is_right


def test_a_schema_may_refer_to_itself_and_to_nothing_else() -> None:
    tree = {"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}
    check = check_of({"json-schema": tree}, ())
    assert check is not None and right(check, (), "[[], [[]]]") and not right(check, (), "[1]")
    for reference in ("https://example.org/schema.json", "other.json#/a"):
        with pytest.raises(EftError, match="which is not in the schema itself"):
            check_of({"json-schema": {"$ref": reference}}, ())


@pytest.mark.parametrize(
    ("value", "answers", "told"),
    [
        ("exactly", ("x",), "check is 'exactly'; it must be one of exact, contains, first-sentence"),
        (7, ("x",), "check is 7; it must be one of exact"),
        ({"exact": 1, "regex": "x"}, ("x",), "check is an object; it must be one of"),
        ("exact", (), "has the check exact and no answer"),
        ({"contains": ["x"]}, ("x",), "check contains has a list; it needs only the answers"),
        ("regex", ("x",), "check regex has no pattern"),
        ({"regex": 4}, (), "check regex has 4, which is no pattern"),
        ({"regex": ["x"]}, (), "check regex has a list, which is no pattern"),
        ({"regex": "("}, (), "check regex has a pattern that Python cannot read"),
        ("number", ("x",), "has the check number, and no number in the answer 'x'"),
        ("choice", ("x",), "has the check choice and no choices"),
        ("json-schema", (), "check json-schema has no schema"),
        ({"json-schema": "x"}, (), "check json-schema is 'x'; a schema is an object"),
        ({"json-schema": {"type": "objekt"}}, (), "check json-schema is no JSON Schema: 'objekt'"),
        ("ifeval", (), "check is ifeval, which a line cannot name"),
    ],
)
def test_a_check_that_cannot_work_is_an_error_that_says_why(value: object, answers: tuple[str, ...], told: str) -> None:
    with pytest.raises(EftError) as error:
        check_of(value, answers)
    assert error.value.message.startswith(told)


def test_a_misspelt_check_is_told_with_the_nearest_one() -> None:
    with pytest.raises(EftError) as error:
        check_of("containing", ("x",))
    assert error.value.hint == "Did you mean contains?"


def test_a_schema_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_schema, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as error:
        check_of({"json-schema": SCHEMA}, ())
    assert error.value.hint == "Install it: pip install 'eftlocal[eval]'"


# --- IFEval -----------------------------------------------------------------------------------------------------------


class NoComma:
    """A check in the form of IFEval's."""

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def build_description(self, **arguments: Any) -> None:
        if arguments.keys() - {"most", "prompt"}:
            raise TypeError("unexpected argument")
        self.made.append(arguments)

    def get_instruction_args(self) -> dict[str, object]:
        return {"prompt": None}

    def check_following(self, text: str) -> bool:
        return "," not in text


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-evaluation-harness as far as IFEval needs it."""
    ifeval._registry.cache_clear()
    NoComma.made.clear()
    modules: dict[str, Any] = {name: ModuleType(name) for name in ("nltk", "langdetect", "immutabledict")}
    modules["nltk"].data = type("Data", (), {"find": staticmethod(lambda place: place)})
    modules["langdetect"].DetectorFactory = type("Factory", (), {"seed": None})
    registry = "lm_eval.tasks.ifeval.instructions_registry"
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval", registry):
        modules[name] = ModuleType(name)
    modules[registry].INSTRUCTION_DICT = {"punctuation:no_comma": NoComma}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(ifeval, "find_spec", lambda name: modules.get(name))


@pytest.mark.usefixtures("harness")
def test_ifeval_asks_the_harness_with_the_arguments_that_are_given_and_the_prompt() -> None:
    given = ifeval.checked("Say it.", ["punctuation:no_comma"], [{"most": 3, "other": None}])
    assert given == {"prompt": "Say it.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"most": 3}]}
    check = Check("ifeval", given)
    assert right(check, (), "No commas here.") and not right(check, (), "One, two.") and not right(check, (), " ")
    assert {"prompt": "Say it."} in NoComma.made and {"most": 3} in NoComma.made
    assert sys.modules["langdetect"].DetectorFactory.seed == 0, "its guesses must be the same in each run"


@pytest.mark.usefixtures("harness")
def test_what_ifevals_checks_do_not_know_is_an_error() -> None:
    with pytest.raises(EftError, match="has the instruction 'x:y', which IFEval's checks do not know"):
        ifeval.checked("?", ["x:y"], [{}])
    with pytest.raises(EftError, match="the kwargs of punctuation:no_comma cannot be used: TypeError"):
        ifeval.checked("?", ["punctuation:no_comma"], [{"least": 1}])


def test_ifeval_without_its_packages_or_data_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    ifeval._registry.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(ifeval, "find_spec", lambda name: None)
        with pytest.raises(MissingPackageError, match="extra ifeval") as error:
            ifeval.checked("?", ["punctuation:no_comma"], [{}])
    assert error.value.hint == "Install it: pip install 'eftlocal[ifeval]'"
    request.getfixturevalue("harness")

    def find(place: str) -> None:
        raise LookupError(place)

    sys.modules["nltk"].data.find = find
    with pytest.raises(MissingPackageError, match="punkt_tab") as error:
        ifeval.checked("?", ["punctuation:no_comma"], [{}])
    assert error.value.hint == "Download it: python -m nltk.downloader punkt_tab"
