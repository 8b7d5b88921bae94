"""Runs lm-evaluation-harness with an emulator, as its own program does: with its options, tasks, tables and files."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError, SettingError

__all__ = ["lm_eval"]

OURS = ("--model", "-M", "--model_args", "-a")


def lm_eval(
    load: Callable[[], Emulator], words: Sequence[str], *, role: str | None = None, told: Mapping[str, object]
) -> int:
    """Give the words to the harness's own command line, with the emulator as its model. Returns the exit code.

    load   loads the emulator; it is called when the harness has found its tasks
    role   the role that is measured by itself; None: the emulator
    told   what the harness's results say of the model: its name and dials

    Raises EftError for a harness that is missing or that stops.
    """
    if find_spec("lm_eval") is None:
        raise EftError("lm-evaluation-harness is not installed.", "Install it: pip install 'eftlocal[lm-eval]'")
    if refused := next((word for word in words if word.split("=")[0] in OURS), None):
        raise SettingError(f"{refused} is the harness's option for another model.", "Leave it out.")
    if not words:
        raise SettingError(
            "No task was given.", "Give one: --tasks arc_easy; `lm_eval ls tasks` lists the harness's own."
        )
    from lm_eval.__main__ import cli_evaluate

    from eftlocal.apps.harness.lm_eval_model import FromCommandLine

    loaded: list[Emulator] = []

    def hand_over() -> Emulator:
        loaded.append(load())
        return loaded[0]

    FromCommandLine.load, FromCommandLine.role = hand_over, role
    arguments = [f"{key}={value}" for key, value in told.items() if value is not None]
    # The harness's default is one answer at a time; a batch size among the words comes later and counts.
    head = ("run", "--model", "eftlocal", "--batch_size", "auto", "--model_args", *arguments)
    sys.argv = ["lm_eval", *head, *words]
    try:
        cli_evaluate()
    except EftError:
        raise
    except Exception as error:  # of the harness or of its data's library: one line here, too
        what = str(error).strip() or type(error).__name__
        raise EftError(f"lm-eval: {what}", "--debug shows where.") from error
    finally:
        for emulator in loaded:
            emulator.close()
    return 0
