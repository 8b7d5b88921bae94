"""Results of a study: one line of JSON for each run; tables of means and spreads over seeds."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]


class Results:
    """A JSON Lines file of runs. What is in it is not run again; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: list[Run] = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    self.runs.append(json.loads(line))
                except ValueError:
                    continue
        self._have = {_name(run["setting"]) for run in self.runs}
        path.parent.mkdir(parents=True, exist_ok=True)

    def missing(self, settings: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The settings that were not run, each once."""
        wanted = {_name(setting): setting for setting in settings}
        return [setting for name, setting in wanted.items() if name not in self._have]

    def add(self, setting: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        run = {"setting": dict(setting), **found}
        start = "" if not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n") else "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(start + json.dumps(run) + "\n")
        self.runs.append(run)
        self._have.add(_name(setting))


def _name(setting: Mapping[str, Any]) -> str:
    return json.dumps(dict(setting), sort_keys=True)


def grouped(runs: Iterable[Run], by: Sequence[str]) -> dict[tuple[Any, ...], list[Run]]:
    """Runs whose settings agree in the fields `by`, in the order of those."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run["setting"].get(name) for name in by), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: [(str(type(v)), v) for v in item[0]]))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation: -0.124 ± .005."""
    if not values or any(not math.isfinite(v) for v in values):
        return "—"
    mean = statistics.fmean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def table(runs: Iterable[Run], by: Sequence[str], columns: Mapping[str, Callable[[Run], float]]) -> str:
    """A Markdown table: a row for each group, with means and spreads of the columns."""
    lines = ["| " + " | ".join([*by, "runs", *columns]) + " |", "|" + "---|" * (len(by) + 1 + len(columns))]
    for values, group in grouped(runs, by).items():
        cells = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
        cells += [str(len(group)), *(spread([column(run) for run in group]) for column in columns.values())]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
