"""What the command prints at its end: how good the trained model is, and what it answers."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eftlocal.apps.common import console
from eftlocal.apps.tune.verdict import Answered, Verdict
from eftlocal.text import one_line, printable

__all__ = ["conclude"]

NARROW = 34  # columns that an answer needs to stand beside another


def conclude(verdict: Verdict | None, report: str) -> None:
    """Prints a verdict on stderr: a table, what it means, and answers. `report`: where it is kept."""
    if verdict is None:
        return
    out = console(stderr=True)
    head = f"{_count(verdict.answers)} that {'was' if verdict.answers == 1 else 'were'} kept back"
    rows = list(_rows(verdict))
    if out.is_terminal:
        table = Table(title=Text(head), title_justify="left", title_style="")
        table.add_column("")
        for name in ("log p a token", "exact"):
            table.add_column(name, justify="right")
        for name, logprob, exact, mark in rows:
            table.add_row(name + mark, logprob, exact)
        out.print(table)
    else:
        out.print(f"{head}: log-probability of a token, and how many are exact")
        for name, logprob, exact, mark in rows:
            out.print(f"  {name:<20}{logprob:>8}{exact:>7}{mark}")
    for line in _meaning(verdict):
        out.print(printable(line))
    for answered in verdict.texts:
        out.print()
        _show(out, answered)
    out.print()
    out.print(printable(f"figures and answers are kept in {report}"))


def _rows(verdict: Verdict) -> Iterator[tuple[str, str, str, str]]:
    """Name, log-probability, exactness, and a mark for the best of the emulator's."""
    best = max(verdict.emulated, key=lambda beta: verdict.emulated[beta].logprob, default=None)
    for role, judged in verdict.alone.items():
        yield role, _nats(judged.logprob), f"{judged.exact:.0%}", ""
    for beta, judged in verdict.emulated.items():
        yield f"emulated, beta {beta:g}", _nats(judged.logprob), f"{judged.exact:.0%}", " *" if beta == best else ""


def _meaning(verdict: Verdict) -> Iterator[str]:
    """What follows from the figures, in lines."""
    if (chosen := verdict.chosen) is not None:
        end = f", and {chosen.end:+g} for what ends an answer" if chosen.end else ""
        what = f"beta {chosen.beta:g}{end}: chosen by {_count(chosen.fitted)} of these"
        figures = f"{_nats(chosen.logprob)} a token (as trained: {_nats(chosen.as_trained)})"
        if chosen.apart:
            yield f"{what}; the other {chosen.judged} get {figures}"
        else:
            yield f"{what}, which get {figures}; they are too few to judge it by others"
        if (better := chosen.better) is not None:
            alone = _nats(chosen.alone[better])
            yield (
                f"Warning: the {better} model alone gives these answers at least as well ({alone}), "
                "so emulation does not help with them."
            )
    yield f"drift: {verdict.drift:.3f} nats a token between reference and tuned model on an unrelated text"


def _show(out: Console, answered: Answered) -> None:
    """One question with its answers: side by side where the terminal is wide enough, else one below the other."""
    out.print(Text(f"> {one_line(answered.question)}", "bold"))
    answers = {"example": answered.wanted, **answered.answers}
    if out.is_terminal and out.width >= NARROW * len(answers):
        table = Table(expand=True, show_edge=False, pad_edge=False, header_style="bold")
        for name in answers:
            table.add_column(name, ratio=1, overflow="fold")
        table.add_row(*(Text(_lines(text)) for text in answers.values()))
        out.print(table)
        return
    width = max(map(len, answers))
    for name, text in answers.items():
        if out.is_terminal:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(width=width)
            grid.add_column(overflow="fold")
            grid.add_row(Text(name, "bold"), Text(_lines(text)))
            out.print(grid)
        else:
            out.print(f"  {name:<{width}}  {one_line(text)}")


def _lines(text: str) -> str:
    """A text with its lines, and nothing in them that steers a terminal."""
    return "\n".join(map(printable, text.strip().split("\n")))


def _nats(logprob: float) -> str:
    return f"{round(logprob, 3) or 0.0:.3f}"  # no -0.000


def _count(n: int) -> str:
    return f"{n:,} answer{'' if n == 1 else 's'}"
