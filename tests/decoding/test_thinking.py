"""Thoughts and answer are told apart in every split of the text into deltas, and markers in an answer are text."""

import random

import pytest

from eftlocal.decoding.thinking import ANSWER, START, Splitter, opened_by, split, spoken, thoughts_in

INSIDE = "</think>"
CASES = {  # name -> (the text, where it begins, its thoughts, its answer)
    "thoughts and an answer": ("<think>\nSo, 2.\n</think>\n\nIt is 2.\n", START, "So, 2.", "It is 2.\n"),
    "without line ends": ("<think>a</think>b", START, "a", "b"),
    "white space first": (" \n<think>a</think> b", START, "a", "b"),
    "empty thoughts": ("<think>\n\n</think>\n\nYes.", START, "", "Yes."),
    "another marker": ("<thought>\na\n</thought>\nb", START, "a", "b"),
    "opened by the prompt": ("So, 2.\n</think>\n\nIt is 2.", INSIDE, "So, 2.", "It is 2."),
    "not closed": ("<think>\nSo, 2.\n\nOr 3", START, "So, 2.\n\nOr 3", ""),
    "not closed, and opened by the prompt": ("So, 2.", INSIDE, "So, 2.", ""),
    "cut within the closing marker": ("<think>\nSo</thi", START, "So</thi", ""),
    "cut within the opening marker": ("<thin", START, "", "<thin"),
    "almost a marker": ("<thinker> is a word", START, "", "<thinker> is a word"),
    "a marker in the middle": ("Use `<think>a</think>` first.", START, "", "Use `<think>a</think>` first."),
    "a marker in code": ("```\n<think>\na\n</think>\n```", START, "", "```\n<think>\na\n</think>\n```"),
    "thoughts after the answer": ("Yes.\n<think>a</think>", START, "", "Yes.\n<think>a</think>"),
    "thoughts twice": ("<think>a</think>b<think>c</think>", START, "a", "b<think>c</think>"),
    "a marker in thoughts": ("<think>is <think> one? </thin> no</think>b", START, "is <think> one? </thin> no", "b"),
    "other closing marker": ("<think>a</thought>b</think>c", START, "a</thought>b", "c"),
    "no thoughts can follow": ("<think>a</think>b", ANSWER, "", "<think>a</think>b"),
    "white space alone": (" \n\n", START, "", " \n\n"),
    "nothing": ("", START, "", ""),
    "an answer's own white space": ("  code\n\n", START, "", "  code\n\n"),
}


@pytest.mark.parametrize("name", CASES)
def test_thoughts_and_answer_are_told_apart_in_every_split(name: str) -> None:
    text, place, thoughts, answer = CASES[name]
    assert split(text, place) == (thoughts, answer)
    rng = random.Random(name)
    for n in range(40):
        splitter, parts, rest = Splitter(place), [], text
        while rest:
            size = 1 if n == 0 else rng.randint(1, 9)
            parts += splitter.push(rest[:size])
            rest = rest[size:]
        parts += splitter.finish()
        assert "".join(part.text for part in parts if part.thinking) == thoughts
        assert "".join(part.text for part in parts if not part.thinking) == answer
        kinds = [part.thinking for part in parts]
        assert kinds == sorted(kinds, reverse=True)  # never thoughts after the answer has begun


def test_an_answer_without_markers_is_told_at_once() -> None:
    splitter = Splitter()
    assert [splitter.push(delta)[0].text for delta in ("So", " it", " is")] == ["So", " it", " is"]


def test_only_white_space_and_what_may_be_a_marker_wait() -> None:
    splitter = Splitter()
    shown = [[part.text for part in splitter.push(delta)] for delta in ("<thi", "nk>", "\n", "a b", " c\n", "</", "x")]
    assert shown == [[], [], [], ["a b"], [" c"], [], ["\n</x"]]


@pytest.mark.parametrize("cut", range(len("<think>\na\n</think>\n\nb") + 1))
def test_a_splitter_that_goes_on_where_another_text_ended_tells_the_rest_apart(cut: int) -> None:
    text = "<think>\na\n</think>\n\nb"
    first, whole = Splitter(), split(text, START)
    parts = first.push(text[:cut])
    more = first.push(text[cut:]) + first.finish()
    told = [*parts, *more]
    assert ("".join(p.text for p in told if p.thinking), "".join(p.text for p in told if not p.thinking)) == whole


@pytest.mark.parametrize(
    ("prompt", "place"),
    [
        ("<|im_start|>assistant\n", START),
        ("<｜Assistant｜><think>\n", INSIDE),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", START),
        ("Assistant:\n<thought>", "</thought>"),
        ("", START),
    ],
)
def test_a_prompt_that_ends_with_the_opening_marker_opens_the_thoughts(prompt: str, place: str) -> None:
    assert opened_by(prompt) == place


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("<think>\na\n</think>\n\nb", "b"),
        ("a\n</think>\n\nb", "b"),  # the template wrote the opening marker
        ("`</think>` closes the thoughts.", "`</think>` closes the thoughts."),
        ("Write\n<think>\na\n</think>\nfirst.", "Write\n<think>\na\n</think>\nfirst."),
        ("<think>\nstopped within", ""),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_what_a_message_says_is_a_tail_of_it(content: str, answer: str) -> None:
    assert spoken(content) == answer and content.endswith(spoken(content))
    assert bool(thoughts_in(content)) == (content != answer)
