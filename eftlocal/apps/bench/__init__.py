"""`eftlocal bench`: what emulation and drafts cost and gain on this machine, each way to decode beside the others."""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eftlocal.apps.bench.measure import Report, measure
from eftlocal.apps.bench.prompts import CITIES, GENERAL
from eftlocal.apps.bench.synthetic import parse_size, widen
from eftlocal.catalog import models as catalog
from eftlocal.emulation.emulator import Emulator

__all__ = ["bench"]

DEMO = "demo"


def bench(
    load: Callable[[catalog.Catalog, str], Emulator],
    emulator: str | None,
    *,
    models: Path | None,
    synthetic_base: str | None,
    tokens: int,
    repetitions: int,
    as_json: bool,
) -> int:
    """Measure one emulator and print the report. Returns the exit code."""
    cat = catalog.load(models)
    entry = cat.emulator(emulator)
    prompts = CITIES if entry.name.startswith(DEMO) else GENERAL
    with ExitStack() as stack:
        if synthetic_base is not None:
            size, kind = parse_size(synthetic_base)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eftlocal-bench-")))
            large = folder / f"synthetic-{kind}.gguf"
            print(f"writing a synthetic base of {synthetic_base} ...", file=sys.stderr)
            widen(catalog.local_path(cat.model(entry.base)), large, size, kind)
            cat = _with_base(cat, entry, large)
        loaded = stack.enter_context(load(cat, entry.name))
        note = Console(stderr=True)
        with note.status("measuring ...") as status:
            report = measure(
                loaded,
                prompts,
                tokens=tokens,
                repetitions=repetitions,
                progress=lambda text: status.update(f"measuring: {text} ..."),
            )
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        _show(report)
    return 0


def _with_base(cat: catalog.Catalog, entry: catalog.Emulator, path: Path) -> catalog.Catalog:
    """The catalogue with another file as this emulator's base."""
    base = catalog.Model(name="synthetic-base", path=path)
    changed = replace(entry, base=base.name)
    return replace(cat, models={**cat.models, base.name: base}, emulators={**cat.emulators, entry.name: changed})


def _show(report: Report) -> None:
    console = Console()
    console.print(f"{report.emulator}: {report.threads} threads, {report.tokens} tokens a prompt, medians")
    members = Table("member alone", "decode tokens/s", "prefill tokens/s")
    for role, rates in report.members.items():
        members.add_row(role, f"{rates['decode']:.1f}", f"{rates['prefill']:.0f}")
    console.print(members)
    table = Table("", "tokens/s", "/ base", "/ plain", "accepted", "a block", "/ limit")
    plain, base = report.tokens_per_s["concurrent"], report.tokens_per_s["base_alone"]
    for name, rate in report.tokens_per_s.items():
        drafted = name in report.acceptance
        table.add_row(
            name,
            f"{rate:.1f}",
            f"{report.ratios.get(f'{name} / base_alone', rate / base):.2f}",
            f"{report.ratios.get(f'{name} / concurrent', rate / plain):.2f}",
            f"{report.acceptance[name]:.3f}" if drafted else "",
            f"{report.tokens_per_block[name]:.2f}" if drafted else "",
            f"{rate / report.limit[name]:.2f}" if drafted else "",
        )
    console.print(table)
    blocks = ", ".join(f"{n}: {ms:.1f}" for n, ms in report.block_ms.items())
    console.print(f"decodes of a block of so many guesses, ms: {blocks}")
    console.print(f"combination, sampling and Python: {report.overhead_ms_per_token:.2f} ms a token")
    console.print(f"peak memory: {report.peak_rss_mb:.0f} MB")
