"""`eftlocal generate -i FILE` and `eftlocal score -i FILE`: thousands of prompts, in a run that can be continued."""

from collections.abc import Callable

from eftlocal.apps.batch.reader import name_of
from eftlocal.apps.batch.records import MAX_SAMPLES, Form
from eftlocal.apps.batch.runner import OnError, Options, run
from eftlocal.apps.batch.work import Answers, Scores
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import SettingError
from eftlocal.runtime.llama import MAX_SEQUENCES

__all__ = ["generate", "score"]


def generate(
    load: Callable[[], Emulator],
    source: str,
    target: str,
    *,
    format: str | None = None,
    on_error: OnError = "stop",
    samples: int = 1,
    parallel: int | None = None,
    ordered: bool = True,
    overwrite: bool = False,
    system: str | None = None,
    raw: bool = False,
    quiet: bool = False,
) -> int:
    """Answer every prompt of a file; `-` is standard input, and output. Returns the exit code.

    format    jsonl, csv or text; None: by the file's name, or by what standard input begins with
    on_error  a line that cannot be answered ends the run ("stop"), or becomes a line with `error` ("skip")
    samples   answers to each prompt, where the line says no `n` of its own
    parallel  prompts that are decoded at once; None: what suits the machine
    ordered   lines come out in the input's order; else as they finish
    overwrite start anew where the output has lines already, else go on behind them
    system    the system text of the lines that have none; raw: prompts are given as they are

    Raises EftError: a bad line, an output that another run writes or wrote with other settings, a full disk.
    """
    if not 1 <= samples <= MAX_SAMPLES:
        raise SettingError(f"n is {samples}; it must be between 1 and {MAX_SAMPLES}.")
    if parallel is not None and not 1 <= parallel <= MAX_SEQUENCES:  # before anything is overwritten
        raise SettingError(f"parallel is {parallel}; it must be between 1 and {MAX_SEQUENCES}.")
    form = _form(source, system, raw, samples=samples)
    options = Options(
        source=source,
        target=target,
        format=format,
        on_error=on_error,
        overwrite=overwrite,
        ordered=ordered,
        quiet=quiet,
    )
    return run(load, lambda emulator, seed: Answers(emulator, form, seed=seed, parallel=parallel), form, options)


def score(
    load: Callable[[], Emulator],
    source: str,
    target: str,
    *,
    format: str | None = None,
    on_error: OnError = "stop",
    overwrite: bool = False,
    system: str | None = None,
    raw: bool = False,
    tokens: bool = False,
    quiet: bool = False,
) -> int:
    """Score the completions of a file's lines, each after its prompt; as `generate`. `tokens`: also token by token."""
    options = Options(
        source=source,
        target=target,
        format=format,
        on_error=on_error,
        overwrite=overwrite,
        ordered=True,
        quiet=quiet,
    )
    form = _form(source, system, raw, scored=True)
    return run(load, lambda emulator, _: Scores(emulator, form, tokens=tokens), form, options)


def _form(source: str, system: str | None, raw: bool, *, samples: int = 1, scored: bool = False) -> Form:
    if raw and system is not None:
        raise SettingError("A raw prompt has no system text.", "Leave --system or --raw out.")
    return Form(where=name_of(source), system=system, raw=raw, samples=samples, scored=scored)
