"""What follows from the figures, in sentences: whether the pair helps, at which strength, and on what."""

from collections.abc import Iterator, Sequence
from typing import Final

from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import ActsOn, Best, Calibrated, ColumnFigures, Estimate, Group

__all__ = ["FEW", "findings", "shown"]

NOT_SURE: Final = "No difference from {} is certain."
TUNED: Final = "the small tuned model"
TOO_FEW: Final = "There are too few items to tell it from {}."
MANY: Final = 3  # kinds that are told one by one
FEW: Final = 10  # with fewer items, resamples of them are too alike for an interval to mean what it says


def findings(
    groups: Sequence[Group], strength: Best | None, acts: ActsOn | None, calibration: Calibrated | None
) -> Iterator[str]:
    """The sentences, the most important first."""
    yield from _helps(groups[0], "")
    yield from _gap(groups[0])
    kinds = [group for group in groups if group.by == "kind"]
    if len(kinds) <= MANY:
        for group in kinds:
            yield from _helps(group, f"On {group.name}, ")
    else:
        yield from _by_kind(kinds)
    yield from _knowledge_and_behaviour(kinds)
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
    texts = [f"{column.column} {shown(metric, column.figures[metric])}"]
    verdicts: dict[str, list[str]] = {}
    for name, theirs, change in _others(group, column):
        texts.append(f"{name} {shown(metric, theirs.figures[metric])}")
        verdicts.setdefault(_verdict(METRICS[metric].better, change), []).append(name)
    label = METRICS[metric].label
    told = " ".join(_told(verdict, names) for verdict, names in verdicts.items())
    yield f"{head}{label if head else label[0].upper() + label[1:]}: {', '.join(texts)}. {told}".strip()


def _others(group: Group, column: ColumnFigures) -> Iterator[tuple[str, ColumnFigures, Estimate]]:
    """The base and the small tuned model: name, figures, and what the column has more than they on the headline."""
    tuned = next((each for each in group.columns if each.role == "tuned"), None)
    _, _, reward = ("", "", "") if tuned is None else tuned.column.partition(":")
    small = TUNED + (f" of {reward}" if reward else "")  # with several rewards, the first one's
    others = (("the base", group.column("base"), column.to_base), (small, tuned, column.to_tuned))
    for name, theirs, differences in others:
        if theirs is not None and group.headline in differences:
            yield name, theirs, differences[group.headline]


def _verdict(better: str | None, change: Estimate) -> str:
    """A sentence with a place for the other's name."""
    if change.low is None or change.high is None or change.n < FEW:
        return f"{change.n} item{'s are' if change.n != 1 else ' is'} too few to tell it from {{}}."
    if change.low <= 0 <= change.high:
        return NOT_SURE
    up = change.value > 0
    if better is None:
        return f"It is {'above' if up else 'below'} {{}}."
    return f"It is {'better' if up == (better == 'higher') else 'worse'} than {{}}."


def _knowledge_and_behaviour(kinds: Sequence[Group]) -> Iterator[str]:
    """What the EFT paper claims, on items that say what they are about."""
    by_name = {group.name.lower(): group for group in kinds}
    behaviour, knowledge = by_name.get("behaviour", by_name.get("behavior")), by_name.get("knowledge")
    if behaviour is None or knowledge is None:
        return
    told = []
    for name, group, other in (("behaviour", behaviour, "the base"), ("knowledge", knowledge, TUNED)):
        column = configured(group)
        changes = [] if column is None else [(who, change) for who, _, change in _others(group, column)]
        who, change = next(((who, change) for who, change in changes if who.startswith(other)), (other, None))
        if change is None or change.n < FEW:
            return
        sign = -1 if METRICS[group.headline].better == "lower" else 1
        told.append(f"{name} {_gained(group.headline, change, sign)} over {who}")
    yield (
        "Size brings knowledge and fine-tuning brings behaviour (EFT, arXiv 2310.12962), so an emulator should gain "
        f"both. Here it gains {' and '.join(told)}."
    )


def _gained(metric: str, change: Estimate, sign: int) -> str:
    share = METRICS[metric].share

    def number(value: float) -> str:
        return f"{100 * value:+.1f} points" if share else f"{value:+.3g} {METRICS[metric].unit}"

    if change.low is None or change.high is None:
        return number(sign * change.value)
    low, high = sorted((sign * change.low, sign * change.high))
    return f"{number(sign * change.value)} ({number(low).split()[0]} to {number(high).split()[0]})"


def _by_kind(kinds: Sequence[Group]) -> Iterator[str]:
    """Where there are many kinds: on which of them the emulator is better than the base and the small tuned model."""
    found: dict[str, dict[str, list[str]]] = {}  # other -> verdict -> kinds
    emulated = "it"
    for group in kinds:
        if (column := configured(group)) is not None:
            emulated = column.column
            for name, _, change in _others(group, column):
                few = change.low is None or change.high is None or change.n < FEW
                verdict = TOO_FEW if few else _verdict(METRICS[group.headline].better, change)
                found.setdefault(name, {}).setdefault(verdict, []).append(group.name)
    others: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # verdict, kinds -> others of which both are true
    for name, verdicts in found.items():
        for verdict, names in verdicts.items():
            others.setdefault((verdict, tuple(names)), []).append(name)
    for (verdict, some), of in others.items():
        where = f"all {len(kinds)} kinds" if len(some) == len(kinds) else _joined(some, "and")
        said = _told(verdict, of)
        yield f"On {where}, {said[0].lower()}{said[1:]}".replace(", it is", f", {emulated} is", 1)


def _told(verdict: str, names: Sequence[str]) -> str:
    """A verdict with the names of what it compares with."""
    return verdict.format(_joined(names, "or" if verdict in (NOT_SURE, TOO_FEW) else "and"))


def _joined(names: Sequence[str], word: str) -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


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
    if not found.helps:
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
    betas = [f"strength {beta:.3g} for {name}" for name, beta in found.betas.items()]
    numbers = [*betas, f"a bias of {found.end:+.2g} on the end of answers"]
    if found.unseen is not None:
        numbers.append(f"one of {found.unseen:+.2g} on tokens that the fine-tuning never showed")
    if found.helps:
        return f"Calibration helps: {change}. It found {_joined(numbers, 'and')}."
    return f"Calibration does not surely help: {change}, with {_joined(numbers, 'and')}. Leave the emulator as it is."
