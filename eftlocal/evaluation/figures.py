"""The figures of a group of lines: each column's metrics with intervals, differences, and the gap that is closed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from eftlocal.evaluation.intervals import Floats, percentiles, resampled, wilson
from eftlocal.evaluation.line import Answered, Apart, Chosen, Column, Likelihood, Line, Preferred, column_beta
from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import ColumnFigures, Estimate, Gap, Group

__all__ = ["DEFINITIONS", "Facts", "facts", "group", "likelihood", "role_of"]

# Each of their items counts 0, 1, or a half for a tie, so Wilson's interval is theirs.
COUNTED: Final = frozenset(
    {"both", "right", "ended", "accuracy_sum", "accuracy_mean", "accuracy_bytes", "mc1", "preferred"}
)
LOG_2: Final = math.log(2)
NOT_GAPPED: Final = frozenset({"perplexity", "length", "kl_base", "kl_upper", "same_base", "same_upper"})
DEFINITIONS: Final[Mapping[Literal["proxy-tuning", "from the small tuned model"], str]] = {
    "proxy-tuning": "base",
    "from the small tuned model": "tuned",
}


Fact = tuple[float, float]
"""What one item adds to a metric: the metric is the sum of the first over the items, divided by that of the second."""

Facts = Mapping[str, Mapping[str, Fact]]
"""Column -> metric -> what one item adds to it."""


@dataclass(frozen=True, slots=True)
class _Figure:
    """A metric of a column: its value, and its values over resamples; None where one item cannot be resampled."""

    value: float
    samples: Floats | None
    total: float
    n: int

    def estimate(self, metric: str) -> Estimate:
        if metric in COUNTED:
            return Estimate(self.value, *wilson(self.total, self.n), self.n)
        return _estimate(self.value, self.samples, self.n)

    def less(self, other: "_Figure") -> Estimate:
        """This figure minus another one over the same items."""
        with np.errstate(invalid="ignore"):
            both = None if self.samples is None or other.samples is None else self.samples - other.samples
            return _estimate(float(np.subtract(self.value, other.value)), both, self.n)


def facts(lines: Sequence[Line]) -> list[Facts]:
    """What each line adds to each metric of each column."""
    several = frozenset(line.source for line in lines if len(line.right) > 1)
    return [_facts(line, several) for line in lines]


def group(
    by: Literal["all", "source", "kind"], name: str, lines: Sequence[Line], facts: Sequence[Facts], seed: int
) -> Group:
    """The figures of these lines (at least one, each with columns). `facts` are theirs."""
    found = _figures(facts, seed, f"{by} {name}")
    columns = tuple(found)
    headline = next((metric for metric in METRICS if any(metric in figures for figures in found.values())), "nats")
    base, tuned = found.get("base", {}), next((found[c] for c in columns if role_of(c) == "tuned"), {})
    shapes = [line.shape for line in lines]
    return Group(
        by=by,
        name=name,
        n=len(lines),
        shapes={shape: shapes.count(shape) for shape in dict.fromkeys(shapes)},
        headline=headline,
        columns=tuple(
            ColumnFigures(
                column=column,
                role=role_of(column),
                beta=column_beta(column),
                figures={metric: figure.estimate(metric) for metric, figure in found[column].items()},
                to_base=_differences(found[column], base),
                to_tuned=_differences(found[column], tuned),
            )
            for column in columns
        ),
        gaps=tuple(_gaps(found)),
    )


def role_of(column: str) -> str:
    """The role of a column: base, tuned, reference, emulated, upper or reward."""
    return column.partition("@")[0].partition(":")[0]


def likelihood(line: Line, column: Column) -> tuple[float, int, int] | None:
    """The log-probability, tokens and bytes of what is right: a first answer, the first right choice, the chosen answer
    (its bytes are not known: 0) or a text. None where the column has none.
    """
    match column:
        case Answered(likelihood=None):
            return None
        case Answered(likelihood=Likelihood() as found) | (Likelihood() as found):
            return found.logprob, found.tokens, found.bytes
        case Chosen():
            first = min(line.right)
            return column.logprobs[first], column.tokens[first], column.bytes[first]
        case Preferred():
            return column.chosen, column.tokens[0], 0
    raise AssertionError(column)


# --- what one item says -----------------------------------------------------------------------------------------------


def _facts(line: Line, several: AbstractSet[str]) -> dict[str, dict[str, Fact]]:
    """Column -> metric -> fact. `several`: the sources of which items have several right choices."""
    found: dict[str, dict[str, Fact]] = {}
    for name, column in line.columns.items():
        facts = found[name] = {}
        match column:
            case Answered():
                facts.update(_answered(column))
            case Chosen():
                facts.update(_truth(line, column) if line.source in several else _accuracy(line, column))
            case Preferred():
                facts["preferred"] = _ranks(column.chosen - column.rejected)
            case Likelihood():
                pass
        facts.update(_losses(line, column))
        facts.update(_apart(column.apart))
    if line.shape == "preference":
        found |= {name: {"preferred": _ranks(margin)} for name, margin in _margins(line)}
    return found


def _answered(column: Answered) -> Iterator[tuple[str, Fact]]:
    if column.right is not None:
        yield "right", (column.right, 1)
    if column.ended is not None:
        yield "ended", (column.ended, 1)
    if column.right is not None and column.ended is not None:
        yield "both", (column.right and column.ended, 1)
    if column.length is not None:
        yield "length", (column.length, 1)
    if column.likelihood is not None:
        yield "logprob", (column.likelihood.logprob, 1)


def _accuracy(line: Line, column: Chosen) -> Iterator[tuple[str, Fact]]:
    """The likeliest choice is the right one, as lm-evaluation-harness counts it (acc; acc_norm is by bytes)."""
    ones = (1,) * len(column.logprobs)
    for metric, lengths in (("accuracy_sum", ones), ("accuracy_mean", column.tokens), ("accuracy_bytes", column.bytes)):
        scores = [logprob / (n or 1) for logprob, n in zip(column.logprobs, lengths, strict=True)]
        yield metric, (scores.index(max(scores)) in line.right, 1)


def _truth(line: Line, column: Chosen) -> Iterator[tuple[str, Fact]]:
    """TruthfulQA's two measures (arXiv 2109.07958). MC1: the best answer, which is the first right one, is likelier
    than all wrong ones. MC2: the share of probability on all right ones."""
    logprobs, best, peak = column.logprobs, min(line.right), max(column.logprobs)
    yield "mc1", (all(logprobs[best] > logprob for i, logprob in enumerate(logprobs) if i not in line.right), 1)
    mass = [math.exp(logprob - peak) for logprob in logprobs]
    yield "mc2", (sum(mass[i] for i in line.right) / sum(mass), 1)


def _losses(line: Line, column: Column) -> Iterator[tuple[str, Fact]]:
    if (found := likelihood(line, column)) is not None:
        logprob, tokens, size = found
        yield "nats", (-logprob, tokens)
        yield "perplexity", (-logprob, tokens)  # its exponential: see _figures
        if size:
            yield "bits", (-logprob / LOG_2, size)


def _apart(apart: Apart | None) -> Iterator[tuple[str, Fact]]:
    if apart is not None and apart.positions:
        for name in ("kl_base", "same_base", "kl_upper", "same_upper"):
            if (value := getattr(apart, name)) is not None:
                yield name, (value, apart.positions)


def _margins(line: Line) -> Iterator[tuple[str, float]]:
    """The column of each reward, and by how many nats it prefers the chosen answer: log p_tuned - log p_reference."""
    for name, tuned in line.columns.items():
        if role_of(name) != "tuned":
            continue
        reference = line.columns.get(name.replace("tuned", "reference", 1))
        if isinstance(tuned, Preferred) and isinstance(reference, Preferred):
            margin = (tuned.chosen - reference.chosen) - (tuned.rejected - reference.rejected)
            yield name.replace("tuned", "reward", 1), margin


def _ranks(margin: float) -> Fact:
    return (0.5 if margin == 0 else float(margin > 0)), 1


# --- what all items say -----------------------------------------------------------------------------------------------


def _figures(facts: Sequence[Facts], seed: int, name: str) -> dict[str, dict[str, _Figure]]:
    """Column -> metric -> figure. All columns of a metric go over the same items: those that have it in all of them."""
    columns = dict.fromkeys(column for each in facts for column in each)
    by_items: dict[tuple[int, ...], list[tuple[str, str]]] = {}  # items -> (metric, column) that go over them
    for metric in METRICS:
        able = [c for c in columns if any(metric in each.get(c, {}) for each in facts)]
        items = tuple(i for i, each in enumerate(facts) if all(metric in each.get(c, {}) for c in able))
        if able and items:
            by_items.setdefault(items, []).extend((metric, column) for column in able)
    found: dict[str, dict[str, _Figure]] = {column: {} for column in columns}
    for items, figures in by_items.items():
        values = np.array([[facts[i][column][metric] for metric, column in figures] for i in items], np.float64)
        sums = values.sum(axis=0)  # (figures, 2)
        drawn = (
            resampled(values.reshape(len(items), -1), seed, name).reshape(-1, len(figures), 2) if items[1:] else None
        )
        for k, (metric, column) in enumerate(figures):
            samples = None if drawn is None else _ratio(metric, drawn[:, k])
            value = float(_ratio(metric, sums[None, k])[0])
            found[column][metric] = _Figure(value, samples, float(sums[k, 0]), len(items))
    return {column: {metric: own[metric] for metric in METRICS if metric in own} for column, own in found.items()}


def _ratio(metric: str, sums: Floats) -> Floats:
    """(n,) a metric's values from (n, 2) sums."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: Floats = sums[:, 0] / sums[:, 1]
        return np.exp(found) if metric == "perplexity" else found


def _estimate(value: float, samples: Floats | None, n: int) -> Estimate:
    low, high = (None, None) if samples is None else percentiles(samples)
    return Estimate(value, low, high, n)


def _differences(figures: Mapping[str, _Figure], others: Mapping[str, _Figure]) -> dict[str, Estimate]:
    if figures is others:
        return {}
    return {metric: figure.less(others[metric]) for metric, figure in figures.items() if metric in others}


def _gaps(found: Mapping[str, Mapping[str, _Figure]]) -> Iterator[Gap]:
    """Each emulated column's way to the truly tuned large model, from both starts."""
    for metric in (metric for metric in METRICS if metric not in NOT_GAPPED):
        end = found.get("upper", {}).get(metric)
        for column, figures in found.items():
            if end is None or role_of(column) != "emulated" or metric not in figures:
                continue
            for definition, role in DEFINITIONS.items():
                if (start := found.get(role, {}).get(metric)) is not None:
                    closed = _closed(metric, figures[metric], start, end)
                    yield Gap(
                        column=column,
                        metric=metric,
                        definition=definition,
                        start=start.value,
                        end=end.value,
                        closed=closed,
                    )


def _closed(metric: str, column: _Figure, start: _Figure, end: _Figure) -> Estimate | None:
    """The share of the way; None unless the end is better than the start with 95 % certainty."""
    sign = 1 if METRICS[metric].better == "higher" else -1
    way = end.less(start)
    if way.low is None or way.high is None or not min(sign * way.low, sign * way.high) > 0:
        return None
    assert column.samples is not None and start.samples is not None and end.samples is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        samples = (column.samples - start.samples) / (end.samples - start.samples)
    value = (column.value - start.value) / (end.value - start.value)
    return _estimate(value, samples[np.isfinite(samples)], column.n)  # in a few resamples, both ends may be equal
