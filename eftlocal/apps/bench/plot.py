"""Draws a bench report with matplotlib (an extra): each way to decode as a bar, and the sweeps as lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eftlocal.apps.bench.report import Report, counted
from eftlocal.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Bar", "Panel", "bars", "check", "draw", "panels"]

SUFFIXES: Final = (".png", ".svg", ".pdf")
GREY, LIGHT, BLUE, GREEN, RED = "#8c8c8c", "#8fc1e3", "#1f6fb2", "#2a9d6f", "#c8442b"
COLOURS: Final = {"base_alone": GREY, "sequential": LIGHT, "concurrent": BLUE}  # drafts are green


@dataclass(frozen=True, slots=True)
class Bar:
    """One way to decode.

    way           its key in the report
    label         its name in the picture
    tokens_per_s  its speed
    of_base       its speed divided by that of the base by itself
    of_plain      its speed divided by that of emulation without drafts
    limit         tokens/s if only its decodes took time; None without drafts
    """

    way: str
    label: str
    tokens_per_s: float
    of_base: float
    of_plain: float
    limit: float | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One sweep: milliseconds for a token of the base by itself and of the emulation, at each `x`."""

    title: str
    x: tuple[int, ...]
    base_alone: tuple[float, ...]
    concurrent: tuple[float, ...]


def check(path: Path) -> None:
    """Raises SettingError if no picture can be drawn to `path`. Call it before anything is measured."""
    if path.suffix.lower() not in SUFFIXES:
        raise SettingError(f"--plot has {path}; its name must end in .png, .svg or .pdf.")
    if find_spec("matplotlib") is None:  # not imported yet, so that it does not count in the peak memory
        raise SettingError("A plot needs matplotlib, which is not installed.", "pip install 'eftlocal[plot]'")
    there = path.exists()
    try:
        with path.open("ab"):  # only opening it tells whether it can be written
            pass
        if not there:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from None


def bars(report: Report) -> list[Bar]:
    """A bar for each way that was measured, in the report's order."""
    return [
        Bar(
            way,
            f"drafts, {way.removeprefix('draft_')}" if way.startswith("draft_") else way.replace("_", " "),
            rate,
            report.ratio(way, "base_alone"),
            report.ratio(way, "concurrent"),
            report.limit.get(way),
        )
        for way, rate in report.tokens_per_s.items()
    ]


def panels(report: Report) -> list[Panel]:
    """A panel for each sweep that was made."""
    threads, ctx = report.sweeps.threads, report.sweeps.ctx
    found = []
    if threads:
        points = [(cost.threads, cost.base_alone, cost.concurrent) for cost in threads]
        found.append(Panel("threads", *zip(*points, strict=True)))
    if ctx:
        points = [(cost.ctx, cost.base_alone, cost.concurrent) for cost in ctx]
        found.append(Panel("tokens in the context", *zip(*points, strict=True)))
    return found


def draw(report: Report, path: Path) -> None:
    """Draw the report to `path`. Raises SettingError if it cannot be written."""
    from matplotlib.figure import Figure  # not pyplot: it has no window and no global state

    ways, sweeps = bars(report), panels(report)
    heights = [0.42 * len(ways) + 1.1, *([2.8] if sweeps else [])]
    figure = Figure(figsize=(9.0, sum(heights) + 0.5), dpi=150, layout="constrained")
    rows = figure.add_gridspec(len(heights), max(1, len(sweeps)), height_ratios=heights)
    _draw_bars(figure.add_subplot(rows[0, :]), ways)
    for i, panel in enumerate(sweeps):
        _draw_lines(figure.add_subplot(rows[1, i]), panel)
    figure.suptitle(_title(report), fontsize=11, parse_math=False)
    try:
        figure.savefig(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _title(report: Report) -> str:
    return f"{report.emulator}: {counted(report.threads, 'thread')}\n{report.machine}"


def _draw_bars(axes: "Axes", ways: Sequence[Bar]) -> None:
    places = range(len(ways))
    axes.barh(places, [bar.tokens_per_s for bar in ways], color=[COLOURS.get(bar.way, GREEN) for bar in ways])
    limits = [(bar.limit, i) for i, bar in enumerate(ways) if bar.limit is not None]
    if limits:
        x, y = zip(*limits, strict=True)
        axes.plot(x, y, "|", color=RED, markersize=18, markeredgewidth=2, label="limit: only the decodes take time")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8, markerscale=0.6)
    longest = max([bar.tokens_per_s for bar in ways] + [limit for limit, _ in limits])
    axes.set_xlim(0, 1.4 * longest)  # leaves room for columns of numbers on the right
    axes.spines["bottom"].set_bounds(0, longest)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= longest])
    axes.set_xlabel("tokens/s", loc="left")
    columns = {
        "tokens/s": [f"{bar.tokens_per_s:.1f}" for bar in ways],
        "/ base": [f"{bar.of_base:.2f}" for bar in ways],
        "/ plain": [f"{bar.of_plain:.2f}" for bar in ways],
    }
    place = axes.get_yaxis_transform()  # x in widths of the axes, y in bars
    for x_end, (title, texts) in zip((0.83, 0.915, 1.0), columns.items(), strict=True):
        axes.text(x_end, -0.75, title, transform=place, ha="right", va="center", fontsize=9, color=GREY)
        for i, text in enumerate(texts):
            axes.text(x_end, i, text, transform=place, ha="right", va="center", fontsize=9)
    axes.set_yticks(places, [bar.label for bar in ways])
    axes.set_ylim(len(ways) - 0.5, -0.5)  # the first on top
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lines(axes: "Axes", panel: Panel) -> None:
    axes.plot(panel.x, panel.base_alone, "o-", color=GREY, label="base alone")
    axes.plot(panel.x, panel.concurrent, "o-", color=BLUE, label="emulation")
    axes.set_xscale("log", base=2)
    axes.set_xticks(panel.x, [str(x) for x in panel.x])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(panel.title)
    axes.set_ylabel("ms a token")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _unwritable(path: Path, error: OSError) -> SettingError:
    return SettingError(f"--plot has {path}, which cannot be written: {error.strerror or error}.")
