"""The report's pictures as inline SVG. Places are in per cent of the width: texts keep their size on each screen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from eftlocal.apps.eval.page_figures import interval, name, number, numeral
from eftlocal.apps.eval.page_markup import Html, html, joined
from eftlocal.evaluation.figures import role_of
from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import Estimate

__all__ = ["Scale", "bar", "curve", "legend", "marker", "nats", "scale_of", "strip", "ticks"]

HIGH: Final = 190  # pixels of a curve
APART: Final = 14  # pixels between two labels
SHAPES: Final = {  # markers differ in shape, too: base, tuned and upper are told apart without colour
    "base": '<circle class="hollow" r="4.5"/>',
    "tuned": '<rect class="hollow" x="-4" y="-4" width="8" height="8"/>',
    "reference": '<path class="hollow" d="M0-5 5 4H-5Z"/>',
    "upper": '<path class="dark" d="M0-6 6 0 0 6-6 0Z"/>',
    "reward": '<rect class="accent" x="-4" y="-4" width="8" height="8"/>',
    "emulated": '<circle class="accent" r="5"/>',
    "second": '<circle class="open" r="4.5"/>',
}


@dataclass(frozen=True, slots=True)
class Scale:
    """The ends of an axis and where its ticks are."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where on the axis a value is: 0 to 1, also for values beyond its ends."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def scale_of(estimates: Sequence[Estimate], metric: str, *, most: int = 5) -> Scale:
    """An axis with round ticks for these figures and their intervals."""
    values = [v for e in estimates for v in (e.value, e.low, e.high) if v is not None and math.isfinite(v)] or [0.0]
    low, high = min(values), max(values)
    if METRICS[metric].share and high - low > 0.3:
        return Scale(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if high - low < 1e-9:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / (most - 1)
    ten = 10 ** math.floor(math.log10(rough))
    step = next(ten * each for each in (1, 2, 2.5, 5, 10) if ten * each >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if METRICS[metric].share:
        first, last = max(first, 0), min(last, math.ceil(1 / step - 1e-9))
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _tick(value: float, metric: str) -> str:
    return f"{100 * value:g}%" if METRICS[metric].share else f"{value:g}".replace("-", "\u2212")


def marker(column: str, second: str | None = None) -> Html:
    """The marker of a column at the place (0, 0); `second` is a column whose marker is open."""
    own = "second" if column == second else role_of(column)
    return Html(SHAPES.get(own, SHAPES["base"]))


def legend(columns: Sequence[str], second: str | None = None) -> Html:
    """The markers of columns with their names; `second` as in `marker`."""
    parts = (
        html(
            '<li><svg width="14" height="14" aria-hidden="true"><svg x="7" y="7" overflow="visible">{mark}</svg></svg>'
            "{name}</li>",
            mark=marker(column, second),
            name=name(column),
        )
        for column in columns
    )
    return html('<ul class="legend">{parts}</ul>\n', parts=joined(parts))


def strip(columns: Sequence[tuple[str, Estimate]], metric: str, scale: Scale, second: str | None = None) -> Html:
    """A line with a marker for each column, and its interval; `second` as in `marker`."""
    title = "; ".join(f"{name(c)} {number(e.value, metric)} ({interval(e, metric)})" for c, e in columns)
    parts = [html('<line class="axis" x1="0" x2="100%" y1="50%" y2="50%"/>')]
    for column, estimate in columns:
        kind = "accent" if role_of(column) == "emulated" else "soft"
        if estimate.low is not None and estimate.high is not None:
            parts.append(_span(scale.share(estimate.low), scale.share(estimate.high), kind))
    for column, estimate in columns:
        at = f"{100 * scale.share(estimate.value):.2f}%"
        parts.append(html('<svg x="{at}" y="50%" overflow="visible">{m}</svg>', at=at, m=marker(column, second)))
    return html(
        '<svg class="strip" role="img" width="100%" height="24"><title>{title}</title>{parts}</svg>',
        title=title,
        parts=joined(parts),
    )


def _span(low: float, high: float, kind: str) -> Html:
    return html(
        '<line class="span {kind}" x1="{low}%" x2="{high}%" y1="50%" y2="50%"/>',
        kind=kind,
        low=f"{100 * low:.2f}",
        high=f"{100 * high:.2f}",
    )


def ticks(metric: str, scale: Scale) -> Html:
    """The ends and the middle of a strip's axis, for the head of its column."""
    shown = [scale.ticks[0], scale.ticks[len(scale.ticks) // 2], scale.ticks[-1]]
    parts = (
        html(
            '<text class="{anchor}" x="{at}%" y="11" text-anchor="{anchor}">{text}</text>',
            at=f"{100 * scale.share(value):.2f}",
            anchor="start" if value == scale.low else "end" if value == scale.high else "middle",
            text=_tick(value, metric),
        )
        for value in dict.fromkeys(shown)
    )
    return html('<svg class="ticks" width="100%" height="14" aria-hidden="true">{parts}</svg>', parts=joined(parts))


def bar(share: float, most: float, *, mark: float | None = None, title: str = "") -> Html:
    """A bar for a share of which `most` is the longest; `mark` is a line across it."""
    line = ""
    if mark is not None:
        line = html('<line class="mark" x1="{x}%" x2="{x}%" y1="1" y2="17"/>', x=f"{100 * mark / most:.2f}")
    return html(
        '<svg class="strip" role="img" width="100%" height="18"><title>{title}</title>'
        '<rect class="accent" x="0" y="5" height="8" width="{w}%" rx="1.5"/>{line}</svg>',
        **{"title": title, "w": f"{100 * share / most:.2f}", "line": line},
    )


def curve(
    metric: str,
    points: Sequence[tuple[float, Estimate]],
    sides: Sequence[tuple[str, Estimate]],
    best: float | None,
) -> Html:
    """A metric over the strength, with intervals; `sides` are columns without a strength, as lines across."""
    scale = scale_of([e for _, e in (*points, *sides)], metric)
    first, last = points[0][0], points[-1][0]
    label = METRICS[metric].label

    def x(beta: float) -> str:
        return f"{3 + 94 * (beta - first) / (last - first):.2f}%"

    def y(value: float) -> float:
        return HIGH * (1 - scale.share(value))

    parts = [
        html(
            '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
            '<text x="0" dx="-8" y="{y}" dy="4" text-anchor="end">{t}</text>',
            y=f"{y(tick):.1f}",
            t=_tick(tick, metric),
        )
        for tick in scale.ticks
    ]
    for (column, estimate), at in zip(sides, _spread([y(e.value) for _, e in sides]), strict=True):
        parts.append(
            html(
                '<line class="side {own}" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
                '<text x="100%" dx="8" y="{at}" dy="4">{name}</text>',
                **{"own": role_of(column), "y": f"{y(estimate.value):.1f}", "at": f"{at:.1f}", "name": name(column)},
            )
        )
    for beta, e in points:
        if e.low is not None and e.high is not None:
            parts.append(
                html(
                    '<line class="whisker" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>',
                    **{"x": x(beta), "low": f"{y(e.low):.1f}", "high": f"{y(e.high):.1f}"},
                )
            )
    for (beta, e), (after, f) in pairwise(points):
        parts.append(
            html(
                '<line class="line" x1="{x}" x2="{v}" y1="{y}" y2="{w}"/>',
                **{"x": x(beta), "v": x(after), "y": f"{y(e.value):.1f}", "w": f"{y(f.value):.1f}"},
            )
        )
    for beta, e in points:
        ring = html('<circle class="ring" cx="{x}" cy="{y}" r="8"/>', x=x(beta), y=f"{y(e.value):.1f}")
        dot = html('<circle class="accent" cx="{x}" cy="{y}" r="4"/>', x=x(beta), y=f"{y(e.value):.1f}")
        parts += [*([ring] if beta == best else []), dot]
    for beta in _labelled([beta for beta, _ in points]):
        parts.append(
            html('<text x="{x}" y="{y}" text-anchor="middle">{b}</text>', x=x(beta), y=HIGH + 18, b=f"{beta:g}")
        )
    told = ", ".join(f"{beta:g}: {number(e.value, metric)}" for beta, e in points)
    across = "".join(f"; {name(column)} {number(e.value, metric)}" for column, e in sides)
    return html(
        '<figure class="curve"><figcaption>{label}<span class="unit">{better}</span></figcaption><div class="plot">'
        '<svg role="img" width="100%" height="{high}" overflow="visible"><title>{title}</title>{parts}</svg>'
        "</div></figure>\n",
        label=label[0].upper() + label[1:],
        better={"higher": "higher is better", "lower": "lower is better"}.get(METRICS[metric].better or "", ""),
        title=f"{label} by strength: {told}{across}",
        high=HIGH,
        parts=joined(parts),
    )


def _spread(places: Sequence[float]) -> list[float]:
    """The places, moved apart so that labels there do not cover each other."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = list(places)
    for before, i in pairwise(order):
        found[i] = max(found[i], found[before] + APART)
    if order and (over := found[order[-1]] - HIGH) > 0:
        found[order[-1]] -= over
        for i, after in zip(order[-2::-1], order[:0:-1], strict=True):
            found[i] = min(found[i], found[after] - APART)
    return found


def _labelled(betas: Sequence[float]) -> list[float]:
    """The strengths that have room for a label: at least a ninth of the axis apart, the first ones of them."""
    found = [betas[0]]
    for beta in betas[1:]:
        if beta - found[-1] >= (betas[-1] - betas[0]) / 9:
            found.append(beta)
    return found


def nats(value: float) -> str:
    """A number of nats with its sign."""
    return numeral(value) if value < 0 else f"+{numeral(value)}"
