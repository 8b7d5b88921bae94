"""/compare and /sweep: several answers at the same time, on a terminal, plain, stopped, and with errors."""

import re
import signal
from pathlib import Path
from typing import Any, cast

import pytest

from eftlocal.apps.chat.columns import NARROW
from eftlocal.apps.chat.commands import run
from eftlocal.apps.chat.state import Chat
from eftlocal.errors import DecodeError, ModelLoadError
from tests.apps.fake import FakeEmulator, FakeScheduler
from tests.apps.terminal import CTRL_C, fake
from tests.apps.test_chat_commands import make

ROLES = ("base", "helpful.tuned", "brief.tuned", "emulated")


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return make(tmp_path)


def emulator(chat: Chat) -> FakeEmulator:
    return cast(FakeEmulator, chat.emulator)


def marks(name: str) -> list[str]:
    """The lines of that role's answer to "each"."""
    return [f"{name[:4]}{i:02}" for i in range(10 * len(name))]


def found(text: str, name: str) -> list[str]:
    return re.findall(rf"\b{name[:4]}\d\d+\b", text)


# --- on a terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 160])
def test_all_answers_stand_whole_and_once_above_the_prompt_and_nothing_of_the_live_rows(
    columns: int, tmp_path: Path
) -> None:
    with fake(tmp_path, "delay=0.002", columns=columns, lines=14) as terminal:
        terminal.prompt(1)
        terminal.enter("/compare each")
        terminal.wait("Ctrl-C stops them")
        seen = 0
        while not terminal.at_prompt(2):
            terminal.pump(0.02)
            seen += "Ctrl-C stops them" in terminal.text
        assert seen > 3
        for name in ROLES:
            assert found(terminal.text, name) == marks(name)
        assert "Ctrl-C stops them" not in terminal.text
        first = next(row for row in terminal.text.split("\n") if "base00" in row)
        assert ("emul00" in first) == (columns >= 4 * NARROW)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 160])
def test_ctrl_c_keeps_what_all_answers_have_and_marks_them(columns: int, tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.01", columns=columns, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("/compare each")
        terminal.wait("base04")
        terminal.send(CTRL_C)
        terminal.prompt(2)
        assert terminal.text.count("(stopped)") == len(ROLES)
        for name in ROLES:
            given = found(terminal.text, name)
            assert 3 <= len(given) < 30 and given == marks(name)[: len(given)]
        terminal.enter("say on")
        terminal.prompt(3)


@pytest.mark.slow
def test_answers_that_wait_for_memory_come_in_turn(tmp_path: Path) -> None:
    with fake(tmp_path, "places=1", columns=160, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("/compare each")
        terminal.prompt(2)
        for name in ROLES:
            assert found(terminal.text, name) == marks(name)
        assert "decoded together" not in terminal.text


@pytest.mark.slow
def test_plain_blocks_without_escape_codes(tmp_path: Path) -> None:
    with fake(tmp_path, "plain=yes", columns=100, NO_COLOR="1") as terminal:
        terminal.prompt(1)
        terminal.enter("/compare say one two")
        terminal.prompt(2)
        assert terminal.text.count("--- ") == len(ROLES) and terminal.text.count("\none two") == len(ROLES)


def test_ctrl_c_before_the_first_token_stops_all_answers(
    chat: Chat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: FakeEmulator, parallel: int | None = None) -> int:
        signal.raise_signal(signal.SIGINT)
        return 8

    monkeypatch.setattr(FakeEmulator, "reserve", interrupted)
    with chat.interrupts:
        run(chat, "/compare say x1")
    shown = capsys.readouterr().err
    assert shown.count("(stopped)") == len(ROLES) and "x1" not in shown


# --- what ends an answer ----------------------------------------------------------------------------------------------


def test_an_answer_that_repeats_itself_is_ended_and_the_others_are_not(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    run(chat, "/compare loop and the train was late,")
    shown = capsys.readouterr().err
    assert shown.count("… (repeats itself)") == 1
    assert 7 <= shown.count("train") <= 14


def test_an_error_of_one_answer_stands_in_its_column(
    chat: Chat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = FakeScheduler.step

    def failing(scheduler: FakeScheduler) -> Any:
        deltas = step(scheduler)
        for answer, _ in deltas:
            if answer.stream.settings.alone == "base" and answer.stream.given == 2:
                answer.error, answer.ended = DecodeError("it broke"), True
                scheduler.drop(answer)
        return deltas

    monkeypatch.setattr(FakeScheduler, "step", failing)
    run(chat, "/compare say one two three")
    shown = capsys.readouterr().err
    assert "one two (error: it broke)" in shown and shown.count("one two three") == len(ROLES) - 1


def test_where_larger_caches_cannot_be_made_the_answers_take_turns(
    chat: Chat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise ModelLoadError("no memory")

    monkeypatch.setattr(FakeEmulator, "reserve", refuse)
    run(chat, "/compare say x1")
    shown = capsys.readouterr().err
    assert shown.count("x1") == len(ROLES) and "together" not in shown


def test_a_model_that_has_several_roles_answers_once(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    roles = emulator(chat).members.roles
    roles["brief.tuned"] = roles["helpful.tuned"]  # as the reward of guidance has the tuned model
    run(chat, "/compare hello")
    shown = capsys.readouterr()
    assert "helpful.tuned alone" in shown.out + shown.err
    assert "brief.tuned alone" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/compare", "nothing to compare"),
        ("/compare hello", "nothing to compare"),
        ("/sweep 0 1", "nothing to turn"),
        ("/beta 0.5", "nothing to turn"),
        ("/mix a=1", "nothing to turn"),
        ("/why", "nothing to explain"),
    ],
)
def test_a_model_without_rewards_has_nothing_to_turn(
    line: str, said: str, chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    run(chat, "say a")
    emulator(chat).betas = {}
    emulator(chat).prompts.clear()
    capsys.readouterr()
    run(chat, line)
    assert capsys.readouterr().err == f"(fake is a model without rewards, so there is {said})\n"
    assert emulator(chat).settings.beta == 1 and not emulator(chat).prompts
