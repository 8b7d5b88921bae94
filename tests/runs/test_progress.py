"""What a run prints on stderr: a line each minute, or a bar in a terminal, and a summary."""

import io

import pytest
from rich.console import Console

from eftlocal.runs import progress
from eftlocal.runs.progress import Report


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def report(clock: Clock, total: int | None = 100, *, quiet: bool = False, earlier: int = 0) -> Report:
    return Report(total, earlier=earlier, failed=0, quiet=quiet, unit="answer", clock=clock)


def test_without_a_terminal_there_is_one_line_a_minute_and_a_summary(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with report(clock, earlier=10) as shown:
        for _ in range(30):
            clock.now += 7
            shown.answered(70, "stop")
        shown.error("in:4: is wrong\nTry another.")
        shown.summary()
    err = capfd.readouterr().err.splitlines()
    assert err[:3] == [
        "19 of 100 answers, 10 tokens/s, 9 min left",
        "28 of 100 answers, 10 tokens/s, 8 min left",
        "37 of 100 answers, 10 tokens/s, 7 min left",
    ]
    assert err[3:] == [
        "eftlocal: in:4: is wrong",
        "Try another.",
        "41 of 100 answers (10 of them earlier), 2,100 tokens in 4 min, 10 tokens/s, stop 30, failed 1",
    ]


def test_quiet_says_only_what_is_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with report(clock, quiet=True) as shown:
        for _ in range(100):
            clock.now += 60
            shown.answered(1, "stop")
        shown.error("in:1: [bold]x[/bold]")
        shown.summary()
    assert capfd.readouterr().err == "eftlocal: in:1: [bold]x[/bold]\n"


def test_where_the_total_is_not_known_no_time_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with report(clock, None) as shown:
        clock.now = 100
        shown.answered(5, "length")
        shown.summary()
    assert capfd.readouterr().err.splitlines() == [
        "1 answer, 0.1 tokens/s",
        "1 answer, 5 tokens in 2 min, 0.1 tokens/s, length 1, failed 0",
    ]


def test_a_terminal_has_a_bar_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    clock = Clock()
    with report(clock) as shown:
        clock.now = 10
        shown.answered(50, "stop")
    assert "1 of 100 answers, 5.0 tokens/s, 16 min left" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K") or "\x1b[2K" in screen.getvalue()[-20:]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.9, "9.9 s"), (45.4, "45 s"), (100, "2 min"), (5900, "98 min"), (12_000, "3 h 20 min")],
)
def test_a_span_reads_as_one_says_it(seconds: float, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with report(clock) as shown:
        clock.now = seconds
        shown.answered(5, "stop")
        shown.summary()
    assert f", 5 tokens in {text}, " in capfd.readouterr().err.splitlines()[-1]
