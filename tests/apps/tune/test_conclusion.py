"""Tests of what the command prints at its end: as a table on a terminal, as plain lines in a pipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from eftlocal.apps.tune.conclusion import conclude
from eftlocal.apps.tune.verdict import Answered, Chosen, Judged, Verdict
from tests.apps.terminal import Terminal

ALONE = {"reference": -3.5, "tuned": -0.5, "base": -3.0}
TEXTS = Answered("How are you?", "Fine, matey.", {role: f"I am {role}\x1b[31m" for role in (*ALONE, "emulated")})
VERDICT = Verdict(
    20, {role: Judged(logprob, 0.25) for role, logprob in ALONE.items()},
    {0.5: Judged(-1.0, 0.5), 1.0: Judged(-0.2501, 1.0)}, 0.0314,
    Chosen(0.925, 0.0, 10, 10, True, -0.21, -0.25, ALONE), (TEXTS,),
)  # fmt: skip


def test_a_pipe_gets_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    conclude(VERDICT, "voice.report.json")
    assert capfd.readouterr().err.split("\n") == [
        "20 answers that were kept back: log-probability of a token, and how many are exact",
        "  reference             -3.500    25%",
        "  tuned                 -0.500    25%",
        "  base                  -3.000    25%",
        "  emulated, beta 0.5    -1.000    50%",
        "  emulated, beta 1      -0.250   100% *",
        "beta 0.925: chosen by 10 answers of these; the other 10 get -0.210 a token (as trained: -0.250)",
        "drift: 0.031 nats a token between reference and tuned model on an unrelated text",
        "",
        "> How are you?",
        "  example    Fine, matey.",
        "  reference  I am reference\\x1b[31m",
        "  tuned      I am tuned\\x1b[31m",
        "  base       I am base\\x1b[31m",
        "  emulated   I am emulated\\x1b[31m",
        "",
        "figures and answers are kept in voice.report.json",
        "",
    ]


def test_it_warns_where_emulation_does_not_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert VERDICT.chosen is not None
    conclude(replace(VERDICT, chosen=replace(VERDICT.chosen, logprob=-0.7, end=0.25, apart=False)), "x")
    told = capfd.readouterr().err
    assert "Warning: the tuned model alone gives these answers at least as well (-0.500)" in told
    assert "beta 0.925, and +0.25 for what ends an answer: chosen by 10 answers of these, which get -0.700" in told
    conclude(None, "x")
    assert capfd.readouterr().err == ""


SCRIPT = """
from tests.apps.tune.test_conclusion import VERDICT, conclude
conclude(VERDICT, "voice.report.json")
input("done")
"""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_gets_a_table_and_answers_that_fit(tmp_path: Path, columns: int) -> None:
    with Terminal("-c", SCRIPT, data=tmp_path, columns=columns, lines=40) as terminal:
        terminal.wait("done")
        lines = [line.rstrip() for line in terminal.text.split("\n")]
    assert any("│ emulated, beta 1 * │" in line for line in lines)
    beside = [line for line in lines if "Fine, matey." in line and "I am emulated" in line]
    assert bool(beside) == (columns == 200)
    assert "\x1b" not in terminal.text and any("I am base\\x1b[31m" in line for line in lines)
