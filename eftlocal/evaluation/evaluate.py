"""Evaluation from Python: the command's figures as values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from eftlocal.decoding.settings import Dials
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.evaluation import calibrating
from eftlocal.evaluation.calibrating import shown_tokens, toml, unseen_tokens
from eftlocal.evaluation.columns import columns
from eftlocal.evaluation.data import read
from eftlocal.evaluation.drawn import drawn
from eftlocal.evaluation.items import Item, Question
from eftlocal.evaluation.likelihoods import failed
from eftlocal.evaluation.line import Line
from eftlocal.evaluation.measure import Measuring
from eftlocal.evaluation.results import Calibrated, Evaluation
from eftlocal.evaluation.summary import summary

__all__ = ["evaluate"]


def evaluate(
    emulator: Emulator,
    data: str | Path | Sequence[str | Path] | Sequence[Item],
    *,
    betas: Sequence[float] | None = None,
    roles: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    calibrate: bool = False,
    seen: Sequence[str | Path] = (),
    max_tokens: int | None = None,
    answers: Dials | None = None,
    parallel: int | None = None,
    on_line: Callable[[Line], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Evaluation:
    """Measure an emulator on data, as `eftlocal eval` does. Load it with `upper` to compare with a tuned large model.

    data      files, `demo` (the questions that ship), or items (evaluation/items.py)
    betas     strengths to measure; None is 0.5, 0.75, 1, 1.5 and 2
    roles     base, tuned, reference, emulated, upper; None is all that the emulator has
    limit     items of each source, drawn with `seed`; None is all
    seed      of what is drawn: items, the halves that choose and judge, the intervals' samples
    calibrate fit the rewards' strengths and a bias on the end of answers on half of the items, and judge on the rest
    seen      files of what the tuned model was trained on: calibrate also a bias on the tokens that they do not show
    max_tokens of an answer; None is the item's own, or 256
    answers   other settings of the answers, such as {"temperature": 0.7}; they are greedy by default
    parallel  answers that are decoded at a time
    on_line   called with each item's line, in the order of the items, as they are measured
    cancelled called before each step; when it returns True, only the items measured so far count

    An item that cannot be measured is counted as failed. Raises LineError for a line of a file that cannot be used,
    SettingError for an unknown role and where nothing was measured, and DecodeError.
    """
    items = [item for _, item in drawn(_items(data), limit, seed)]
    examples = _items(seen)
    if calibrate:
        calibrating.must_be_possible(emulator, items)
    measuring = Measuring(
        emulator,
        columns(emulator.members, roles=roles, betas=betas),
        answers={"seed": seed, **(answers or {})},
        max_tokens=max_tokens,
        parallel=parallel,
        generates=any(isinstance(item, Question) and item.check is not None for item in items),
    )
    found: list[Line] = []
    for line in _measured(measuring, items, cancelled or (lambda: False)):
        found.append(line)
        if on_line is not None:
            on_line(line)
    sources = list(dict.fromkeys(item.source for item in items))
    settings = {"data": sources, "seed": seed, "columns": list(measuring.columns)}
    calibrated = _calibrated(emulator, items, examples, seed) if calibrate and len(found) == len(items) else None
    return summary(
        found, emulator=emulator.name, rewards=emulator.rewards, settings=settings, calibration=calibrated, seed=seed
    )


def _calibrated(emulator: Emulator, items: Sequence[Item], seen: Sequence[Item], seed: int) -> Calibrated:
    unseen = unseen_tokens(emulator, shown_tokens(emulator, seen)) if seen else None
    found = calibrating.calibrate(emulator, items, unseen=unseen, seed=seed)
    return replace(found, toml=toml(found, emulator.rewards))


def _items(data: str | Path | Sequence[str | Path] | Sequence[Item]) -> Sequence[Item]:
    names = [data] if isinstance(data, str | Path) else list(data)
    items = [each for each in names if isinstance(each, Item)]
    if len(items) == len(names):
        return items
    found = read([each for each in names if not isinstance(each, Item)])
    if found.problems:
        raise found.problems[0]
    return [*items, *found.items]


def _measured(measuring: Measuring, items: Sequence[Item], cancelled: Callable[[], bool]) -> Iterator[Line]:
    """The lines in the items' order."""
    done: dict[int, Line] = {}
    begun = told = 0
    try:
        while (begun < len(items) or len(measuring)) and not cancelled():
            while begun < len(items) and measuring.room > 0:
                if (refused := measuring.add(begun, items[begun])) is not None:
                    assert isinstance(refused.line, EftError)
                    done[begun] = failed(items[begun], refused.line.message)
                begun += 1
            for number, line, _ in measuring.step() if len(measuring) else ():
                done[number] = failed(items[number], line.message) if isinstance(line, EftError) else line
            while told in done:
                yield done.pop(told)
                told += 1
        for number in sorted(done):  # those that a cancelled run measured behind one that it did not
            yield done[number]
    finally:
        measuring.close()
