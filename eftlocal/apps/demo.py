"""`eftlocal demo`: shows with the demo family what emulation does, by examples and by a measurement."""

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Unpack

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.table import Table

from eftlocal.apps.common import print_json
from eftlocal.catalog.models import packaged
from eftlocal.decoding.generation import Reply
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import Emulator
from eftlocal.runs.ctrl_c import cursor_comes_back

SHOWN = 4  # questions whose answers are shown while they decode
LIMIT = 32  # max_tokens of an answer; each right answer takes less than half of that
PARALLEL = 16  # questions decoded at once
TITLES = {"base": "large base", "tuned": "small tuned", "emulated": "emulated", "upper": "truly tuned large"}
LESSON = (
    "The large base knows but does not behave; the small tuned model behaves but does not know.\n"
    "The emulation, large base + (small tuned − small base), does both, and nothing large was trained."
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a city that no fine-tuning example mentions, and its right values."""

    text: str
    answers: tuple[str, ...]

    def right(self, text: str) -> bool:
        """Whether the first sentence of `text` contains a right value as whole words."""
        sentence = re.split(r"(?<=[.!?])\s|\n", text.strip(), maxsplit=1)[0]
        return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", sentence) for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of the questions, from 0 to 1: the value is right, the answer ended by itself, both."""

    value: float
    ended: float
    both: float


def questions() -> list[Question]:
    """All held-out questions that ship with eftlocal, in a fixed random order."""
    table = json.loads(packaged("demo/questions.json").read_text(encoding="utf-8"))
    return [Question(q["question"], tuple(q["answers"])) for q in table["questions"]]


def accuracy(asked: Sequence[Question], replies: Sequence[Reply]) -> Accuracy:
    """The accuracy of `replies` to the questions `asked`.

    An answer ended by itself when the model ended it: a stop string or the token limit does not count.
    """
    right = [question.right(reply.text) for question, reply in zip(asked, replies, strict=True)]
    ended = [reply.finish_reason == "stop" and reply.stopped_by is None for reply in replies]
    both = [r and e for r, e in zip(right, ended, strict=True)]
    return Accuracy(*(sum(values) / len(asked) for values in (right, ended, both)))


def measure(
    demo: Emulator, upper: Emulator, asked: Sequence[Question], step: Callable[[int], None], **dials: Unpack[Dials]
) -> dict[str, Accuracy]:
    """The accuracy of each of the four columns of `TITLES`, by column.

    step    called with the number of answers after each batch of them
    dials   the sampling, and the emulation's beta
    """
    found: dict[str, Accuracy] = {}
    limited: Dials = {"max_tokens": LIMIT, "seed": 0, "top_p": 1.0, **dials}
    for column, emulator, more in (
        ("base", demo, Dials(alone="base")),
        ("tuned", demo, Dials(alone="tuned")),
        ("emulated", demo, Dials()),
        ("upper", upper, Dials()),
    ):
        replies: list[Reply] = []
        for start in range(0, len(asked), PARALLEL):
            some = [question.text for question in asked[start : start + PARALLEL]]
            these: Dials = {**limited, **more}
            replies += emulator.generate_many(some, parallel=PARALLEL, **these)
            step(len(some))
        found[column] = accuracy(asked, replies)
    return found


def demo(n_questions: int, *, as_json: bool, shown_seed: int | None, **dials: Unpack[Dials]) -> int:
    """Show a few questions side by side, then measure the first `n_questions`. Returns the exit code."""
    started = time.perf_counter()
    asked = questions()[:n_questions]
    out, notes = Console(), Console(stderr=True)
    with Emulator.load("demo") as emulator, Emulator.load("demo-upper") as upper:
        if not as_json:
            for question in random.Random(shown_seed).sample(questions(), SHOWN):
                _show(emulator, question, out)
        bar = Progress(console=notes, transient=True, disable=not notes.is_terminal)
        with cursor_comes_back(notes), bar as progress:
            task = progress.add_task(f"Asking {len(asked)} held-out questions", total=4 * len(asked))
            found = measure(emulator, upper, asked, lambda n: progress.advance(task, n), **dials)
    both = {column: result.both for column, result in found.items()}
    gap = both["upper"] - both["tuned"]
    closed = (both["emulated"] - both["tuned"]) / gap if gap > 0 else None
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


def _show(emulator: Emulator, question: Question, out: Console) -> None:
    """Show the answers to one question while they decode; without a terminal, only when they are complete."""
    answers = {TITLES["base"]: "", TITLES["tuned"]: "", TITLES["emulated"]: ""}

    def table() -> Table:
        view = Table(title=question.text, title_justify="left", title_style="bold", show_header=False, box=None)
        for title, text in answers.items():
            colour = "green" if question.right(text) else "default"
            view.add_row(f"  {title}", text.replace("\n", " "), style=colour)
        view.add_row("  truth", question.answers[0], style="dim")
        return view

    with cursor_comes_back(out), Live(table(), console=out, auto_refresh=False, transient=False) as live:
        for title, alone in zip(answers, ("base", "tuned", None), strict=True):
            for delta in emulator.stream(question.text, max_tokens=LIMIT, alone=alone):
                answers[title] += delta
                live.update(table(), refresh=out.is_terminal)
        live.update(table(), refresh=True)
    out.print()


def _table(n: int, found: dict[str, Accuracy]) -> Table:
    table = Table(title=f"{n} held-out questions", title_justify="left")
    for heading in ("", "right value", "ends by itself", "both"):
        table.add_column(heading, justify="left" if not heading else "right")
    for column, result in found.items():
        style = "bold" if column == "emulated" else ""
        table.add_row(TITLES[column], *(f"{x:.3f}" for x in (result.value, result.ended, result.both)), style=style)
    return table


def _json(n: int, found: dict[str, Accuracy], closed: float | None, seconds: float) -> dict[str, object]:
    return {
        "questions": n,
        "value": {column: result.value for column, result in found.items()},
        "ended": {column: result.ended for column, result in found.items()},
        "accuracy": {column: result.both for column, result in found.items()},
        "gap_closed": closed,
        "seconds": seconds,
    }
