"""The report's scores: every column with its intervals, the curve over the strength, the gap that is closed, kinds."""

from collections.abc import Iterator, Sequence
from typing import Final

from eftlocal.apps.eval.page_figures import (
    SIDES,
    change,
    explained,
    figure,
    main_columns,
    name,
    shown_groups,
)
from eftlocal.apps.eval.page_markup import Html, cell, html, joined, table
from eftlocal.apps.eval.page_plots import curve, legend, marker, scale_of, strip, ticks
from eftlocal.evaluation.figures import DEFINITIONS, role_of
from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import ColumnFigures, Evaluation, Group

__all__ = ["gaps", "kinds", "scores", "strength", "tiles"]

DISTANCES: Final = ("kl_base", "same_base", "kl_upper", "same_upper")
CURVES: Final = 4  # of a group
VERDICTS: Final = {
    **{"better": "better", "worse": "worse", "other": "other"},
    **{"unsure": "not certain", "few": "too few items to tell"},
}
TOO_MANY: Final = (
    "perplexity",
    "bits",
    "logprob",
    "accuracy_bytes",
    "accuracy_mean",
    "length",
    "right",
    "ended",
    "mc2",
)


def tiles(group: Group, columns: Sequence[ColumnFigures]) -> Html:
    """The headline of the main columns, large."""
    metric = group.headline
    parts = [
        html(
            '<div class="{own}"><dt><svg width="14" height="14" aria-hidden="true"><svg x="7" y="7" overflow="visible">'
            "{mark}</svg></svg>{name}</dt><dd>{value}</dd></div>",
            **{"own": column.role, "mark": marker(column.column), "name": name(column.column)},
            value=figure(column.figures[metric], metric),
        )
        for column in columns
        if metric in column.figures
    ]
    label = METRICS[metric].label
    text = html('<p class="note">{label}, with 95 % intervals</p>', label=label[0].upper() + label[1:])
    return html('{text}<dl class="tiles">{parts}</dl>\n', text=text, parts=joined(parts)) if parts else Html("")


def scores(evaluation: Evaluation) -> Html:
    """Each group: its headline with a picture, then all of its figures."""
    groups = shown_groups(evaluation)
    return joined(_scores(group, titled=len(groups) > 1) for group in groups)


def _scores(group: Group, *, titled: bool) -> Html:
    metric, title = group.headline, html("<h3>{text}</h3>\n", text=_title(group)) if titled else Html("")
    there = [column for column in group.columns if metric in column.figures]
    scale = scale_of([column.figures[metric] for column in there], metric)
    label = METRICS[metric].label
    heads = (
        "",
        label[0].upper() + label[1:],
        cell("against the base", kind="broad", head="col"),
        cell(ticks(metric, scale), kind="picture", head="col"),
    )
    rows = (
        (
            _row_head(column),
            cell(joined([figure(column.figures[metric], metric), _against(column, metric, "narrow")])),
            cell(_against(column, metric, "broad"), kind="broad"),
            cell(strip([(column.column, column.figures[metric])], metric, scale), kind="picture"),
        )
        for column in there
    )
    first = table(f"{group.name}: {label}", heads, (tuple(row) for row in rows), kind="mine")
    own = [each for each in group.metrics if each not in DISTANCES]
    far = [each for each in DISTANCES if any(each in column.figures for column in group.columns)]
    more = [_figures(group, own, "All figures")] if len(own) > 1 else []
    more += [_figures(group, far, "How far the emulator is from the other large models", "slim")] if far else []
    return joined([title, first, *more])


def _title(group: Group) -> str:
    return f"{group.name}: {group.n:,} item{'' if group.n == 1 else 's'}"


def _row_head(column: ColumnFigures) -> Html:
    under = "" if column.beta is not None else explained(column.column)
    more = html('<span class="under">{under}</span>', under=under) if under else Html("")
    return cell(
        html('<strong class="{own}">{name}</strong>{more}', own=column.role, name=name(column.column), more=more),
        head="row",
    )


def _against(column: ColumnFigures, metric: str, kind: str) -> Html:
    """The difference to the base, where there is one."""
    if metric not in column.to_base or column.role in ("base", "reference"):
        return Html("")
    text, verdict = change(column.to_base[metric], metric)
    value, _, sure = text.partition(" (")
    said = html('<span class="{verdict}">{value}, {said}</span>', verdict=verdict, value=value, said=VERDICTS[verdict])
    if kind == "narrow":
        return html('<span class="under narrow">{said}</span>', said=Html(said.replace(" points", " pts")))
    sure = sure.removesuffix(")")
    return html('{said}<span class="sure">{sure}</span>', said=said, sure=sure) if sure else said


def _figures(group: Group, shown: Sequence[str], title: str, kind: str = "wide") -> Html:
    columns = [column for column in group.columns if any(metric in column.figures for metric in shown)]
    heads = ("", *(METRICS[metric].label for metric in shown))
    rows = (
        (
            cell(name(column.column), head="row"),
            *(cell(figure(column.figures.get(metric), metric)) for metric in shown),
        )
        for column in columns
    )
    note = html('<p class="note"><strong>{title}</strong>, with 95 % intervals</p>', title=title)
    return joined([note, table(f"{group.name}: {title}", heads, (tuple(row) for row in rows), kind=kind)])


def strength(evaluation: Evaluation) -> Html:
    """The curves over the strength; nothing with fewer than two strengths."""
    best = None if evaluation.best is None else evaluation.best.beta
    groups = shown_groups(evaluation)
    parts = []
    for group in groups:
        curves = list(_curves(group, best, most=CURVES if len(groups) < 3 else 2))
        if curves:
            title = html("<h3>{text}</h3>\n", text=_title(group)) if len(groups) > 1 else Html("")
            parts += [title, html('<div class="curves">{curves}</div>\n', curves=joined(curves))]
    return joined(parts)


def _curves(group: Group, best: float | None, *, most: int) -> Iterator[Html]:
    able = [each for each in group.metrics if each == group.headline or each not in TOO_MANY]
    drawn = 0
    for metric in able:
        points = sorted(
            (c.beta, c.figures[metric]) for c in group.columns if c.beta is not None and metric in c.figures
        )
        sides = [(c.column, c.figures[metric]) for c in group.columns if c.role in SIDES and metric in c.figures]
        if len(points) > 1 and drawn < most:
            drawn += 1
            yield curve(metric, points, sides, best)


def gaps(evaluation: Evaluation) -> Html:
    """How much of the way to the truly tuned large model each strength goes, under both definitions."""
    parts = []
    groups = shown_groups(evaluation)
    for group in groups:
        found = {(gap.column, gap.definition): gap for gap in group.gaps if gap.metric == group.headline and gap.closed}
        columns = list(dict.fromkeys(column for column, _ in found))
        if not columns:
            continue
        heads = ("", "from the large base (proxy-tuning’s definition)", "from the small tuned model")
        rows = []
        for column in columns:
            cells = [found.get((column, definition)) for definition in DEFINITIONS]
            rows.append(
                (
                    cell(name(column), head="row"),
                    *(cell(figure(gap.closed if gap else None, "both")) for gap in cells),
                )
            )
        title = html("<h3>{text}</h3>\n", text=_title(group)) if len(groups) > 1 else Html("")
        parts += [title, table(f"{group.name}: share of the gap closed", heads, rows, kind="slim")]
    return joined(parts)


def kinds(evaluation: Evaluation) -> Html:
    """The main columns on each kind of item; nothing where no kind is written."""
    groups = evaluation.of("kind")
    best = None if evaluation.best is None else evaluation.best.beta
    parts = []
    for metric in dict.fromkeys(group.headline for group in groups):
        alike = [group for group in groups if group.headline == metric]
        columns = [[c for c in main_columns(group, best) if metric in c.figures] for group in alike]
        named = list(dict.fromkeys(column.column for each in columns for column in each))
        strengths = [column for column in named if role_of(column) == "emulated"]
        second = next((c for c in strengths[::-1] if c == f"emulated@{best:g}"), None) if len(strengths) > 1 else None
        scale = scale_of([column.figures[metric] for each in columns for column in each], metric)
        label = METRICS[metric].label
        heads = ("", *(name(column) for column in named), cell(ticks(metric, scale), kind="picture", head="col"))
        rows = []
        for group, there in zip(alike, columns, strict=True):
            items = f"{group.n:,} item{'' if group.n == 1 else 's'}"
            head = html('<strong>{name}</strong><span class="under">{n}</span>', name=group.name, n=items)
            own = {column.column: column.figures[metric] for column in there}
            rows.append(
                (
                    cell(head, head="row"),
                    *(cell(figure(own.get(column), metric)) for column in named),
                    cell(strip(list(own.items()), metric, scale, second), kind="picture"),
                )
            )
        title = html("<h3>{label}</h3>\n", label=label[0].upper() + label[1:])
        parts += [title, legend(named, second), table(f"{label}, by kind of item", heads, rows, kind="kinds")]
    return joined(parts)
