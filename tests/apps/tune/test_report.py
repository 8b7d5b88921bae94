"""Tests of the command's lines: each look at the held-out examples is one, and what is between them is not."""

import pytest

from eftlocal.apps.tune.data import WrongLinesError
from eftlocal.apps.tune.progress import TuneProgress
from eftlocal.apps.tune.report import Told, wrong_lines
from eftlocal.runs.lines import LineError


def step(done: int, held_out: float | None = None, small: float | None = None, best: bool = False) -> TuneProgress:
    return TuneProgress(
        phase="training", done=done, total=40, loss=2.0, held_out=held_out, small=small, best=best,
        tokens_per_s=120.4, left_s=100,
    )  # fmt: skip


def test_texts_and_looks_are_lines(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    for each in (TuneProgress(phase="checking", text="one\ntwo \x1b[31m"), step(1), step(4, 1.5, best=True), step(5)):
        told(each)
    told(step(8, 1.25, 3.5))
    assert capfd.readouterr().err == (
        "one\ntwo \\x1b[31m\n"
        "step 4 of 40: loss 2.000, held out 1.500 (the best so far), 120 tokens/s, 2 min left\n"
        "step 8 of 40: loss 2.000, held out, emulated 1.250, small alone 3.500, 120 tokens/s, 2 min left\n"
    )


def test_where_nothing_is_kept_back_ten_steps_are_lines(capfd: pytest.CaptureFixture[str]) -> None:
    told = Told()
    for done in range(1, 41):
        told(step(done))
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [str(4 * i) for i in range(1, 11)]


def test_many_wrong_lines_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    wrong_lines(WrongLinesError([LineError("a", i, "is odd", digest="", fields={}) for i in range(1, 24)]))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 21 and lines[0] == "eftlocal: a:1: is odd"
    assert lines[-1] == "eftlocal: 23 lines are wrong; nothing was trained (3 more are not shown)"
