"""A server that does not answer for a while: people are told while they wait."""

from pathlib import Path
from typing import Any, cast

import pytest

from eftlocal.apps.chat.columns import Column
from eftlocal.apps.chat.screen import Screen
from eftlocal.apps.generate import generate
from eftlocal.runs.progress import Report
from eftlocal.runtime.remote import troubles
from tests.apps.fake import FakeEmulator
from tests.apps.terminal import fake

URL = "http://127.0.0.1:8080"
TOLD = f"{URL} does not answer. It is asked again."


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80])
def test_the_chat_tells_that_a_server_is_away_until_it_is_back(tmp_path: Path, columns: int) -> None:
    with fake(tmp_path, "delay=0.05", columns=columns, lines=20) as terminal:
        terminal.prompt(1)
        terminal.enter("say one **two** [away] three four five six seven eight nine")
        terminal.until(lambda: "It is asked again." in terminal.text.replace("\n", ""), "the line")
        assert "two" in terminal.text.split("[away] three", 1)[1]
        terminal.prompt(2)
        assert "asked" not in terminal.text and "answer" not in terminal.text
        assert "one two [away] three four" in terminal.text.split(">>>")[1]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 160])  # below each other, beside each other
def test_compare_and_why_tell_it_too(tmp_path: Path, columns: int) -> None:
    with fake(tmp_path, "delay=0.05", columns=columns, lines=24) as terminal:
        terminal.prompt(1)
        for i, line in enumerate(("/compare say one [away] two three", "say [away] two", "/why"), 2):
            terminal.enter(line)
            terminal.until(lambda: "It is asked again." in terminal.text.replace("\n", ""), "the line")
            terminal.prompt(i)
            assert "asked again" not in terminal.text


def test_compare_prints_it_where_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for plain in (True, False):
        with Screen(plain=plain).columns([Column("one", "text", end="")]), troubles.Request(URL) as request:
            request.asks_again(f"{URL} does not answer.")
            request.answered = True
        printed = capsys.readouterr()
        assert TOLD in printed.err and "text" in printed.out + printed.err


def test_a_command_prints_it_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    emulator = cast(Any, FakeEmulator())
    assert generate(emulator, "say one [away] two", as_json=False) == 0
    printed = capsys.readouterr()
    assert printed.out == "one [away] two\n"
    assert printed.err == f"({TOLD})\n({URL} answers again.)\n"


def test_a_run_prints_it_once_for_all_its_requests(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(2, earlier=0, failed=0, quiet=True, unit="answer")
    with report, troubles.told(report.trouble), troubles.Request(URL) as one, troubles.Request(URL) as other:
        one.asks_again(f"{URL} does not answer.")
        other.asks_again(f"{URL} does not answer.")
        other.answered = one.answered = True
    assert capsys.readouterr().err == f"eftlocal: {TOLD}\neftlocal: {URL} answers again.\n"
