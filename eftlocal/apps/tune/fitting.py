"""Takes the steps of a training, first for a learning rate, and keeps their state on disk: a kill loses a second."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from eftlocal.apps.tune.progress import Tell, TuneProgress
from eftlocal.errors import TrainingError
from eftlocal.training import checkpoint, trial
from eftlocal.training.objectives import Objective
from eftlocal.training.trainer import Recipe, Trainer
from eftlocal.training.tunable import Tunable

__all__ = ["fit", "restore", "tried_rate"]

SAVED_S: Final = 1.0  # at most so often a checkpoint is written, but always at an interruption and at the end
SAVING: Final = 0.05  # share of the time that writing checkpoints may take


def tried_rate(
    make: Callable[[], Tunable],
    objective: Objective,
    recipe: Recipe,
    held_out: Objective | None,
    tell: Tell,
    stopped: Callable[[], bool],
) -> float | None:
    """The learning rate that a trial finds for this run. None if it was stopped."""
    runs = 0

    def told(tried: trial.Tried) -> None:
        nonlocal runs
        runs += 1
        tell(TuneProgress(phase="trial", done=runs, total=max(runs, trial.EXPECTED), loss=tried.loss))

    steps = trial.short_steps(recipe, len(objective))
    text = f"trying learning rates, {steps} steps at each of them"
    tell(TuneProgress(phase="trial", text=text, total=trial.EXPECTED))
    found = trial.find(make, objective, recipe, held_out, told=told, stop=stopped)
    if found is None:
        return None
    each = ", ".join(f"{tried.lr:.2g}: {tried.loss:.3f}" for tried in found.tried)
    text = f"learning rate {found.lr:.2g} (loss after the trial of each: {each})"
    tell(TuneProgress(phase="trial", text=text, done=runs, total=runs))
    return found.lr


def restore(trainer: Trainer, path: Path, identity: str, tell: Tell) -> None:
    """Goes on from the checkpoint at `path`, if there is one. Raises TrainingError if it is of another `identity`."""
    if (state := checkpoint.load(path)) is None:
        return
    if state.pop("identity", None) != identity:
        raise TrainingError(
            f"{path.parent} is of a run with other data, models or settings.",
            "Delete it to start again, or give another --output.",
        )
    trainer.restore(state)
    text = f"going on after step {trainer.taken} of {trainer.steps}"
    tell(TuneProgress(phase="training", text=text, done=trainer.taken, total=trainer.steps))


def fit(trainer: Trainer, path: Path, identity: str, tell: Tell, stopped: Callable[[], bool]) -> TrainingError | None:
    """Takes the steps that are left, until it is stopped. The state is in the checkpoint then.

    Returns what went wrong, such as a loss that is not a number; the trainer has the best parameters before that.
    Raises TrainingError where the checkpoint cannot be written.
    """
    objective, recipe = trainer.objective, trainer.recipe
    per_step = sum(objective.size(item) for item in range(len(objective))) * recipe.epochs / trainer.steps
    first, started = trainer.taken, time.monotonic()
    saved, cost = started, 0.0
    error: TrainingError | None = None
    steps = trainer.run()
    while not stopped():
        try:
            step = next(steps, None)
        except TrainingError as wrong:
            error = wrong
            break
        if step is None:
            break
        each = (time.monotonic() - started) / (step.step - first)
        tell(
            TuneProgress(
                phase="training", done=step.step, total=step.steps, loss=step.loss, held_out=step.held_out,
                small=step.small, best=step.best, tokens_per_s=per_step / each, left_s=each * (step.steps - step.step),
            )
        )  # fmt: skip
        if time.monotonic() - saved > max(SAVED_S, cost / SAVING):
            began = time.monotonic()
            _save(trainer, path, identity)
            saved, cost = time.monotonic(), time.monotonic() - began
    _save(trainer, path, identity)
    if not stopped() and error is None and trainer.taken < trainer.steps:
        text = f"ended early: nothing better came in {recipe.patience} looks at what is kept back"
        tell(TuneProgress(phase="training", text=text, done=trainer.taken, total=trainer.steps))
    return error


def _save(trainer: Trainer, path: Path, identity: str) -> None:
    checkpoint.save(path, {**trainer.state(), "identity": identity})
