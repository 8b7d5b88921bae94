"""Thoughts in the chat: dimmed while they come, then folded, and left out of what is copied, written and compared."""

import re
from pathlib import Path

import pytest

from eftlocal.apps.chat import clipboard
from eftlocal.apps.chat.commands import run
from eftlocal.apps.chat.state import Chat
from eftlocal.errors import EftError
from tests.apps.fake import FakeStream
from tests.apps.terminal import CTRL_C, Terminal, fake
from tests.apps.test_chat_commands import make


@pytest.fixture
def chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return make(tmp_path)


def thoughts(terminal: Terminal) -> list[str]:
    return re.findall(r"t\d{4}", terminal.text)


# --- on a terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 160])
def test_thoughts_are_drawn_while_they_come_and_folded_into_one_line(columns: int, tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.002", columns=columns, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("think 60 It is 2.")
        seen, most = set[str](), 0
        while not terminal.at_prompt(2):
            terminal.pump(0.02)
            seen.update(thoughts(terminal))
            most = max(most, len(thoughts(terminal)))
        assert len(seen) > 10 and most <= 6  # a third of the terminal's rows
        assert not thoughts(terminal) and "thinking …" not in terminal.text
        told = r">>> think 60 It is 2\.\n\(thought for \d+ s, \d+ tokens; /think shows it\)\nIt is 2\.\n"
        assert re.search(told, terminal.text)
        terminal.enter("/think")
        terminal.prompt(3)
        assert thoughts(terminal) == [f"t{i:04}" for i in range(60)]


@pytest.mark.slow
def test_thoughts_that_are_shown_stay_whole_and_once(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.001", columns=80, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("/think show")
        terminal.prompt(2)
        terminal.enter("think 60 It is 2.")
        terminal.prompt(3)
        assert thoughts(terminal) == [f"t{i:04}" for i in range(60)]
        assert "t0059 of the thoughts\n\nIt is 2.\n" in terminal.text
        assert b"\x1b[2mt0059" in terminal.raw or b"\x1b[2mt0059 of the thoughts" in terminal.raw


@pytest.mark.slow
def test_thoughts_that_are_hidden_leave_nothing(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.005", columns=80, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("/think hide")
        terminal.prompt(2)
        terminal.enter("think 20 It is 2.")
        terminal.wait("thinking … ")
        terminal.prompt(3)
        assert ">>> think 20 It is 2.\nIt is 2.\n" in terminal.text and "thought for" not in terminal.text


@pytest.mark.slow
def test_an_answer_stopped_in_its_thoughts_can_be_continued(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.005", columns=80, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("think 200 It is 2.")
        terminal.wait("t0009")
        terminal.send(CTRL_C)
        terminal.prompt(2)
        assert "thought for" in terminal.text and "(stopped)" in terminal.text and "\nIt is" not in terminal.text
        terminal.enter("/continue")
        terminal.prompt(3)
        assert terminal.text.count("thought for") == 2


# --- elsewhere --------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_the_answer_and_the_remark_goes_beside_it(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    run(chat, "think 3 It is 2.")
    out, err = capsys.readouterr()
    assert out == "It is 2.\n" and re.fullmatch(r"\(thought for 0 s, \d+ tokens\)\n", err)
    run(chat, "/think show")
    capsys.readouterr()
    run(chat, "/regen")
    out, err = capsys.readouterr()
    assert out == "".join(f"t{i:04} of the thoughts\n" for i in range(3)) + "\nIt is 2.\n" and not err
    run(chat, "/think hide")
    capsys.readouterr()
    run(chat, "/regen")
    assert capsys.readouterr() == ("It is 2.\n", "")


def test_an_answer_about_markers_is_shown_whole(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Write `<think>` and `</think>`."
    run(chat, f"say {text}")
    assert capsys.readouterr() == (f"{text}\n", "")


@pytest.mark.slow
def test_thoughts_cannot_steer_the_terminal(tmp_path: Path) -> None:
    for mode in ("fold", "show"):
        with fake(tmp_path, columns=80, lines=20) as terminal:
            terminal.prompt(1)
            terminal.enter(f"/think {mode}")
            terminal.prompt(2)
            terminal.enter("evil thoughts")
            terminal.prompt(3)
            assert b"\x1b]0;evil" not in terminal.raw
            terminal.enter("/think")
            terminal.prompt(4)
            assert b"\x1b]0;evil" not in terminal.raw and "]0;evil" in terminal.text


def test_copy_and_a_markdown_file_are_without_thoughts_and_json_has_them(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def copy(text: str) -> str:
        copied.append(text)
        return "a test"

    monkeypatch.setattr(clipboard, "copy", copy)
    run(chat, "think 3 It is 2.")
    run(chat, "/copy")
    assert copied == ["It is 2."]
    run(chat, f"/export {tmp_path / 'a.md'}")
    run(chat, f"/export {tmp_path / 'a.json'}")
    assert "## Assistant\n\nIt is 2.\n" in (tmp_path / "a.md").read_text()
    assert "of the thoughts" not in (tmp_path / "a.md").read_text()
    assert "<think>\\nt0000 of the thoughts" in (tmp_path / "a.json").read_text()


def test_history_tells_thoughts_by_their_length_or_shows_them(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    run(chat, "think 2 It is 2.")
    for mode, told in (("fold", "(thoughts of 8 words)\n"), ("show", "t0001 of the thoughts\n\n"), ("hide", "2.\n")):
        run(chat, f"/think {mode}")
        capsys.readouterr()
        run(chat, "/history")
        assert f"{told}It is 2.\n" in capsys.readouterr().err


def test_an_answer_that_is_only_thoughts_is_not_copied(chat: Chat) -> None:
    run(chat, "/set max_tokens 4")
    run(chat, "think 3 It is 2.")
    with pytest.raises(EftError, match="only thoughts"):
        run(chat, "/copy")


def test_what_is_used_of_the_context_is_counted_again_after_thoughts(chat: Chat) -> None:
    run(chat, "think 30 It is 2.")
    assert chat.used is None
    run(chat, "say a")
    assert chat.used is not None


def test_thoughts_that_the_prompt_opened_are_found_also_where_they_are_not_closed(
    chat: Chat, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeStream.__init__

    def opened(*args: object, **options: object) -> None:
        real(*args, **{**options, "place": "</think>"})  # type: ignore[arg-type]

    monkeypatch.setattr(FakeStream, "__init__", opened)
    run(chat, "say So it is")
    out, err = capsys.readouterr()
    assert out == "\n" and "ended within its thoughts" in err
    run(chat, "/continue")
    capsys.readouterr()
    run(chat, "/think")
    assert capsys.readouterr().err == "So it is and so on\n"
