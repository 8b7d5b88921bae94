"""Answers that are judged by a data file's patterns: as in this process, and never for ever."""

import time
from collections.abc import Iterator

import pytest

from eftlocal.errors import EftError
from eftlocal.evaluation.checks import check_of, right
from eftlocal.evaluation.ifeval import Instructions
from eftlocal.evaluation.items import Check
from eftlocal.evaluation.judge import Judge

ENDLESS = "(a+)+$"
LETTERS = "a" * 40 + "b"


@pytest.fixture
def judge() -> Iterator[Judge]:
    made = Judge(seconds=1)
    yield made
    made.close()


def test_a_pattern_that_searches_for_ever_is_given_up_and_the_next_is_judged(judge: Judge) -> None:
    schema = check_of({"json-schema": {"properties": {"a": {"pattern": ENDLESS}}}}, ())
    assert schema is not None
    began = time.monotonic()
    with pytest.raises(
        EftError, match=r"check regex: the pattern '\(a\+\)\+\$' was not done with an answer after 1 sec"
    ):
        judge.right(Check("regex", ENDLESS), (), LETTERS)
    with pytest.raises(EftError, match="check json-schema: the pattern"):
        judge.right(schema, (), f'{{"a": "{LETTERS}"}}')
    assert time.monotonic() - began < 30
    assert judge.right(Check("regex", ENDLESS), (), "aaa")


def test_it_judges_as_this_process_does(judge: Judge) -> None:
    schema = check_of({"json-schema": {"type": "object", "patternProperties": {"^x+$": {"type": "number"}}}}, ())
    checks = [Check("regex", r"^\d+ (é|ü)$"), Check("regex", "a|\ud800"), Check("exact"), schema]
    texts = ["12 é", "12 e", "\ud800", "a", '{"xx": 1}', '{"xx": "1"}', "line\n\u2028line"]
    for check in checks:
        assert check is not None
        for text in texts:
            assert judge.right(check, ("a",), text) == right(check, ("a",), text), (check, text)
    unresolved = Check("json-schema", {"$ref": "#/$defs/none", "pattern": "a*"})
    with pytest.raises(EftError, match="which is not in the schema"):
        judge.right(unresolved, (), '"a"')


def test_a_process_is_started_only_for_patterns_that_may_search_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", never)
    judge = Judge()
    assert judge.right(Check("regex", "^Paris[.]$"), (), "Paris.")
    assert judge.right(Check("exact"), ("a*",), "a*")
    with pytest.raises(AssertionError, match="a process was started"):
        judge.right(Check("regex", "a*"), (), "")
    kwargs: list[dict[str, object]] = [{"prompt_to_repeat": "Why? (a+)+"}, {"keywords": ["correlated", "(a+)+"]}]
    instructions = Instructions(prompt="", instruction_id_list=[], kwargs=kwargs)
    with pytest.raises(AssertionError, match="a process was started"):
        judge.right(Check("ifeval", instructions), (), "")


def test_without_processes_it_judges_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr("subprocess.Popen", refused)
    assert Judge().right(Check("regex", "a*b"), (), "aab")
