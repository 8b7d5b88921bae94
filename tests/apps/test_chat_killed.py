"""A chat whose terminal goes, or that is asked to end, is gone within three seconds, and nothing is lost.

`python -m tools.kill_chat` does the same with real models, and more often.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.apps.terminal import Terminal, fake
from tools.kill_chat import LIMIT_S, PHASES, kills

pytestmark = pytest.mark.slow  # each test starts the chat in a real terminal

KILLS = int(os.environ.get("EFTLOCAL_TEST_KILLS", "1")) * len(PHASES)


def test_a_killed_chat_is_gone_in_time_in_each_phase_and_loses_nothing(tmp_path: Path) -> None:
    command = ["-m", "tests.apps.fake", "delay=0.02", "load=0.3"]
    outcomes = list(kills(command, tmp_path, KILLS, seed=3))
    assert [outcome for outcome in outcomes if outcome.faults] == []
    assert {outcome.phase for outcome in outcomes} == set(PHASES)
    assert {outcome.how for outcome in outcomes} == {"SIGHUP", "SIGTERM"}


def killed(terminal: Terminal, number: signal.Signals) -> float:
    """Send the signal, and return after how many seconds the process has ended."""
    started = time.monotonic()
    terminal.child.kill(number)
    while terminal.child.isalive() and time.monotonic() - started < 2 * LIMIT_S:
        terminal.pump(0.02)
    return time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_c_code_that_does_not_return_holds_nothing_up(number: signal.Signals, tmp_path: Path) -> None:
    with fake(tmp_path) as terminal:
        terminal.prompt(1)
        terminal.enter("say one")
        terminal.prompt(2)
        terminal.enter("stuck two")  # a few words, and then C code for minutes
        terminal.wait("\nit")
        terminal.pump(0.3)
        assert killed(terminal, number) < LIMIT_S
        assert terminal.close() == 128 + number
    messages = json.loads((tmp_path / "eftlocal/sessions/say-one.json").read_text())["messages"]
    assert [m["content"] for m in messages] == ["say one", "one", "stuck two", "it has begun"]


def test_loading_that_does_not_return_holds_nothing_up(tmp_path: Path) -> None:
    with fake(tmp_path, "load=60") as terminal:
        terminal.wait(">>>")
        terminal.enter("say one")
        terminal.wait("loading")
        assert killed(terminal, signal.SIGTERM) < LIMIT_S
        assert terminal.close() == 128 + signal.SIGTERM


def test_the_terminal_is_put_back(tmp_path: Path) -> None:
    with fake(tmp_path, "delay=0.02") as terminal:
        before = terminal.child.getecho()
        terminal.prompt(1)
        assert before and not terminal.child.getecho()
        killed(terminal, signal.SIGTERM)
        assert terminal.child.getecho()
        assert b"\x1b[?2004l" in terminal.raw[-40:]  # and a paste is plain text again


def test_a_chat_that_ignores_sighup_goes_on(tmp_path: Path) -> None:
    with Terminal("-c", NOHUP, data=tmp_path) as terminal:
        terminal.prompt(1)
        terminal.child.kill(signal.SIGHUP)
        terminal.enter("say still here")
        terminal.wait("\nstill here")


NOHUP = """if True:
    import signal, sys
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from tests.apps.fake import main
    sys.exit(main([]))"""
