"""`eftlocal demo`: shows with the demo family what emulation does, by examples and by a measurement."""

import random
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from eftlocal.apps.common import print_json
from eftlocal.emulation.emulator import Emulator
from eftlocal.evaluation.checks import right
from eftlocal.evaluation.demo import ANSWER, questions
from eftlocal.evaluation.evaluate import evaluate
from eftlocal.evaluation.items import Question
from eftlocal.evaluation.results import Evaluation
from eftlocal.runs.ctrl_c import cursor_comes_back

SHOWN = 4  # questions whose answers are shown while they decode
TITLES = {"base": "large base", "tuned": "small tuned", "emulated": "emulated", "upper": "truly tuned large"}
LESSON = (
    "The large base knows but does not behave; the small tuned model behaves but does not know.\n"
    "The emulation, large base + (small tuned − small base), does both, and nothing large was trained."
)


def measure(
    emulator: Emulator,
    asked: Sequence[Question],
    *,
    beta: float = 1.0,
    temperature: float = 0.0,
    ended: Callable[[], None] = lambda: None,
) -> Evaluation:
    """What the questions say of the emulator at this strength and of the roles of `TITLES`.

    `ended` is called for each question that has been answered by all of them.
    """
    return evaluate(
        emulator,
        asked,
        betas=[beta],
        roles=tuple(TITLES),
        answers={"temperature": temperature, "top_p": 1.0},
        on_line=lambda _: ended(),
    )


def shares(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """role -> "right", "ended" and "both" -> the share of the questions, from 0 to 1."""
    return {
        column.role: {metric: column.figures[metric].value for metric in ("right", "ended", "both")}
        for column in evaluation.groups[0].columns
    }


def demo(
    n_questions: int, *, as_json: bool, shown_seed: int | None, beta: float = 1.0, temperature: float = 0.0
) -> int:
    """Show a few questions side by side, then measure the first `n_questions`. Returns the exit code."""
    started = time.perf_counter()
    asked = questions(n_questions)
    out, notes = Console(), Console(stderr=True)
    with Emulator.load("demo", upper="demo-upper") as emulator:
        if not as_json:
            for question in random.Random(shown_seed).sample(questions(), SHOWN):
                _show(emulator, question, out)
        bar = Progress(console=notes, transient=True, disable=not notes.is_terminal)
        with cursor_comes_back(notes), bar as progress:
            task = progress.add_task(f"Asking {len(asked)} held-out questions", total=len(asked))
            evaluation = measure(
                emulator, asked, beta=beta, temperature=temperature, ended=lambda: progress.advance(task)
            )
    found, closed = shares(evaluation), _closed(evaluation)
    if as_json:
        print_json(_json(len(asked), found, closed, time.perf_counter() - started))
        return 0
    out.print(_table(len(asked), found))
    if closed is not None:
        out.print(
            f"{closed:.0%} of the gap between the small tuned and the truly tuned large model is closed.",
            soft_wrap=True,
        )
    out.print(LESSON, soft_wrap=True)
    out.print("Ask it yourself: eftlocal chat demo", highlight=False)
    return 0


def _closed(evaluation: Evaluation) -> float | None:
    """How much of the gap from the small tuned model the emulator closes, in answers that are right and end."""
    for gap in evaluation.groups[0].gaps:
        if gap.metric == "both" and gap.definition == "from the small tuned model" and gap.closed is not None:
            return gap.closed.value
    return None


def _show(emulator: Emulator, question: Question, out: Console) -> None:
    """Show the answers to one question while they decode; without a terminal, only when they are complete."""
    answers = {TITLES["base"]: "", TITLES["tuned"]: "", TITLES["emulated"]: ""}
    asked, check = str(question.prompt), question.check
    assert check is not None

    def table() -> Table:
        view = Table(title=asked, title_justify="left", title_style="bold", show_header=False, box=None)
        for title, text in answers.items():
            colour = "green" if right(check, question.answers, text) else "default"
            view.add_row(f"  {title}", text.replace("\n", " "), style=colour)
        view.add_row("  truth", question.answers[-1], style="dim")
        return view

    with cursor_comes_back(out), Live(table(), console=out, auto_refresh=False, transient=False) as live:
        for title, alone in zip(answers, ("base", "tuned", None), strict=True):
            for delta in emulator.stream(asked, max_tokens=ANSWER, alone=alone):
                answers[title] += delta
                live.update(table(), refresh=out.is_terminal)
        live.update(table(), refresh=True)
    out.print()


def _table(n: int, found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=f"{n} held-out questions", title_justify="left")
    for heading in ("", "right value", "ends by itself", "both"):
        table.add_column(heading, justify="left" if not heading else "right")
    for role, title in TITLES.items():
        style = "bold" if role == "emulated" else ""
        table.add_row(title, *(f"{found[role][metric]:.3f}" for metric in ("right", "ended", "both")), style=style)
    return table


def _json(n: int, found: Mapping[str, Mapping[str, float]], closed: float | None, seconds: float) -> dict[str, object]:
    return {
        "questions": n,
        "value": {role: found[role]["right"] for role in TITLES},
        "ended": {role: found[role]["ended"] for role in TITLES},
        "accuracy": {role: found[role]["both"] for role in TITLES},
        "gap_closed": closed,
        "seconds": seconds,
    }
