"""The chat in a real terminal: the screen and the scrollback are right, no matter what is typed and when."""

import json
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.apps.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, PASTE, Terminal, fake

pytestmark = pytest.mark.slow  # each test starts the chat in a real terminal

REPEATS = int(os.environ.get("CHAT_REPEATS", "4"))  # how often Ctrl-C comes at a random moment; use 50 by hand


def markers(terminal: Terminal) -> list[int]:
    return [int(found) for found in re.findall(r"m(\d{4})", terminal.text)]


def leave(terminal: Terminal) -> None:
    terminal.send(CTRL_D)
    assert terminal.close() == 0


@pytest.mark.parametrize("kind", ["lines", "list", "code", "para"])
def test_every_marker_of_a_300_line_answer_stands_once_and_in_order(kind: str, tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.001") as terminal:
        terminal.prompt(1)
        terminal.enter(f"{kind} 300")
        terminal.prompt(2)
        assert markers(terminal) == list(range(300))
        leave(terminal)


def test_a_terminal_that_does_not_report_the_cursor_gets_no_warning(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.screen.write_process_input = lambda data: None  # type: ignore[method-assign]  # it answers nothing
        terminal.prompt(1)
        terminal.pump(3)  # prompt_toolkit waits 2 seconds for the report
        terminal.enter("say hello")
        terminal.prompt(2)
        assert "CPR" not in terminal.text and "WARNING" not in terminal.text, terminal.text
        leave(terminal)


@pytest.mark.parametrize("columns", [50, 110])
@pytest.mark.parametrize("kind", ["lines", "list", "code"])
def test_resizing_in_mid_answer_loses_and_repeats_nothing(kind: str, columns: int, tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.002") as terminal:
        terminal.prompt(1)
        terminal.enter(f"{kind} 120")
        terminal.wait("m0040")
        terminal.resize(columns, 24)
        terminal.prompt(2)
        assert markers(terminal) == list(range(120))
        leave(terminal)


def test_wide_characters_and_emoji_stand_as_they_are(tmp_path: Path) -> None:
    text = "日本語のテキストは幅が二倍です。" * 5 + " 🎉🚀 done"
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.enter("ask")
        terminal.prompt(2)
        terminal.send(PASTE[0] + f"say {text}" + PASTE[1] + ENTER)
        terminal.prompt(3)
        rows = terminal.text.split("done")[1:]
        assert len(rows) == 2, terminal.text  # the pasted text and the answer
        shown = rows[0].partition("日")[1:]
        assert "".join("".join(shown).split()) == "".join(text.removesuffix("done").split())
        leave(terminal)


def test_a_paste_of_200_lines_is_one_message(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.send(PASTE[0] + "count\r" + "\r".join(f"line {i}" for i in range(199)) + PASTE[1])
        terminal.wait("line 198")
        terminal.send(ENTER)
        terminal.wait("200 lines")
        terminal.prompt(1)  # the first one has scrolled away
        leave(terminal)


def test_several_lines_by_alt_enter_and_by_three_quotes(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.send("count" + ALT_ENTER + "two" + ALT_ENTER + "three" + ENTER)
        terminal.wait("3 lines")
        terminal.prompt(2)
        for line in ('"""count', "two", '"""'):
            terminal.send(line + ENTER)
        terminal.wait("2 lines")
        leave(terminal)


def test_ctrl_c_at_random_moments_always_returns_to_a_prompt_that_answers(tmp_path: Path) -> None:
    rng = random.Random(5)
    with fake(tmp_path, "delay=0.01", "session=stopped") as terminal:
        terminal.prompt(1)
        for i in range(1, REPEATS + 1):
            terminal.enter(f"lines {400 + i}")
            terminal.pump(rng.uniform(0.0, 0.4))
            terminal.send(CTRL_C)
            terminal.prompt(i + 1)
            terminal.pump(1.2)  # a second Ctrl-C within a second would leave
        terminal.enter("say still here")
        terminal.wait("\nstill here")
        leave(terminal)
    saved = json.loads((tmp_path / "eftlocal/sessions/stopped.json").read_text())["messages"]
    assert [m["role"] for m in saved] == ["user", "assistant"] * (len(saved) // 2)
    assert saved[-1]["content"] == "still here"
    assert all("m0000" in m["content"] for m in saved[1:-2:2])  # the text before Ctrl-C is kept


def test_a_second_ctrl_c_within_a_second_leaves_with_130_and_a_sane_terminal(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.02") as terminal:
        terminal.prompt(1)
        terminal.enter("lines 400")
        terminal.wait("m0003")
        terminal.send(CTRL_C)
        terminal.prompt(2)
        terminal.send(CTRL_C)
        assert terminal.close() == 130
        assert "kept as lines-400; eftlocal chat -c goes on with it" in terminal.text
    assert "m0003" in (tmp_path / "eftlocal/sessions/lines-400.json").read_text()


def test_ctrl_c_at_the_prompt_clears_the_line_and_ctrl_d_leaves(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.send("never to be sent")
        terminal.wait("never")
        terminal.send(CTRL_C)
        terminal.prompt(1)
        assert "never" not in terminal.text
        leave(terminal)


def test_after_an_error_and_after_undo_the_line_is_empty_and_the_message_is_under_up(tmp_path: Path) -> None:
    long = "say " + "word " * 60 + "end"
    with fake(tmp_path, "context=40") as terminal:
        terminal.prompt(1)
        terminal.send(long)
        terminal.wait("end")
        terminal.send(ENTER)
        terminal.wait("Your message has 62 tokens")
        terminal.prompt(2)  # the row holds the prompt and nothing else
        terminal.enter("say one")
        terminal.prompt(3)
        terminal.enter("/undo")
        terminal.wait("the last turn is undone")
        terminal.prompt(4)
        terminal.enter("/drop")
        terminal.wait("The conversation is empty, so there is no turn to drop")
        terminal.prompt(5)
        terminal.send("\x1b[A\x1b[A")  # /drop, and before it the message that was taken back
        terminal.wait(">>> say one\n")
        terminal.send(CTRL_C)
        leave(terminal)


def test_typing_ahead_is_not_echoed_and_is_there_at_the_next_prompt(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.01") as terminal:
        terminal.prompt(1)
        terminal.enter("lines 30")
        terminal.wait("m0002")
        terminal.send("say ahead")
        terminal.wait(">>> say ahead")
        assert markers(terminal) == list(range(30))
        assert terminal.text.count("say ahead") == 1
        terminal.send(ENTER)
        terminal.wait("\nahead")
        leave(terminal)


def test_the_prompt_is_there_while_loading_and_the_message_waits_for_it(tmp_path: Path) -> None:
    with fake(tmp_path, "load=4") as terminal:
        terminal.wait(">>>", 3.9)
        terminal.enter("say early bird")
        terminal.wait("\nearly bird")
        leave(terminal)


def test_an_error_of_loading_is_two_lines_and_exit_1(tmp_path: Path) -> None:
    with fake(tmp_path, "load=0.5", "fail=the model is broken") as terminal:
        assert terminal.close() == 1
        assert "eftlocal: the model is broken\ndo something else" in terminal.text
        assert "Traceback" not in terminal.text


def test_a_saved_session_survives_kill_9_and_goes_on(tmp_path: Path) -> None:
    with fake(tmp_path, "session=work") as terminal:
        terminal.prompt(1)
        terminal.enter("/beta 0.25")
        terminal.prompt(2)
        terminal.enter("say remember me")
        terminal.prompt(3)
        terminal.child.kill(signal.SIGKILL)
    with fake(tmp_path, "session=work") as terminal:
        terminal.prompt(1)
        terminal.enter("what was it")
        terminal.wait("beta 0.25 emulated: what was it")
        terminal.prompt(2)
        leave(terminal)
    saved = json.loads((tmp_path / "eftlocal/sessions/work.json").read_text())
    assert [m["content"] for m in saved["messages"]][:2] == ["say remember me", "remember me"]


def test_ctrl_d_keeps_the_chat_and_the_last_one_goes_on_with_its_last_turn_shown(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.enter("say **one**")
        terminal.prompt(2)
        terminal.enter("say two")
        terminal.prompt(3)
        leave(terminal)
        assert "(kept as say-one; eftlocal chat -c goes on with it)" in terminal.text
    with fake(tmp_path, "last=yes") as terminal:
        terminal.prompt(1)
        assert "(say-one: 2 turns with fake; /history shows them)\n>>> say two\ntwo" in terminal.text
        terminal.enter("/history")
        terminal.wait("\n\n>>> say two\ntwo\n>>>")
        assert ">>> say **one**\none\n" in terminal.text  # drawn as the chat draws it
        terminal.prompt(2)
        leave(terminal)


def test_a_session_that_is_open_is_continued_as_a_copy_if_the_user_agrees(tmp_path: Path) -> None:
    with fake(tmp_path, "session=work") as first:
        first.prompt(1)
        first.enter("say one")
        first.prompt(2)
        with fake(tmp_path, "session=work") as second:
            second.wait(f"work is open in another chat (process {first.child.pid}). Go on with a copy of it? [Y/n]")
            second.send("n\r")
            assert second.close() == 1
        with fake(tmp_path, "last=yes") as second:
            second.wait("[Y/n]")
            second.send(ENTER)
            second.prompt(1)
            second.enter("say two")
            second.prompt(2)
            leave(second)
            assert "kept as work-2" in second.text
        leave(first)
    sizes = {
        name: len(json.loads((tmp_path / f"eftlocal/sessions/{name}.json").read_text())["messages"])
        for name in ("work", "work-2")
    }
    assert sizes == {"work": 2, "work-2": 4}


def test_nothing_is_replaced_or_deleted_without_a_yes(tmp_path: Path) -> None:
    target = tmp_path / "x.md"
    target.write_text("mine")
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.enter("say one")
        terminal.prompt(2)
        for answer, content in (
            (ENTER, "mine"),
            (CTRL_C, "mine"),
            ("y\r", "## User\n\nsay one\n\n## Assistant\n\none\n"),
        ):
            asked = terminal.text.count("[y/N]") + 1
            terminal.send(f"/export {target}\r")
            terminal.until(lambda asked=asked: terminal.text.count("[y/N]") >= asked, "the question")  # type: ignore[misc]
            terminal.send(answer)
            terminal.until(lambda: re.search(r">>>\s*\Z", terminal.text.partition("fake ·")[0]), "the prompt")
            assert target.read_text() == content
        leave(terminal)


def test_a_damaged_session_is_refused_at_the_start_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "eftlocal/sessions/broken.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "eftlocal-session-1", "mess')
    with fake(tmp_path, "session=broken") as terminal:
        assert terminal.close() == 1
        assert "broken.json is not a valid session" in terminal.text.replace("\n", "")
        assert "Traceback" not in terminal.text
    assert path.read_text() == '{"format": "eftlocal-session-1", "mess'


def test_sigterm_in_an_answer_puts_the_terminal_back_and_keeps_what_came(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.02") as terminal:
        terminal.prompt(1)
        terminal.enter("lines 400")
        terminal.wait("m0003")
        assert not terminal.child.getecho()
        terminal.child.kill(signal.SIGTERM)
        assert terminal.close() == 128 + signal.SIGTERM
    assert "m0003" in (tmp_path / "eftlocal/sessions/lines-400.json").read_text()


def test_history_is_kept_across_runs_unless_it_is_off(tmp_path: Path) -> None:
    for option, expected in (("history=no", False), ("history=yes", True)):
        with fake(tmp_path, option) as terminal:
            terminal.prompt(1)
            terminal.enter("say once upon a time")
            terminal.prompt(2)
            leave(terminal)
        kept = tmp_path / "eftlocal/history"
        assert (kept.exists() and "once upon" in kept.read_text()) is expected
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.send("\x1b[A")
        terminal.wait(">>> say once upon a time")
        terminal.send(CTRL_C)
        leave(terminal)


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from tests.apps.fake import main
sys.exit(main([]))
"""


def test_on_a_full_disk_the_chat_goes_on_and_says_once_that_it_is_not_kept(tmp_path: Path) -> None:
    with Terminal("-c", FULL_DISK, data=tmp_path) as terminal:
        terminal.prompt(1)
        for number in (2, 3):
            terminal.enter(f"say abc{number}")
            terminal.prompt(number)
        terminal.send("\x1b[A")
        terminal.wait(">>> say abc3\n", 5)  # what was typed is in memory
        terminal.send(CTRL_C)
        leave(terminal)
        assert "exception" not in terminal.text.lower()
        assert terminal.text.count("this chat is not kept") == 1


def test_commands_are_completed_from_the_table(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.send("/sys")
        terminal.wait("show or change the system text")
        terminal.send("\t of\t" + CTRL_C)
        leave(terminal)


def test_a_word_that_means_to_leave_asks_first_and_is_never_sent(tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.enter("exit")
        terminal.wait("Leave the chat? [Y/n]")
        terminal.enter("n")
        terminal.prompt(2)
        terminal.enter(":q")
        terminal.until(lambda: terminal.text.count("[Y/n]") == 2, "the question")
        terminal.send(CTRL_C)
        terminal.prompt(3)
        assert "emulated" not in terminal.text
        terminal.enter("QUIT")
        terminal.until(lambda: terminal.text.count("[Y/n]") == 3, "the question")
        terminal.send(CTRL_D)
        assert terminal.close() == 0


@pytest.mark.parametrize(("term", "option"), [("dumb", "plain="), ("xterm", "plain=yes")])
def test_no_escape_code_where_the_terminal_or_the_user_does_not_want_them(
    term: str, option: str, tmp_path: Path
) -> None:
    with fake(tmp_path, option, term=term) as terminal:
        terminal.wait(">")
        terminal.send("say **bold** it is" + ENTER)
        terminal.wait("\n**bold** it is\n>")  # before it, Ctrl-D would not be the end of the input
        if term == "dumb":
            assert b"\x1b" not in terminal.raw
        terminal.send(CTRL_D)
        assert terminal.close() == 0


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_dumb_terminal_gets_rows_of_its_width_and_a_mistake_typed_there_is_no_failure(
    term: str, tmp_path: Path
) -> None:
    with fake(tmp_path, term=term, columns=60) as terminal:
        terminal.wait(">")
        terminal.send("/nope" + ENTER)
        terminal.wait("To send it as a message, begin\nwith //.")
        terminal.send("say a" + ENTER)
        terminal.wait("\na\n>")
        terminal.send("/compare" + ENTER)
        terminal.until(lambda: terminal.text.rstrip().endswith("50.0)\n>"), "the comparison")
        assert b"\x1b" not in terminal.raw
        terminal.send(CTRL_D)
        assert terminal.close() == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="needs a shell with job control")
def test_ctrl_z_goes_back_to_the_shell_and_fg_to_the_line_that_was_typed(tmp_path: Path) -> None:
    shell = "import os; os.execvp('bash', ['bash', '--norc', '-i'])"
    with Terminal("-c", shell, data=tmp_path, PS1="shell$ ") as terminal:
        terminal.wait("shell$")
        terminal.send(f'"{sys.executable}" -m tests.apps.fake' + ENTER)
        terminal.prompt(1)
        terminal.send("say half")
        terminal.wait(">>> say half")
        terminal.send("\x1a")
        terminal.wait("Stopped")
        terminal.send("fg" + ENTER)
        terminal.until(lambda: ">>> say half" in terminal.text.partition("shell$ fg\n")[2], "the line again")
        terminal.send(" done" + ENTER)
        terminal.wait("\nhalf done\n")
        terminal.send(CTRL_D)
        terminal.wait("goes on with it)\nshell$")
        terminal.send("exit" + ENTER)
        assert terminal.close() == 0
