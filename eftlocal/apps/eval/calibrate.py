"""`--calibrate`: after the measuring, the emulator's strength and biases from one half of the items."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from eftlocal.apps.common import console
from eftlocal.apps.eval.options import UNSEEN, Options
from eftlocal.catalog import token_ids
from eftlocal.catalog.token_ids import TokenIds
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.evaluation.calibrating import calibrate, must_be_possible, shown_tokens, toml, unseen_tokens
from eftlocal.evaluation.data import read
from eftlocal.evaluation.items import Item
from eftlocal.evaluation.results import Calibrated
from eftlocal.runs.ctrl_c import cursor_comes_back
from eftlocal.runs.folder import ENDINGS, files

__all__ = ["calibration", "examples", "must_be_possible"]


def examples(names: Sequence[str]) -> tuple[Item, ...]:
    """The examples of the fine-tuning, also of folders, as `eftlocal tune` reads them.

    Raises EftError for files that cannot be read, for the first wrong line, and for a folder without data.
    """
    if not names:
        return ()
    named = {name: files([Path(name)])[0] for name in names}
    if bare := [name for name, found in named.items() if not found]:
        raise EftError(f"{bare[0]} is a folder without data.", f"Files of data end in {', '.join(ENDINGS)}.")
    data = read([file for found in named.values() for file in found])
    if data.problems:
        raise data.problems[0]
    return data.items


def calibration(
    emulator: Emulator, items: Sequence[Item], seen: Sequence[Item], options: Options, folder: Path | None
) -> Calibrated:
    """Calibrates the emulator, with what follows for its models.toml.

    Where there are examples of the fine-tuning (`seen`), the tokens that they do not show are written to a file of
    `folder`, and only with that file does a bias on them follow. Raises EftError.
    """
    unseen, file = None, None
    if seen and folder is not None:
        unseen = unseen_tokens(emulator, shown_tokens(emulator, seen))
        file = folder.absolute() / UNSEEN
    err = console(stderr=True)
    bar = Progress(console=err, transient=True, disable=options.quiet or not err.is_terminal)
    with cursor_comes_back(err), bar as progress:
        task = progress.add_task("Calibrating", total=None)
        found = calibrate(
            emulator,
            items,
            unseen=unseen,
            seed=options.seed,
            step=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if file is not None and unseen is not None:
        file.write_text(token_ids.text(TokenIds(emulator.vocabulary, unseen)), encoding="utf-8")
    return replace(found, toml=toml(found, emulator.rewards, file))
