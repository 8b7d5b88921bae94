"""Constraints: each answer is valid, and its tokens are drawn from the emulator's distribution over allowed tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from eftlocal import Emulator, Message, Raw
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.constraints.matcher import Grammars
from eftlocal.decoding.generation import Reply
from eftlocal.emulation.emulator import Job
from eftlocal.errors import SettingError
from tests.builders import load, load_members
from tests.decoding.constraints.made import CONSTRAINTS, ENDS, SCHEMAS
from tests.decoding.drafts.test_speculate import chi_square, next_logits
from tests.families import Family, Trio


def models(family: Family) -> dict[str, Path]:
    return {name: getattr(family, name) for name in ("base", "tuned", "reference", "tuned2", "reference2")}


@pytest.fixture
def emulator(family: Family, tmp_path: Path) -> Iterator[Emulator]:
    with load(tmp_path, models(family), max_tokens=200, context=512) as made:
        yield made


# --- answers ----------------------------------------------------------------------------------------------------------


def check_valid(emulator: Emulator, n: int, **dials: Any) -> None:
    """Checks `n` samples of each schema: those that end by themselves are valid, and nearly all do."""
    jobs: list[Job] = []
    for i in range(2 * n):
        own: Any = {"constraint": CONSTRAINTS[i % 2], "seed": i, "temperature": 1 + i % 3 / 4, **dials}
        jobs.append(Job(f"Tell me of city {i}.", own, 0, i))
    ended = 0
    for i, reply in emulator.answers(jobs, parallel=6):
        assert isinstance(reply, Reply), reply
        assert reply.complete or reply.finish_reason == "length"
        if reply.finish_reason == "stop":
            ended += 1
            jsonschema.validate(json.loads(reply.text), SCHEMAS[i % 2], format_checker=jsonschema.FormatChecker())
    assert ended > 1.8 * n


@pytest.mark.slow
@pytest.mark.parametrize("draft", [0, 3])
def test_sampled_json_of_the_demo_family_is_valid(draft: int) -> None:
    with Emulator.load("demo", threads=1, context=256, max_tokens=180, top_p=1.0) as demo:
        check_valid(demo, 15, draft=draft)


@pytest.mark.slow
def test_sampled_json_of_smollm2_is_valid(smollm2_trio: Trio, tmp_path: Path) -> None:
    paths = {role: getattr(smollm2_trio, role) for role in ("base", "tuned", "reference")}
    with load(tmp_path, paths, views="transcript", context=512, max_tokens=150, top_p=1.0, kv_type="f16") as made:
        check_valid(made, 3)


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=lambda constraint: constraint.kind)
@pytest.mark.parametrize("draft", [0, 4, "auto"])
def test_an_answer_that_ends_is_whole_and_one_that_is_cut_is_its_beginning(
    emulator: Emulator, constraint: Constraint, draft: Any
) -> None:
    dials: dict[str, Any] = {"constraint": constraint, "temperature": 1.0, "seed": 3, "draft": draft}
    whole = emulator.generate(Raw("Hello"), **dials)
    assert whole.finish_reason in ("stop", "length")
    assert whole.complete == (whole.finish_reason == "stop")
    cut = emulator.generate(Raw("Hello"), **(dials | {"max_tokens": 2}))
    assert cut.tokens == whole.tokens[:2]
    if len(whole.tokens) > 2:
        assert cut.finish_reason == "length"
        assert cut.complete == (constraint.kind == "choice" and cut.text in json.loads(constraint.text))


def test_greedy_and_seeded_texts_do_not_depend_on_drafts_or_on_what_else_runs(emulator: Emulator) -> None:
    for temperature in (0.0, 1.0):
        jobs = [
            Job(Raw("the world"), {"constraint": c, "temperature": temperature, "max_tokens": 40}, i, i)
            for i, c in enumerate(CONSTRAINTS * 2)
        ]

        def texts(parallel: int, draft: int, jobs: list[Job] = jobs) -> dict[int, Any]:
            drafted = [job._replace(dials={**job.dials, "draft": draft}) for job in jobs]
            return {tag: reply.tokens for tag, reply in emulator.answers(drafted, parallel=parallel)}  # type: ignore[union-attr]

        plain, drafted = texts(1, 0), texts(1, 1)
        assert texts(4, 0) == plain
        assert texts(1, 5) == texts(3, 3) == drafted
        assert temperature or plain == drafted


def test_what_is_forced_takes_no_step_of_its_own_and_is_tokenized_as_the_model_does(emulator: Emulator) -> None:
    text = "Hello the Assistant is in the system at 12"
    reply = emulator.generate(Raw("a"), constraint=Constraint.choice([text]))
    assert (reply.text, reply.finish_reason, reply.complete) == (text, "stop", True)
    assert list(reply.tokens) == emulator.render(Raw(text))["base"]
    assert reply.steps == 1
    long = Constraint.choice(["x" * 150])
    assert emulator.generate(Raw("a"), constraint=long, max_tokens=100).text == "x" * 100
    assert 3 <= emulator.generate(Raw("a"), constraint=long).steps < 10  # a step checks only MAX_ROWS rows


@pytest.mark.slow
def test_tokens_follow_the_emulators_distribution_over_what_is_allowed(family: Family, tmp_path: Path) -> None:
    dials: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "beta": 0.5}
    exact: dict[tuple[int, ...], float] = {(): 1.0}
    letters = np.arange(97, 101)
    loaded = load_members(tmp_path, models(family))
    with Emulator(loaded) as made:
        for _ in range(3):
            longer: dict[tuple[int, ...], float] = {}
            for tokens, mass in exact.items():
                z = next_logits(loaded, "Hello", tokens, **dials)[letters].astype(np.float64)
                p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
                longer |= {(*tokens, int(letter)): mass * q for letter, q in zip(letters, p, strict=True)}
            exact = longer
        constraint = Constraint.regex("[a-d]{3}")
        for draft in (0, 2):
            replies = made.generate_many(
                [Raw("Hello")] * 1200, parallel=4, seed=1, draft=draft, constraint=constraint, **dials
            )
            counts: dict[tuple[int, ...], int] = {}
            for reply in replies:
                counts[reply.tokens] = counts.get(reply.tokens, 0) + 1
            assert abs(chi_square(counts, exact, 1200)) < 5


def test_the_constraint_comes_before_the_sampling_settings(emulator: Emulator) -> None:
    for dials in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"logit_bias": {0x7A: 1000.0}}):
        reply = emulator.generate(Raw("Hello"), constraint=Constraint.regex("[a-d]{5}"), temperature=1.0, **dials)
        assert len(reply.text) == 5 and reply.complete
    with pytest.raises(SettingError, match="no token can follow"):
        banned = dict.fromkeys(range(97, 101), float("-inf"))
        emulator.generate(Raw("Hello"), constraint=Constraint.regex("[a-d]{5}"), logit_bias=banned)


def test_an_answer_may_end_with_any_members_token_where_it_is_complete_only(emulator: Emulator) -> None:
    for token in ENDS:
        dials: dict[str, Any] = {"logit_bias": {token: 1000.0}, "constraint": Constraint.regex("[a-d]{3,9}")}
        reply = emulator.generate(Raw("Hello"), **dials)
        assert (len(reply.text), reply.finish_reason, reply.complete) == (3, "stop", True)


def test_a_view_does_not_stop_a_constrained_answer_but_the_callers_stop_string_does(
    family: Family, tmp_path: Path
) -> None:
    with load(tmp_path, models(family), views="transcript") as made:
        prompt = [Message("user", "Hello")]
        text = "a\n\nUser: b"
        assert made.generate(prompt, constraint=Constraint.choice([text])).text == text
        reply = made.generate(prompt, constraint=Constraint.choice([text]), stop=["User"])
        assert (reply.text, reply.stopped_by, reply.complete) == ("a\n\n", "User", False)
        reply = made.generate(prompt, constraint=Constraint.regex("[ab]+c*"), stop=["c"], logit_bias={99: 1e3})
        assert (reply.finish_reason, reply.stopped_by, reply.complete) == ("stop", "c", True)


# --- invalid constraints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (Constraint.json_schema, "{", "is not valid JSON: .*line 1 column 2"),
        (Constraint.json_schema, "3", "is 3; it must be an object"),
        (Constraint.json_schema, {"type": {1, 2}}, "is not valid JSON"),
        (Constraint.json_schema, {"const": float("nan")}, "is not valid JSON"),
        (Constraint.json_schema, {"type": "strin"}, "Invalid type: strin"),
        (Constraint.json_schema, {"type": "array", "uniqueItems": True}, r"(?s)uniqueItems.*lenient"),
        (Constraint.json_schema, {"type": "integer", "minimum": 2, "maximum": 1}, "minimum .2. is greater"),
        (Constraint.json_schema, {"$ref": "#/$defs/x"}, "/\\$defs/x"),
        (Constraint.json_schema, '{"not":' * 100_000, "nested too deeply"),
        (Constraint.json_schema, '{"items":' * 400 + "{}" + "}" * 400, "nested too deeply"),
        (Constraint.grammar, "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deeply"),
        (Constraint.regex, "", "regex is empty"),
        (Constraint.regex, "(a", "regex cannot be used: unclosed group"),
        (Constraint.regex, "(?=a)b", "look-around"),
        (Constraint.regex, "\ud800", "half of a surrogate pair"),
        (Constraint.choice, [], "choice is empty"),
        (Constraint.choice, ["a", ""], "choice is empty"),
        (Constraint.choice, "abc", "choices are the text 'abc'; they must be a list"),
        (Constraint.choice, ["a", 1], "A choice is 1; it must be a text"),
        (Constraint.regex, 3, r"constraint is \('regex', 3\); it must be one of json_schema, .*, and a text"),
        (Constraint.grammar, None, r"constraint is \('grammar', None\)"),
        (lambda text: Constraint("json_schema", text), "{", "is not valid JSON"),
        (lambda text: Constraint("json_schema", text), "[1]", r"is \[1\]; it must be an object"),
        (lambda kind: Constraint(kind, "a"), "regexp", "constraint is 'regexp'|'regexp', 'a'"),
        (Constraint.regex, "a/b(", r"unclosed group: character 4: a/b<here>\("),
        (Constraint.regex, "é\n\\d{2", r"counted repetition: character 5: é\\n\\d<here>\{2"),
        (Constraint.regex, r"a\b", r"look-around .* is not supported: a\\b"),
        (Constraint.regex, "a\\", "ends in a backslash"),
        (Constraint.regex, r"a[^\s\S]b", "regex cannot be used: nothing can satisfy it"),
    ],
)
def test_a_constraint_that_cannot_be_used_says_why_before_anything_is_decoded(
    make: Any, given: Any, words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        make(given)


def test_lenient_schemas_ignore_what_cannot_be_enforced(grammars: Grammars) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "maxItems": 2}
    matcher = grammars.matcher(Constraint.json_schema({**schema, "x-guidance": {"lenient": True}}))
    assert matcher.complete("[1,2]") and matcher.complete("[1,1]")  # uniqueItems is ignored
    assert not matcher.complete("[1,3]") and not matcher.complete("[1,1,1]")  # the rest of the schema is not ignored


def test_a_constraint_that_is_too_complex_fails_alone(emulator: Emulator) -> None:
    hard = Constraint.regex("(([a-z]{1,1000}){1,1000}){1,1000}")
    banned = dict.fromkeys(ENDS, -100.0)
    jobs = [
        Job(Raw("a"), {"constraint": hard, "logit_bias": banned}, tag=0),
        Job(Raw("a"), {"constraint": CONSTRAINTS[-1]}, tag=1),
    ]
    found = dict(emulator.answers(jobs, parallel=2))
    assert isinstance(found[1], Reply) and found[1].complete
    assert isinstance(found[0], SettingError) and "regex cannot be used: after" in found[0].message


def test_one_of_many_thousand_texts_can_be_chosen(emulator: Emulator) -> None:
    texts = [f"{i * 7919 % 100_003}" for i in range(20_000)]
    assert emulator.generate(Raw("a"), constraint=Constraint.choice(texts)).text in texts


def test_an_answer_that_no_token_can_continue_ends_alone_with_its_error(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eftlocal.decoding.constraints.constraint._check_start", lambda *_: None)
    jobs = [
        Job(Raw("a"), {"constraint": Constraint.regex(r"[^\s\S]a")}, tag=0),
        Job(Raw("a"), {"constraint": CONSTRAINTS[-1]}, tag=1),
    ]
    found = dict(emulator.answers(jobs, parallel=2))
    assert isinstance(found[1], Reply) and found[1].complete
    assert isinstance(found[0], SettingError) and "no token of the models can follow" in found[0].message


def test_equal_constraints_are_equal() -> None:
    assert Constraint.regex("a+") == Constraint.regex("a+") != Constraint.regex("a*")
    assert len({Constraint.json_schema({"type": "null"}), Constraint.json_schema('{"type": "null"}')}) == 1
