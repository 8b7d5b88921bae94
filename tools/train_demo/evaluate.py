"""Measures the demo's models, as `eftlocal eval demo demo` does: each role and strength, greedily and at random."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from eftlocal import Emulator, Evaluation, evaluate
from eftlocal.catalog.models import packaged
from eftlocal.evaluation.demo import items
from eftlocal.evaluation.results import ColumnFigures

BETAS = (0.5, 1.0, 1.5, 2.0)
SHOWN = ("right", "ended", "both", "logprob")


def load_questions(folder: Path, part: str = "questions") -> list[dict[str, object]]:
    """The questions of a folder's questions.json: `questions`, or those for `development`."""
    loaded: list[dict[str, object]] = json.loads((folder / "questions.json").read_text(encoding="utf-8"))[part]
    return loaded


def measure(folder: Path, questions: list[dict[str, object]], seed: int | None = None) -> None:
    """Measure a folder's models on questions, greedily or with this seed at temperature 1. Print a table."""
    sampling = f"seed {seed}" if seed is not None else "greedy"
    print(f"{len(questions)} questions, {sampling}: value / ended / both, logprob")
    with TemporaryDirectory() as made:
        models = Path(made) / "models.toml"
        text = packaged("models.toml").read_text(encoding="utf-8")
        models.write_text(text.replace('"demo/', f'"{folder.resolve().as_posix()}/'), encoding="utf-8")
        with Emulator.load("demo", models=models, upper="demo-upper") as emulator:
            found = _measured(emulator, questions, seed)
        with Emulator.load("demo-down", models=models) as emulator:
            down = _measured(emulator, questions, seed).groups[0].column("emulated@1")
    for column in found.groups[0].columns:
        _tell(column.column, column)
    if down is not None:
        _tell("down-scaling", down)
    for gap in found.groups[0].gaps:
        if (gap.column, gap.metric) == ("emulated@1", "both") and gap.closed is not None:
            print(f"  gap closed, {gap.definition}: {gap.closed.value:.3f}", flush=True)


def _measured(emulator: Emulator, questions: list[dict[str, object]], seed: int | None) -> Evaluation:
    sampled = seed is not None
    answers = {"temperature": float(sampled), "top_p": 1.0}
    return evaluate(emulator, items(questions), betas=BETAS, seed=seed or 0, answers=answers)


def _tell(name: str, column: ColumnFigures) -> None:
    value, ended, both, logprob = (column.figures[metric].value for metric in SHOWN)
    print(f"  {name:14} {value:.3f} {ended:.3f} {both:.3f} {logprob:8.2f}", flush=True)
