"""From the lines of an evaluation to what they say: a pure function, so a run that was killed can be told again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from eftlocal.catalog.entries import Reward
from eftlocal.errors import SettingError
from eftlocal.evaluation.acts import acts_on
from eftlocal.evaluation.best import best
from eftlocal.evaluation.figures import facts, group
from eftlocal.evaluation.findings import findings
from eftlocal.evaluation.line import Line
from eftlocal.evaluation.results import Calibrated, Evaluation, Group

__all__ = ["summary"]


def summary(
    lines: Sequence[Line],
    *,
    emulator: str,
    rewards: Sequence[Reward] = (),
    settings: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    calibration: Calibrated | None = None,
    seed: int = 0,
) -> Evaluation:
    """What the lines say. Lines with an error are counted and left out; the others have the same columns.

    rewards   those of the emulator as it ran, for what follows for its models.toml
    settings  what the run was asked for, and `models` what ran: kept as they are
    Raises SettingError if nothing was measured.
    """
    able = [line for line in lines if line.columns]
    if not able:
        why = next((line.error for line in lines if line.error), "there are no items")
        raise SettingError("Nothing was measured.", f"The first error: {why}")
    groups = tuple(_groups(able, seed))
    strength, acts = best(able, rewards, seed), acts_on(able, seed)
    return Evaluation(
        emulator=emulator,
        settings=settings or {},
        models=models or {},
        n=len(able),
        failed=len(lines) - len(able),
        seed=seed,
        columns=tuple(column.column for column in groups[0].columns),
        groups=groups,
        best=strength,
        acts=acts,
        calibration=calibration,
        findings=tuple(findings(groups, strength, acts, calibration)),
    )


def _groups(lines: Sequence[Line], seed: int) -> Iterator[Group]:
    each = facts(lines)

    def some(by: Literal["all", "source", "kind"], name: str, own: Sequence[int]) -> Group:
        return group(by, name, [lines[i] for i in own], [each[i] for i in own], seed)

    yield some("all", "all items", range(len(lines)))
    sources, kinds = dict[str, list[int]](), dict[str, list[int]]()
    for i, line in enumerate(lines):
        sources.setdefault(line.source, []).append(i)
        if line.kind is not None:
            kinds.setdefault(line.kind, []).append(i)
    for name, own in sources.items() if len(sources) > 1 else ():
        yield some("source", name, own)
    for name, own in kinds.items():
        yield some("kind", name, own)
