"""`eftlocal doctor`: checks the installation, or one emulator from its files to its first token."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from eftlocal.apps.common import console, print_json
from eftlocal.apps.doctor.checks import Finding, findings
from eftlocal.apps.doctor.emulator import examine
from eftlocal.apps.doctor.facts import gather
from eftlocal.catalog.endpoints import Endpoint
from eftlocal.text import printable

__all__ = ["doctor"]

MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "wrong": ("WRONG", "red")}


def doctor(models: Path | None, emulator: str | None, *, as_json: bool, rpc: tuple[Endpoint, ...] = ()) -> int:
    """Print the findings as they come. Returns the exit code: 1 if something is wrong, else 0.

    `rpc` are workers for the emulator's base.
    """
    out = console()
    found = []
    for finding in _all(models, emulator, rpc):
        found.append(finding)
        if not as_json:
            out.print(_row(finding))
            if finding.todo:  # not wrapped, so that a command can be copied
                out.print(printable(f"      -> {finding.todo}"), soft_wrap=True)
    if as_json:
        print_json([asdict(finding) for finding in found])
    return int(any(finding.state == "wrong" for finding in found))


def _all(models: Path | None, emulator: str | None, rpc: tuple[Endpoint, ...]) -> Iterator[Finding]:
    if emulator is None:
        yield from findings(gather(models))
    else:
        yield from examine(models, emulator, rpc)


def _row(finding: Finding) -> Table:
    mark, colour = MARKS[finding.state]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=5, justify="right", style=colour)
    row.add_column(overflow="fold")  # a long path is wrapped and not cut
    row.add_row(mark, printable(f"{finding.name}: {finding.text}"))
    return row
