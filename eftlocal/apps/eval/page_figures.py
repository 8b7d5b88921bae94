"""How the report names columns and writes figures."""

from typing import Final

from eftlocal.apps.eval.page_markup import Html, html
from eftlocal.evaluation.figures import role_of
from eftlocal.evaluation.findings import FEW
from eftlocal.evaluation.metrics import METRICS
from eftlocal.evaluation.results import ColumnFigures, Estimate, Evaluation, Group

__all__ = [
    *("SIDES", "change", "explained", "figure", "interval", "main_columns", "name", "number", "numeral"),
    "shown_groups",
]

MINUS: Final = "\u2212"
ROLES: Final = {
    "base": ("Base", "the large model alone"),
    "tuned": ("Tuned", "the small fine-tuned model alone"),
    "reference": ("Reference", "the small model before that"),
    "upper": ("Upper", "the large model, truly fine-tuned"),
    "reward": ("Pair", "the pair’s own ranking"),
    "emulated": ("Emulated", "base and pair together"),
}
SIDES: Final = ("base", "tuned", "upper")  # beside emulated columns, where there is little room


def name(column: str) -> str:
    """A column as people read it."""
    own, explained = role_of(column), ROLES.get(role_of(column))
    if explained is None:
        return column
    if own == "emulated":
        return f"Emulated {column.partition('@')[2]}".strip()
    reward = column.partition(":")[2]
    return f"{explained[0]} {reward}" if reward else explained[0]


def explained(column: str) -> str:
    """What a column is, in a few words."""
    own = role_of(column)
    if own == "emulated" and "@" in column:
        return f"strength {column.partition('@')[2]}"
    return ROLES[own][1] if own in ROLES else ""


def number(value: float, metric: str) -> str:
    """A metric's value: a share in per cent, another figure with three digits."""
    if METRICS[metric].share:
        return f"{_signed(f'{100 * value:.1f}')}%"
    return numeral(value)


def numeral(value: float) -> str:
    """A figure with three or four digits."""
    size = abs(value)
    if size >= 1e5:
        return _signed(f"{value:.2g}")
    digits = 4 if 0 < size < 0.0995 else 3 if size < 10 else 1
    return _signed(f"{value:.{digits}f}")


def _signed(text: str) -> str:
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def interval(estimate: Estimate, metric: str) -> str:
    """`12.1–20.3%`; "" where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{number(estimate.low, metric).removesuffix('%')} – {number(estimate.high, metric)}"


def figure(estimate: Estimate | None, metric: str) -> Html:
    """A figure over its interval."""
    if estimate is None:
        return html('<span class="none">–</span>')
    sure = interval(estimate, metric)
    under = html('<span class="sure">{sure}</span>', sure=sure) if sure else Html("")
    return html("{value}{under}", value=number(estimate.value, metric), under=under)


def change(estimate: Estimate, metric: str) -> tuple[str, str]:
    """A difference with its sign and interval, and what it says: better, worse, other, unsure, or few (items)."""
    share = METRICS[metric].share
    unit = " points" if share else ""

    def signed(value: float) -> str:
        if share:
            text = f"{100 * value:+.1f}"
        else:
            text = f"{value:+.5f}" if abs(value) < 0.00995 else f"{value:+.3f}" if abs(value) < 10 else f"{value:+.1f}"
        return text.replace("-", MINUS)

    if estimate.low is None or estimate.high is None:
        return f"{signed(estimate.value)}{unit}", "few"
    text = f"{signed(estimate.value)}{unit} ({signed(estimate.low)} to {signed(estimate.high)})"
    better = METRICS[metric].better
    if estimate.n < FEW:
        return text, "few"
    if estimate.low <= 0 <= estimate.high:
        return text, "unsure"
    if better is None:
        return text, "other"
    return text, "better" if (estimate.value > 0) == (better == "higher") else "worse"


def shown_groups(evaluation: Evaluation) -> list[Group]:
    """Each source, since a score over different kinds of data says little; else all items."""
    return list(evaluation.of("source")) or [evaluation.all]


def main_columns(group: Group, best: float | None) -> list[ColumnFigures]:
    """The base, the tuned model, the emulator at the strength nearest to 1 and at the best one, and the upper model."""
    strengths = [column for column in group.columns if column.beta is not None]
    near = min(strengths, key=lambda column: abs((column.beta or 0) - 1), default=None)
    chosen = [column for column in strengths if column is near or column.beta == best]
    first = [column for column in group.columns if column.role in ("base", "tuned")]
    return [*first, *chosen, *(column for column in group.columns if column.role == "upper")]
