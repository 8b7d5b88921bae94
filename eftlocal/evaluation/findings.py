"""What follows from the figures, in sentences: whether the pair helps, at which strength, and on what."""

from collections.abc import Iterator, Sequence
from typing import Final

from eftlocal.evaluation.results import METRICS, ActsOn, Best, Calibrated, ColumnFigures, Estimate, Group

__all__ = ["findings", "shown"]

FEW: Final = 10  # with fewer items, resamples of them are too alike for an interval to mean what it says


def findings(
    groups: Sequence[Group], strength: Best | None, acts: ActsOn | None, calibration: Calibrated | None
) -> Iterator[str]:
    """The sentences, the most important first."""
    yield from _helps(groups[0], "")
    yield from _gap(groups[0])
    for group in groups:
        if group.by == "kind":
            yield from _helps(group, f"On {group.name}: ")
    if strength is not None:
        yield from _best(strength)
    if calibration is not None:
        yield _calibrated(calibration)
    if acts is not None and acts.warning is not None:
        yield acts.warning


def shown(metric: str, figure: Estimate) -> str:
    """A figure as text: a share in per cent, others with three digits; its interval where there is one."""
    share = METRICS[metric].share
    value = _number(figure.value, share)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({_number(figure.low, share)} to {_number(figure.high, share)})"


def _number(value: float, share: bool) -> str:
    return f"{value:.1%}" if share else f"{value:.3g}"


def configured(group: Group) -> ColumnFigures | None:
    """The emulator as it is configured; where that was not measured, the strength nearest to it."""
    strengths = [column for column in group.columns if column.beta is not None]
    return min(strengths, key=lambda column: abs((column.beta or 0) - 1), default=None)


def _helps(group: Group, head: str) -> Iterator[str]:
    """How the emulator compares with the base and with the small tuned model on the headline metric."""
    column, metric = configured(group), group.headline
    if column is None or metric not in column.figures:
        return
    tuned = next((each.column for each in group.columns if each.role == "tuned"), None)
    others = (("the base", group.column("base"), column.to_base), ("the small tuned model", tuned, column.to_tuned))
    texts, verdicts = [f"{column.column} {shown(metric, column.figures[metric])}"], []
    for name, place, differences in others:
        theirs = group.column(place) if isinstance(place, str) else place
        if theirs is not None and metric in differences:
            texts.append(f"{name} {shown(metric, theirs.figures[metric])}")
            verdicts.append(_verdict(METRICS[metric].better, differences[metric], name))
    label = METRICS[metric].label
    yield f"{head}{label if head else label[0].upper() + label[1:]}: {', '.join(texts)}. {' '.join(verdicts)}".strip()


def _verdict(better: str | None, change: Estimate, other: str) -> str:
    if change.low is None or change.high is None or change.n < FEW:
        return f"{change.n} item{'s are' if change.n != 1 else ' is'} too few to tell it from {other}."
    if change.low <= 0 <= change.high:
        return f"No difference from {other} is certain."
    up = change.value > 0
    if better is None:
        return f"It is {'more' if up else 'less'} than {other}'s."
    return f"It is {'better' if up == (better == 'higher') else 'worse'} than {other}."


def _gap(group: Group) -> Iterator[str]:
    column = configured(group)
    for gap in group.gaps:
        if column is not None and gap.column == column.column and gap.metric == group.headline and gap.closed:
            start = "the large base" if gap.definition == "proxy-tuning" else "the small tuned model"
            figure = gap.closed
            sure = "" if figure.low is None or figure.high is None else f" ({figure.low:.0%} to {figure.high:.0%})"
            yield (
                f"{gap.column} closes {figure.value:.0%}{sure} of the gap from {start} to the truly tuned large model "
                f"in {METRICS[gap.metric].label}."
            )


def _best(found: Best) -> Iterator[str]:
    part = f"{found.n_chose} items chose and {found.n_judged} judged"
    better = found.to_base is not None and found.to_base.high is not None and found.to_base.high < 0
    if found.beta == 0 or not better:
        yield f"No strength makes right {found.over} surely likelier than the base does ({part}): leave the pair."
        return
    text = f"The best strength for right {found.over} is {found.beta:g} ({part})."
    if found.to_one is not None and found.to_one.high is not None:
        sure = found.to_one.high < 0
        text += " It is better than 1." if sure else " That it is better than 1 is not certain."
    if found.edge:
        text += " It is at the edge of what was measured: try strengths beyond it."
    yield text


def _calibrated(found: Calibrated) -> str:
    change = f"{found.before.value:.4g} to {found.after.value:.4g} nats a token on {found.n_judged} other items"
    if found.helps:
        return f"Calibration helps: {change}."
    return f"Calibration does not surely help ({change}): leave the emulator as it is."
