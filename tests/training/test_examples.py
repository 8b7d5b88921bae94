"""Tests of examples: what is trained is what llama.cpp will be fed at chat time, token for token, and nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf as package
import pytest

from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import TrainingError
from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.views import RAW, TRANSCRIPT, Message, View
from eftlocal.training.examples import NOTHING, Asked, Example, Turn, joined
from tests.builders import load
from tests.families import CHATML, CHATML_WITH_BOS, VOCAB, Family, smollm2, write_model
from tests.training.templates import KNOWN, ONE_TURN, QWEN3

CONVERSATION = [
    Message("user", "Hello, what is it?"),
    Message("assistant", "The answer\nis é."),
    Message("user", "And 日本 <|im_end|>?"),
    Message("assistant", "A 😀 of the user!"),
    Message("user", "Again"),
    Message("assistant", "on"),
]


def known(folder: Path, name: str) -> Path:
    """A tiny model with a family's template and control tokens, which are its first and its last."""
    template, controls, end = KNOWN[name]
    plain = [token for token, type in zip(VOCAB.tokens, VOCAB.types, strict=True) if type == package.TokenType.NORMAL]
    vocabulary = type(VOCAB)(tuple(plain), (package.TokenType.NORMAL,) * len(plain), VOCAB.merges)
    vocabulary = vocabulary.extended(controls, package.TokenType.CONTROL)
    path, add_bos = folder / f"{name}.gguf", name in ("llama3", "gemma", "mistral")
    return write_model(path, seed=3, vocab=vocabulary, chat_template=template, add_bos=add_bos, eos=end)


@pytest.fixture(params=[*KNOWN, "chatml", "chatml with bos", "transcript", "raw"])
def emulator(request: pytest.FixtureRequest, family: Family, tmp_path: Path) -> Iterator[Emulator]:
    """An emulator that is one model alone, asked in one of many ways."""
    own = {"chatml": family.tuned, "chatml with bos": family.with_bos, "transcript": family.tuned, "raw": family.tuned}
    name = request.param
    path = own.get(name) or known(tmp_path, name)
    view = name if name in ("transcript", "raw") else "chat"
    made = load(tmp_path, {"base": path}, rewards=(), views={"base": view})
    yield made
    made.close()


def asked(emulator: Emulator) -> tuple[Asked, Model]:
    """How the emulator asks its base."""
    members, model = emulator._members, emulator._engine.workers.model(0)
    return Asked(members.views[0], model), model


def trained(example: Example) -> list[list[int]]:
    """The tokens of each answer that is trained."""
    found: list[list[int]] = []
    last = NOTHING
    for target in example.targets.tolist():
        if target != NOTHING:
            found += [[]] if last == NOTHING else []
            found[-1].append(target)
        last = target
    return found


# --- as it will be asked ----------------------------------------------------------------------------------------------


def test_every_answer_is_trained_after_what_the_chat_feeds_before_it(emulator: Emulator) -> None:
    ask, model = asked(emulator)
    turns = ask.turns(CONVERSATION)
    assert len(turns) == 3
    chat: list[Message] = []
    for turn, question, answer in zip(turns, CONVERSATION[::2], CONVERSATION[1::2], strict=True):
        chat.append(question)
        assert list(turn.prompt) == emulator.render(chat)["base"]
        assert b"".join(map(model.piece, turn.answer)).decode() == answer.content
        assert model.is_eog(turn.answer[-1]) and not any(map(model.is_eog, turn.answer[:-1]))
        chat.append(Message("assistant", answer.content, turn.answer[:-1]))  # as the emulator keeps what it generated


def test_rows_hold_exactly_the_turns(emulator: Emulator) -> None:
    ask, _ = asked(emulator)
    turns = ask.turns(CONVERSATION)
    rows = joined(turns, 10_000)
    places = [(row, at) for row in rows for at, target in enumerate(row.targets.tolist()) if target != NOTHING]
    expected = [(turn, i) for turn in turns for i in range(len(turn.answer))]
    assert len(places) == len(expected)
    for (row, at), (turn, i) in zip(places, expected, strict=True):
        assert row.targets[at] == turn.answer[i]
        assert row.tokens[: at + 1].tolist() == [*turn.prompt, *turn.answer[:i]]  # all that is seen there


def test_there_is_exactly_one_bos_where_the_tokenizer_adds_it(emulator: Emulator) -> None:
    ask, model = asked(emulator)
    if not model.add_bos:
        return
    for row in joined(ask.turns(CONVERSATION), 10_000):
        assert row.tokens[0] == model.bos and row.tokens.tolist().count(model.bos) == 1
    for row in ask.text("Hello", 100):
        assert row.tokens[0] == model.bos and row.tokens.tolist().count(model.bos) == 1


@pytest.mark.parametrize("name", KNOWN)
def test_the_end_is_the_token_that_the_template_writes_after_an_answer(tmp_path: Path, name: str) -> None:
    with load(tmp_path, {"base": known(tmp_path, name)}, rewards=(), views={"base": "chat"}) as emulator:
        ask, model = asked(emulator)
        assert ask.end == model.controls[KNOWN[name][2]]
        assert ask.trims == (name in ("llama3", "gemma"))


def test_a_chat_in_one_piece_is_one_row_and_a_changed_past_makes_rows_of_their_own(tmp_path: Path) -> None:
    thinking = [
        Message("user", "Hello"), Message("assistant", "<think>\na\n</think>\n\nThe"),
        Message("user", "on"), Message("assistant", "<think>\nb\n</think>\n\nin"),
    ]  # fmt: skip
    with load(tmp_path, {"base": known(tmp_path, "qwen3")}, rewards=(), views={"base": "chat"}) as emulator:
        ask, _ = asked(emulator)
        assert len(joined(ask.turns(CONVERSATION), 10_000)) == 1
        rows = joined(ask.turns(thinking), 10_000)
        assert len(rows) == 2 and [len(trained(row)) for row in rows] == [1, 1]


def test_smollm2s_rows_are_what_its_chat_feeds() -> None:
    header = gguf.check(smollm2())
    model = Model(header)
    try:
        view = View(template=header.text("tokenizer.chat_template"), variables={})
        (row,) = joined(Asked(view, model).turns(CONVERSATION[:4]), 1000)
        names = {id: text for text, id in model.controls.items()}
        text = b"".join(names.get(t, "").encode() or model.piece(t) for t in row.tokens.tolist()).decode()
        answers = [b"".join(map(model.piece, answer[:-1])).decode() for answer in trained(row)]
        ends = [names[answer[-1]] for answer in trained(row)]
    finally:
        model.close()
    said = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in CONVERSATION[:4])
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert text == (system + said).removesuffix("<|im_end|>\n")
    assert answers == [m.content for m in CONVERSATION[1:4:2]] and ends == ["<|im_end|>"] * 2


# --- rows -------------------------------------------------------------------------------------------------------------


def test_an_answer_that_is_too_long_is_left_out_whole() -> None:
    turns = [Turn((1, 2), (3, 9)), Turn((1, 2, 3, 9, 4), (5, 6, 7, 9))]
    assert [row.tokens.tolist() for row in joined(turns, 8)] == [[1, 2, 3, 9, 4, 5, 6, 7]]
    assert [row.tokens.tolist() for row in joined(turns, 7)] == [[1, 2, 3]]
    assert joined(turns, 2) == []


def test_an_end_that_the_past_does_not_hold_is_a_target_alone() -> None:
    turns = [Turn((1, 2), (3, 9)), Turn((1, 2, 3, 4), (5, 9))]  # 9 is not in the second prompt, as in a transcript
    (row,) = joined(turns, 100)
    assert row.tokens.tolist() == [1, 2, 3, 4, 5]
    assert row.targets.tolist() == [NOTHING, 3, 9, 5, 9]


def test_two_targets_at_one_place_are_two_rows() -> None:
    turns = [Turn((1, 2), (3, 9)), Turn((1, 2, 3), (4, 9))]
    assert [row.targets.tolist() for row in joined(turns, 100)] == [[NOTHING, 3, 9], [NOTHING, NOTHING, 4, 9]]


@pytest.mark.parametrize("left_out", [{1}, {3}, {1, 3, 5}])
def test_answers_that_are_left_out_are_context_alone(family: Family, left_out: set[int]) -> None:
    ask, model = of_model(family.tuned, CHATML)
    turns = ask.turns(CONVERSATION, left_out)
    kept = [turn for i, turn in zip((1, 3, 5), ask.turns(CONVERSATION), strict=True) if i not in left_out]
    assert turns == kept
    model.close()


def test_a_template_that_refuses_a_second_question_ends_with_the_vocabularys_token(family: Family) -> None:
    ask, model = of_model(family.tuned, ONE_TURN)
    assert ask.end == model.end == model.controls["<|im_end|>"]
    assert [len(turn.answer) for turn in ask.turns(CONVERSATION[:2])] == [len(model.tokenize("The answer\nis é.")) + 1]
    model.close()


@pytest.mark.parametrize("template", [RAW, TRANSCRIPT, CHATML, CHATML_WITH_BOS, QWEN3])
def test_typed_control_tokens_are_never_trained_as_such(family: Family, template: str) -> None:
    ask, model = of_model(family.tuned, template)
    said = [Message("user", "<|im_end|>"), Message("assistant", "x<|im_end|><|endoftext|>")]
    (turn,) = ask.turns(said)
    assert not set(turn.answer[:-1]) & set(model.controls.values())
    model.close()


def test_an_empty_answer_is_refused(family: Family) -> None:
    ask, model = of_model(family.tuned, CHATML)
    with pytest.raises(TrainingError, match="an answer is empty"):
        ask.turns([Message("user", "Hello"), Message("assistant", "")])
    model.close()


@dataclass(frozen=True)
class Spaced:
    """A tokenizer that puts a space before each text, as SentencePiece does: each character is a token."""

    controls: Mapping[str, int] = field(default_factory=lambda: {"<s>": 1, "</s>": 2})
    bos: int | None = 1
    add_bos: bool = True
    adds_space: bool = True
    end: int | None = 2

    def strips(self, token: int) -> tuple[bool, bool]:
        return False, False

    def tokenize(self, text: str) -> list[int]:
        return [3 + ord(character) for character in f" {text}"]

    def piece(self, token: int) -> bytes:
        return chr(token - 3).encode() if token > 2 else b""

    def is_eog(self, token: int) -> bool:
        return token == 2


def test_the_space_that_a_tokenizer_adds_to_an_answer_stands_in_the_next_prompt_too() -> None:
    ask = Asked(View(template=KNOWN["zephyr"][0], variables={"bos_token": "<s>", "eos_token": "</s>"}), Spaced())
    first, second = ask.turns(CONVERSATION[:4])
    assert "".join(chr(t - 3) for t in first.answer[:-1]) == " The answer\nis é." and ask.end == 2
    chat = [CONVERSATION[0], Message("assistant", " The answer\nis é.", first.answer[:-1]), CONVERSATION[2]]
    assert list(second.prompt) == ask.prompt(chat)


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 7, 8, 1000])
@pytest.mark.parametrize("with_bos", [False, True])
def test_a_text_is_trained_on_every_token_and_its_end(family: Family, length: int, with_bos: bool) -> None:
    ask, model = of_model(family.with_bos if with_bos else family.tuned, CHATML)
    text = "The user said Hello to 日本 and the assistant."
    rows = ask.text(text, length)
    ids = [*model.tokenize(text), ask.end]
    fed = [token for row in rows for token in row.tokens.tolist()[with_bos:]]
    assert fed == ids[:-1]
    assert all(len(row.tokens) <= length and NOTHING not in row.targets for row in rows)
    for row in rows:
        assert row.targets.tolist()[:-1] == row.tokens.tolist()[1:]
    assert rows[-1].targets[-1] == ask.end
    model.close()


def of_model(path: Path, template: str) -> tuple[Asked, Model]:
    header = gguf.check(path)
    model = Model(header)
    return Asked(View(template=template, variables={"bos_token": "<|endoftext|>"}), model), model
