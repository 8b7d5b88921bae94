"""The tables that a terminal shows."""

import pytest

from eftlocal.apps.eval.page import page
from eftlocal.apps.eval.table import drawn
from eftlocal.evaluation.line import Answered, Likelihood, Line, Preferred
from eftlocal.evaluation.summary import summary
from tests.evaluation import made

COLUMNS = ("base", "tuned:first", "reference:first", "tuned:second", "reference:second", "emulated@0.5", "emulated@1")


def lines() -> list[Line]:
    """Questions of many kinds, and preferences, under two rewards."""
    found = []
    for i in range(60):
        right = {name: i % 3 == 0 or name.startswith("emulated") for name in COLUMNS}
        columns = {
            name: Answered(
                likelihood=Likelihood(logprob=-4.0 + is_right, tokens=4, bytes=12), right=is_right, ended=True, length=4
            )
            for name, is_right in right.items()
        }
        line = Line(
            where=f"q:{i}",
            source="q",
            kind=f"kind {i % 5}",
            shape="question",
            prompt="?",
            answers=("!",),
            columns=columns,
        )
        found.append(line)
    ranks = {name: Preferred(chosen=-2.0, rejected=-3.0, tokens=(3, 3)) for name in COLUMNS}
    found.append(Line(where="q:60", source="q", kind="kind 1", shape="preference", prompt="?", columns=ranks))
    return found


@pytest.mark.parametrize("width", [50, 60, 80, 160])
def test_no_table_is_wider_than_the_terminal_and_emulated_at_1_is_in_all(width: int) -> None:
    evaluation = summary(lines(), emulator="mine", rewards=made.pairs(("first", "second")))
    text = drawn(evaluation, width).partition("both: ")[0]
    assert max(map(len, text.splitlines())) <= width
    head = text.partition("By kind\n")[2].splitlines()[0]
    assert "emulated@1" in head and ("base" in head or width < 60)
    assert "reward:" not in head, "no kind is told by what a reward prefers"


def test_a_pair_that_does_not_help_is_left_by_table_and_page() -> None:
    """Neither says how to write the strength into models.toml, nor that it is as configured."""
    for_base = Answered(likelihood=Likelihood(logprob=-0.5, tokens=4, bytes=12))
    worse = [
        Line(
            where=line.where,
            source="q",
            kind=None,
            shape="question",
            prompt="?",
            answers=("!",),
            columns={**line.columns, "base": for_base},
        )
        for line in lines()[:40]
    ]
    evaluation = summary(worse, emulator="mine", rewards=made.pairs(("first", "second")))
    assert evaluation.best is not None and not evaluation.best.helps
    for text in (drawn(evaluation, 100), page(evaluation, worse)):
        assert "leave the pair" in text and "rewards = [" not in text and "Nothing changes" not in text
