"""An answer that repeats itself is noticed, and honest text is not taken for one."""

import random

import pytest

from eftlocal.apps.chat.repeats import repeats

LOOPS = {
    "a phrase": "Well, I think so" + ", and the train was late" * 7,
    "two phrases in turn": "It is. " + "The sky is blue. The sea is green. " * 5,
    "a paragraph": "Yes.\n\n" + "The answer is that the sky is blue because of the light of the sun.\n\n" * 4,
    "a turn": "User:\nWhy?\n\nAssistant:\nBecause of it.\n\n" * 6,
    "a word": "the " * 260,
    "a character": "=" * 1100,
    "no spaces": "我不知道你在说什么呢。" * 16,
    "cut in its middle": ", and the train was late" * 8 + ", and the tr",
    "code without end": "```python\n" + "x = x + 1\n" * 120,
}
HONEST = {
    "empty": "",
    "a refrain": "Row, row, row your boat\nMerrily, merrily, merrily, merrily\n",
    "a chorus": "Let it be, let it be, let it be, let it be\n",
    "laughter": "ha " * 40,
    "zeros": "0, " * 200,
    "a rule": "Title\n" + "-" * 120,
    "a table": "| name | yes |\n|---|---|\n" + "| nothing here | no |\n" * 12,
    "a matrix": "```\n" + "0 0 0 0 0 0 0 0\n" * 16 + "```\n",
    "code": "```python\n" + "    result.append(None)\n" * 12,
    "a list": "".join(f"{i}. the same words in each item, but for the number\n" for i in range(1, 40)),
    "three times": "I repeat: the train to Lyon leaves at nine o'clock from platform two. " * 3,
    "steps": "".join(f"Step {i}: add {i} to the sum, which is now {i * (i + 1) // 2}.\n" for i in range(50)),
    "json": '{"items": [' + ", ".join(f'{{"id": {i}, "name": "", "tags": []}}' for i in range(30)) + "]}",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_noticed_where_it_is_long_enough_and_not_long_before(name: str) -> None:
    text = LOOPS[name]
    first = next((n for n in range(1, len(text) + 1) if repeats(text[:n])), None)
    assert first is not None and first >= 80


@pytest.mark.parametrize("name", HONEST)
def test_honest_text_is_not_taken_for_a_loop_at_any_length(name: str) -> None:
    text = HONEST[name]
    assert not any(repeats(text[:n]) for n in range(len(text) + 1))


def test_random_words_are_no_loop_until_they_repeat() -> None:
    rng = random.Random(1)
    for _ in range(60):
        words = rng.choices(["the", "train", "was", "late", "and", "blue", "sea", "light"], k=rng.randrange(1, 60))
        text, part = " ".join(words), " ".join(rng.choices(words, k=12)) + " "
        assert not repeats(text)
        assert repeats(f"{text} {part * max(4, 1 + 160 // len(part))}")
