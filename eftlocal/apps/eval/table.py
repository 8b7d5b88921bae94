"""What an evaluation found, as text: a table for each source and kind, and what follows in sentences."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Final

from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import ColumnFigures, Estimate, Evaluation, Group
from eftlocal.text import printable

__all__ = ["drawn"]

PIPED: Final = 110  # columns where there is no terminal
GAP: Final = 2  # spaces between columns
HEADS: Final = {  # metric -> its column's head
    "both": "both",
    "right": "right",
    "ended": "ends",
    "accuracy_sum": "acc",
    "accuracy_mean": "acc/token",
    "accuracy_bytes": "acc/byte",
    "mc1": "MC1",
    "mc2": "MC2",
    "preferred": "preferred",
    "logprob": "log p",
    "nats": "nats/token",
    "bits": "bits/byte",
    "perplexity": "perplexity",
    "length": "tokens",
    "kl_base": "KL base",
    "kl_upper": "KL upper",
    "same_base": "top=base",
    "same_upper": "top=upper",
}
# What is left out first where the terminal is narrow.
DISPENSABLE: Final = (
    *("logprob", "accuracy_bytes", "same_upper", "bits", "same_base", "kl_upper", "length", "perplexity"),
    *("kl_base", "accuracy_mean", "nats", "mc2", "ended", "right"),
)
KINDS_WITHOUT: Final = ("reward", "reference", "tuned", "upper", "base")  # of the table of kinds, where it is narrow
BOTH: Final = "both: the answer is right and ended by itself."
INTERVALS: Final = "In brackets: the 95 % interval."


def drawn(evaluation: Evaluation, width: int | None) -> str:
    """The tables and sentences, in lines of at most `width` columns; None is a pipe."""
    columns = width or PIPED
    lines: list[str] = []
    for group in evaluation.of("source") or [evaluation.all]:  # a score over different kinds of data says little
        lines += [_title(group), *_table(group, columns), ""]
    kinds = evaluation.of("kind")
    if len(kinds) > 1 or (kinds and kinds[0].n < evaluation.n):
        lines += ["By kind", *_kinds(kinds, columns), ""]
    lines += wrap(f"{BOTH} {INTERVALS}" if "both" in evaluation.all.metrics else INTERVALS, columns)
    lines += [""] if evaluation.findings else []
    for finding in evaluation.findings:
        lines += wrap(printable(finding), columns, break_long_words=False, break_on_hyphens=False)
    if evaluation.best is not None and evaluation.best.toml:
        lines += ["", "With that strength, for its emulator in models.toml:", printable(evaluation.best.toml)]
    if evaluation.calibration is not None and evaluation.calibration.toml:
        lines += ["", "Calibrated, for its emulator in models.toml:", printable(evaluation.calibration.toml)]
    if evaluation.failed:
        items = "1 item" if evaluation.failed == 1 else f"{evaluation.failed:,} items"
        lines += ["", f"{items} could not be measured; items.jsonl says why."]
    return "\n".join(lines) + "\n\n"


def _title(group: Group) -> str:
    items = f"{group.n:,} item{'' if group.n == 1 else 's'}"
    return items if group.by == "all" else f"{printable(group.name)}: {items}"


def _table(group: Group, width: int) -> list[str]:
    """The table of a group in at most `width` columns, with intervals where they fit, and without the last metrics."""
    metrics = group.metrics
    able = [metric for metric in DISPENSABLE if metric in metrics and metric != group.headline]
    for detailed in (metrics, metrics[:1]):
        if _width(rows := _rows(group, metrics, detailed)) <= width:
            return _aligned(rows)
    for left_out in range(1, len(able) + 1):
        some = [metric for metric in metrics if metric not in able[:left_out]]
        if _width(rows := _rows(group, some, some[:1])) <= width:
            return _aligned(rows)
    return _aligned(_rows(group, metrics[:1], []))


def _kinds(kinds: Sequence[Group], width: int) -> list[str]:
    """The headline of each kind in the columns that have it, or in as many as fit.

    Strengths far from 1 are left out first, then reference and tuned models, upper and base.
    """
    found = [(column, kind.headline in column.figures) for kind in kinds for column in kind.columns]
    columns = {column.column: column for column, has in found if has}
    far = sorted(
        (column for column in columns.values() if column.beta is not None),
        key=lambda column: abs((column.beta or 0) - 1),
        reverse=True,
    )[:-1]
    others = [column for role in KINDS_WITHOUT for column in reversed(columns.values()) if column.role == role]
    able = [column.column for column in (*far, *others)]
    for left_out in range(len(able) + 1):
        shown = [name for name in columns if name not in able[:left_out]]
        rows = [["", "items", "", *shown], *(_kind(kind, shown) for kind in kinds)]
        if _width(rows) <= width:
            break
    return _aligned(rows)


def _kind(kind: Group, names: Sequence[str]) -> list[str]:
    found = [kind.column(name) for name in names]
    cells = ["" if column is None else _cell(column, kind.headline, detailed=False) for column in found]
    return [printable(kind.name), f"{kind.n:,}", HEADS[kind.headline], *cells]


def _rows(group: Group, metrics: Sequence[str], detailed: Sequence[str]) -> list[list[str]]:
    """The head and a row for each column; `detailed` metrics have their intervals."""
    head = ["", *(HEADS[metric] for metric in metrics)]
    return [
        head,
        *(
            [printable(column.column), *(_cell(column, metric, detailed=metric in detailed) for metric in metrics)]
            for column in group.columns
        ),
    ]


def _cell(column: ColumnFigures, metric: str, *, detailed: bool) -> str:
    figure: Estimate | None = column.figures.get(metric)
    if figure is None:
        return ""
    share = METRICS[metric].share
    text = f"{figure.value:.1f}" if metric == "length" else _number(figure.value, share)
    if not detailed or figure.low is None or figure.high is None:
        return text
    return f"{text} ({_number(figure.low, share)}-{_number(figure.high, share)})"


def _number(value: float, share: bool) -> str:
    if share:
        return f"{value:.3f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1e5 else f"{value:.2g}"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


def _width(rows: Sequence[Sequence[str]]) -> int:
    widths = _widths(rows)
    return sum(widths) + GAP * (len(widths) - 1)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: names to the left, figures to the right."""
    first, *others = _widths(rows)
    lines = []
    for name, *cells in rows:
        figures = (f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        lines.append((" " * GAP).join((f"{name:<{first}}", *figures)).rstrip())
    return lines
