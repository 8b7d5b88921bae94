"""`eftlocal generate -i FILE` and `eftlocal score -i FILE`: runs over thousands of prompts, which can be continued."""

from collections.abc import Callable
from datetime import date

from eftlocal.apps.batch.options import Options
from eftlocal.apps.batch.prompts import Prompts
from eftlocal.apps.batch.work import Answers, Scores, Work
from eftlocal.emulation.emulator import Emulator
from eftlocal.runs.runner import run

__all__ = ["Options", "generate", "score"]


def generate(load: Callable[[date], Emulator], options: Options) -> int:
    """Answer every prompt of a file. `load` gets the date that chat templates see. Returns the exit code (see `run`).

    Raises EftError for a bad line, for a full disk, and for an output that another run is writing or that was written
    with other settings.
    """
    form = options.form(scored=False)

    def begin(emulator: Emulator, seed: int, left: int | None) -> Work:
        at_once = emulator.parallel if options.parallel is None else options.parallel
        # Each sequence takes the memory of a whole context, also if it stays empty: reserve no more than needed.
        return Answers(emulator, form, seed=seed, parallel=at_once if left is None else min(at_once, max(1, left)))

    return run(load, begin, Prompts.of(form, options), options)


def score(load: Callable[[date], Emulator], options: Options) -> int:
    """Score the completions in a file's lines, each after its prompt. Returns and raises as `generate`."""
    form = options.form(scored=True)
    return run(
        load, lambda emulator, *_: Scores(emulator, form, tokens=options.tokens), Prompts.of(form, options), options
    )
