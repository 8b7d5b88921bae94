"""The tables of docs/tuning-study.md, from the results' files."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from .lab import BETAS
from .results import Results, Run, grouped, spread, table
from .trials import FROM, RATES, TO

Kind = tuple[Any, ...]
DEMO = ("n", "consistent", "method")


def read(folder: Path, name: str) -> list[Run]:
    return Results(folder / f"{name}.jsonl").runs


def figure(name: str, part: str = "development", unit: int = 0) -> Callable[[Run], float]:
    """A run's figure. name: alone or a beta; unit: 0 of a whole answer, 1 of a token, 2 the share that is exact."""
    return lambda run: float(run["measured"][part][name][unit])


def drift(name: str) -> Callable[[Run], float]:
    return lambda run: float(run["drift"][name])


def aim(run: Run) -> str:
    """What a run is trained for: the emulator, or the small model alone."""
    return "1" if run["setting"]["consistent"] else "alone"


# --- choices ----------------------------------------------------------------------------------------------------------


def best_rates(runs: Iterable[Run], by: tuple[str, ...], name: str = "1") -> dict[Kind, float]:
    """For each group, the rate whose mean is best on the development questions."""
    found = {}
    for kind, group in grouped(runs, by).items():
        means = {lr: statistics.fmean(map(figure(name), some)) for (lr,), some in grouped(group, ["lr"]).items()}
        found[kind] = max(means, key=lambda lr: means[lr])
    return found


def best_beta(runs: Iterable[Run]) -> str:
    """The beta whose mean is best on the development questions."""
    runs = list(runs)
    return max((f"{b:g}" for b in BETAS), key=lambda b: statistics.fmean(map(figure(b), runs)))


def final(chosen: list[Run], by: tuple[str, ...], name: str, runs: list[Run]) -> str:
    """Final figures on the held-out questions, at the rates that `chosen` says by its development questions."""
    rates = best_rates(chosen, by)
    heads = [*by, "lr", "runs", "emulated, beta 1", "a token", "exact", "best beta", "emulated with it"]
    heads += ["small alone", "a token", "exact", "drift: documents", "conversations"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for kind, group in grouped(runs, by).items():
        mine = [run for run in group if run["setting"]["lr"] == rates.get(kind)]
        if not mine:
            continue
        beta = best_beta(mine)
        columns = [figure("1", name), figure("1", name, 1), figure("1", name, 2)]
        more = [figure(beta, name), *(figure("alone", name, u) for u in (0, 1, 2))]
        more += [drift("documents"), drift("conversations")]
        cells = [*map(str, kind), f"{rates[kind]:g}", str(len(mine))]
        cells += [spread([c(run) for run in mine]) for c in columns] + [beta]
        cells += [spread([c(run) for run in mine]) for c in more]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- the trial --------------------------------------------------------------------------------------------------------


def trial_table(trials: list[Run], whole: list[Run], by: tuple[str, ...], unit: int) -> str:
    """How much worse than the best of the grid a run is with the rate that each way finds: mean, median, largest."""
    regrets: dict[str, list[float]] = {}
    grids = {kind: _grid(group, unit) for kind, group in grouped(whole, (*by, "seed")).items()}
    for (*kind, seed), (run, *_) in grouped(trials, (*by, "seed")).items():
        grid = grids.get((*kind, seed), {})
        if len(grid) < 3:
            continue
        best = min(grid.values())
        setting = run["setting"]
        steps_of = max(
            1, round(setting["epochs"] * math.ceil(setting["n"] * (1 - setting["share"]) / setting["batch"]))
        )
        found = {f"constant {lr:g}": lr for lr in grid}
        for steps, losses in run["short"].items():
            lr = RATES[min(range(len(RATES)), key=lambda i: losses[i])]
            found[f"short runs of {steps}, best"] = lr
            found[f"short runs of {steps}, by the root"] = lr * math.sqrt(int(steps) / steps_of)
        short = run["short"]
        share = max(4, min(32, round(steps_of / 20)))
        near = min(short, key=lambda steps: abs(math.log(int(steps) / share)))
        found["short runs of about a twentieth, by the root"] = RATES[
            min(range(len(RATES)), key=lambda i: short[near][i])
        ] * math.sqrt(int(near) / steps_of)
        for steps, losses in run["growing"].items():
            smooth = [statistics.fmean(losses[max(0, i - 1) : i + 2]) for i in range(len(losses))]
            at = smooth.index(min(smooth))
            lr = FROM * (TO / FROM) ** (at / (int(steps) - 1))
            for by_what in (3, 10, 30):
                found[f"range test of {steps}, lowest / {by_what}"] = lr / by_what
        if "found" in run:
            found["training/trial.py"] = run["found"]["lr"]
        for way, lr in found.items():
            regrets.setdefault(way, []).append(_between(grid, lr) - best)
    lines = ["| way | data sets | mean | median | largest |", "|---|---|---|---|---|"]
    for way, values in sorted(regrets.items()):
        mean, middle, most = statistics.fmean(values), statistics.median(values), max(values)
        lines.append(f"| {way} | {len(values)} | {mean:.3f} | {middle:.3f} | {most:.3f} |")
    return "\n".join(lines)


def _grid(runs: Iterable[Run], unit: int) -> dict[float, float]:
    return {run["setting"]["lr"]: -figure(aim(run), unit=unit)(run) for run in runs}


def _between(grid: Mapping[float, float], lr: float) -> float:
    """The loss at a rate between two of the grid, linear in its logarithm; beyond the grid, that of its end."""
    rates = sorted(grid)
    lr = min(max(lr, rates[0]), rates[-1])
    low = max(rate for rate in rates if rate <= lr)
    high = min(rate for rate in rates if rate >= lr)
    share = 0.0 if low == high else math.log(lr / low) / math.log(high / low)
    return grid[low] * (1 - share) + grid[high] * share


# --- forgetting -------------------------------------------------------------------------------------------------------


def forgetting(runs: list[Run], by: tuple[str, ...], losses: tuple[float, ...]) -> str:
    """Drift where the held-out loss first reaches a value, between the two looks around it."""
    heads = [*by, "lr", "loss", "runs that reach it", "steps", "drift: documents", "conversations"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for kind, group in grouped(runs, (*by, "lr")).items():
        for loss in losses:
            reached = [at for run in group if (at := _where(run["path"], loss)) is not None]
            if not reached:
                continue
            cells = [*map(str, kind), f"{loss:g}", f"{len(reached)} of {len(group)}"]
            cells += [f"{statistics.fmean(at[0] for at in reached):.0f}"]
            cells += [spread([at[i] for at in reached]) for i in (2, 3)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _where(path: list[list[float]], loss: float) -> list[float] | None:
    for before, after in pairwise(path):
        if after[1] <= loss < before[1]:
            share = (before[1] - loss) / (before[1] - after[1])
            return [x + share * (y - x) for x, y in zip(before, after, strict=True)]
    return None


# --- all --------------------------------------------------------------------------------------------------------------


def demo(folder: Path) -> str:
    columns = {"emulated, beta 1": figure("1"), "small alone": figure("alone"), "drift": drift("documents")}
    rates = read(folder, "rates")
    parts = [
        "## development, by rate\n" + table(rates, [*DEMO, "lr"], columns),
        "## final\n" + final(rates, DEMO, "questions", read(folder, "final")),
        "## trial\n" + trial_table(read(folder, "trial"), rates, DEMO, 0),
        "## forgetting\n" + forgetting(read(folder, "forget"), DEMO, (0.05, 0.03, 0.02, 0.01)),
        "## epochs\n" + table(read(folder, "epochs"), ["n", "method", "epochs", "lr"], columns),
        "## sizes\n"
        + table(read(folder, "sizes"), ["n", "method", "fraction", "rank", "alpha", "beta", "lr"], columns),
        "## patience\n"
        + table(
            read(folder, "patience"),
            ["n", "method", "patience", "looks"],
            {**columns, "steps": lambda run: run["steps"] / run["of"]},
        ),
    ]
    return "\n\n".join(parts)


def smollm2(folder: Path) -> str:
    kinds = ("method", "consistent")
    columns = {
        "emulated, beta 1": figure("1", unit=1),
        "small alone": figure("alone", unit=1),
        "drift": drift("documents"),
    }
    parts = []
    for pair in ("layers", "itself", "quantized"):
        search = read(folder, f"{pair}-search")
        parts.append(f"## {pair}, development, by rate\n" + table(search, [*kinds, "lr"], columns))
        parts.append(f"## {pair}, final\n" + _pair(read(folder, f"{pair}-final")))
    parts += [f"## {pair}\n" + _pair(read(folder, f"{pair}-final")) for pair in ("keeper", "keeper-itself")]
    parts.append("## many\n" + table(read(folder, "many-search"), [*kinds, "lr"], columns))
    whole = [*read(folder, "layers-search"), *read(folder, "many-search")]
    parts.append("## trial\n" + trial_table(read(folder, "trial"), whole, ("n", *kinds), 1))
    parts.append("## forgetting\n" + forgetting(read(folder, "forget"), kinds, (1.0, 0.8, 0.7, 0.6, 0.5)))
    return "\n\n".join(parts)


def _pair(runs: list[Run]) -> str:
    columns = {f"beta {b:g}": figure(f"{b:g}", "questions", 1) for b in BETAS}
    columns |= {"exact": figure("1", "questions", 2), "small alone": figure("alone", "questions", 1)}
    columns |= {"alone, exact": figure("alone", "questions", 2)}
    columns |= {"drift: documents": drift("documents"), "conversations": drift("conversations")}
    return table(runs, ["method", "consistent", "lr"], columns)
