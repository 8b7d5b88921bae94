"""`eftlocal bench`: what emulation and drafts cost and gain on this machine, each way to decode beside the others."""

import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from eftlocal.apps.bench import plot
from eftlocal.apps.bench.measure import measure
from eftlocal.apps.bench.prompts import CITIES, GENERAL
from eftlocal.apps.bench.report import Sweeps
from eftlocal.apps.bench.show import show
from eftlocal.apps.bench.sweep import Load, check_contexts, context_costs, parse_contexts, thread_costs, thread_counts
from eftlocal.apps.bench.synthetic import parse_size, widen
from eftlocal.apps.common import console
from eftlocal.catalog import models as catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import SettingError
from eftlocal.runtime.machine import usable_cores

__all__ = ["bench"]

DEMO = "demo"


def bench(
    load: Load,
    cat: catalog.Catalog,
    emulator: str | None,
    *,
    synthetic_base: str | None,
    tokens: int,
    repetitions: int,
    sweep_threads: bool,
    sweep_ctx: str | None,
    plot_file: Path | None,
    as_json: bool,
) -> int:
    """Measure one emulator and print the report; draw it, where a file for it is given. Returns the exit code.

    What is asked for and cannot be had is an error before anything is measured.
    """
    if plot_file is not None:
        plot.check(plot_file)
    contexts = () if sweep_ctx is None else parse_contexts(sweep_ctx)
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
        status = stack.enter_context(console(stderr=True).status("loading ..."))

        def progress(text: str) -> None:
            status.update(f"measuring: {text} ...")

        with _loaded(load, cat, entry.name, contexts) as loaded:
            if contexts:
                check_contexts(loaded, contexts, repetitions)
            report = measure(loaded, prompts, tokens=tokens, repetitions=repetitions, progress=progress)
            ctx = context_costs(loaded, contexts, repetitions, progress) if contexts else ()
        counts = thread_counts(usable_cores()) if sweep_threads else ()
        threads = thread_costs(load, cat, entry.name, counts, repetitions, progress) if counts else ()
    report = replace(report, sweeps=Sweeps(threads, ctx))
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        show(report)
    if plot_file is not None:
        plot.draw(report, plot_file)
        print(f"drawn to {plot_file}", file=sys.stderr)
    return 0


def _loaded(load: Load, cat: catalog.Catalog, name: str, contexts: Sequence[int]) -> Emulator:
    """The emulator, with room for the longest of these contexts."""
    loaded = load(cat, name)
    if not contexts or contexts[-1] <= loaded.context:
        return loaded
    loaded.close()
    try:
        return load(cat, name, ctx=contexts[-1])
    except SettingError as error:  # a context that the members were not trained for: everything else was right before
        raise SettingError(error.message, "Give --sweep-ctx at most that.") from None


def _with_base(cat: catalog.Catalog, entry: catalog.Emulator, path: Path) -> catalog.Catalog:
    """The catalogue with another file as this emulator's base."""
    base = catalog.Model(name="synthetic-base", file=path)
    changed = replace(entry, base=base.name)
    return replace(cat, models={**cat.models, base.name: base}, emulators={**cat.emulators, entry.name: changed})
