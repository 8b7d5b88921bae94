"""`eftlocal generate -i FILE` and `eftlocal score -i FILE`: thousands of prompts, in a run that can be continued."""

from collections.abc import Callable

from eftlocal.apps.batch.options import Options
from eftlocal.apps.batch.runner import run
from eftlocal.apps.batch.work import Answers, Scores, Work
from eftlocal.emulation.emulator import Emulator

__all__ = ["Options", "generate", "score"]


def generate(load: Callable[[], Emulator], options: Options) -> int:
    """Answer every prompt of a file. Returns the exit code.

    Raises EftError: a bad line, an output that another run writes or wrote with other settings, a full disk.
    """
    form = options.form(scored=False)

    def begin(emulator: Emulator, seed: int, left: int | None) -> Work:
        at_once = emulator.parallel if options.parallel is None else options.parallel
        # Each place takes the memory of a whole context, also one that nothing comes for.
        return Answers(emulator, form, seed=seed, parallel=at_once if left is None else min(at_once, max(1, left)))

    return run(load, begin, form, options)


def score(load: Callable[[], Emulator], options: Options) -> int:
    """Score the completions of a file's lines, each after its prompt; as `generate`."""
    form = options.form(scored=True)
    return run(load, lambda emulator, *_: Scores(emulator, form, tokens=options.tokens), form, options)
