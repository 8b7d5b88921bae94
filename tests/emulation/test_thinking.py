"""Thoughts of earlier answers are left out of every member's prompt, and of what an answer says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from eftlocal import Emulator
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.thinking import ANSWER, START
from eftlocal.emulation.batch import Job
from eftlocal.emulation.prompts import Ids, Raw
from eftlocal.runtime.views import Message
from tests.builders import load
from tests.families import Family

# As Qwen3's: earlier thoughts are left out, and with enable_thinking = false empty ones are written.
STRIPS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
# As DeepSeek-R1's: the prompt itself opens the thoughts.
OPENS = STRIPS.replace("{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}", "") + (
    "{{ '<think>\\n' }}"
)
THOUGHT, SAID = "<think>\nSo, 2.\n</think>\n\n", "It is 2."
ASKED, AGAIN = Message("user", "1 + 1?"), Message("user", "Sure?")


@pytest.fixture(params=[STRIPS, OPENS], ids=["strips", "opens"])
def emulator(request: pytest.FixtureRequest, family: Family, tmp_path: Path) -> Iterator[Emulator]:
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    views = {"base": "transcript", "tuned": {"template": request.param}, "reference": "transcript"}
    with load(tmp_path, models, views=views, max_tokens=8) as made:
        yield made


def opens(emulator: Emulator) -> bool:
    return emulator.members.views[emulator.members.roles["tuned"]].template == OPENS


def ids(emulator: Emulator, text: str) -> tuple[int, ...]:
    return tuple(emulator.tokenizer.encode(text))


def test_no_member_reads_the_thoughts_of_an_earlier_answer(emulator: Emulator) -> None:
    expected = emulator.render([ASKED, Message("assistant", SAID), AGAIN])
    assert emulator.render([ASKED, Message("assistant", THOUGHT + SAID), AGAIN]) == expected
    opened = THOUGHT.removeprefix("<think>\n")
    assert emulator.render([ASKED, Message("assistant", opened + SAID), AGAIN]) == expected
    assert emulator.render([ASKED, Message("assistant", "<think>\nSo"), AGAIN]) == emulator.render(
        [ASKED, Message("assistant", ""), AGAIN]
    )


def test_a_template_that_keeps_thoughts_gets_them(family: Family, tmp_path: Path) -> None:
    keeps = STRIPS.replace(".split('</think>')[-1].lstrip('\\n')", "")
    models = {"base": family.base, "tuned": family.tuned, "reference": family.reference}
    views = {"base": "transcript", "tuned": {"template": keeps}, "reference": "transcript"}
    with load(tmp_path, models, views=views) as emulator:
        prompts = emulator.render([ASKED, Message("assistant", THOUGHT + SAID), AGAIN])
        texts = {role: emulator.tokenizer.text_of(tokens) for role, tokens in prompts.items()}
    assert {role: "So, 2." in text for role, text in texts.items()} == {
        "base": False,
        "tuned": True,
        "reference": False,
    }
    assert all(SAID in text for text in texts.values())


def test_an_answer_that_mentions_markers_stays_whole(emulator: Emulator) -> None:
    text = "Write `<think>` first, then `</think>`."
    for role, tokens in emulator.render([ASKED, Message("assistant", text), AGAIN]).items():
        if role != "tuned":  # the test's template itself cuts there
            assert text in emulator.tokenizer.text_of(tokens)


def test_the_rest_of_an_answer_keeps_the_tokens_that_it_was_generated_as(emulator: Emulator) -> None:
    said = tuple(SAID.encode())  # not what the tokenizer makes of it
    assert emulator.tokenizer.text_of(list(said)) == SAID and said != ids(emulator, SAID)
    message = Message("assistant", THOUGHT + SAID, (*ids(emulator, THOUGHT), *said))
    for tokens in emulator.render([ASKED, message, AGAIN]).values():
        assert any(tuple(tokens[i : i + len(said)]) == said for i in range(len(tokens)))


def test_an_answer_that_is_continued_keeps_its_thoughts(emulator: Emulator) -> None:
    for text in (THOUGHT, THOUGHT + SAID, "<think>\nSo"):
        for tokens in emulator.render([ASKED, Message("assistant", text)]).values():
            assert emulator.tokenizer.text_of(tokens).endswith(text)


def test_where_an_answer_begins(emulator: Emulator) -> None:
    inside = "</think>"
    first = inside if opens(emulator) else START

    def place(*messages: Message, **dials: object) -> str:
        return emulator.prepare(Job(messages, dials)).place  # type: ignore[arg-type]

    assert place(ASKED) == place(ASKED, Message("assistant", SAID), AGAIN) == first
    assert place(ASKED, alone="base") == START
    assert place(ASKED, Message("assistant", "<think>\nSo")) == inside
    assert place(ASKED, Message("assistant", "So")) == (inside if opens(emulator) else ANSWER)
    assert place(ASKED, Message("assistant", "So\n</think>\n\nIt")) == ANSWER
    assert place(ASKED, constraint=Constraint.choice(["yes", "no"])) == ANSWER
    assert emulator.prepare(Job(Raw("1 + 1?"))).place == emulator.prepare(Job(Ids((1, 2)))).place == ANSWER
    without = emulator.prepare(Job([ASKED], template_args={"enable_thinking": False}))
    assert without.place == first


def test_a_reply_tells_thoughts_and_answer_apart(emulator: Emulator) -> None:
    text = THOUGHT.removeprefix("<think>\n") if opens(emulator) else THOUGHT
    tokens = ids(emulator, text + SAID)
    bias = {"temperature": 0.0, "max_tokens": len(tokens)}
    generation = emulator.prepare(Job([ASKED], {**bias}))  # type: ignore[typeddict-item]
    for token in tokens:
        generation.take(token, emulator._engine)
    reply = generation.reply
    assert (reply.thinking, reply.answer, reply.text) == ("So, 2.", SAID, text + SAID)
    parts = [*generation.splitter().push(reply.text)]
    assert [part.thinking for part in parts] == [True, False]
