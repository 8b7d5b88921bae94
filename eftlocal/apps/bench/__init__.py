"""`eftlocal bench`: measures what emulation and drafts cost and gain on this machine, and compares ways to decode."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from rich.text import Text

from eftlocal.apps.bench import plot
from eftlocal.apps.bench.measure import measure
from eftlocal.apps.bench.prompts import CITIES, GENERAL
from eftlocal.apps.bench.report import Sweeps
from eftlocal.apps.bench.show import show
from eftlocal.apps.bench.sweep import Load, check_contexts, context_costs, parse_contexts, thread_costs, thread_counts
from eftlocal.apps.bench.synthetic import parse_size, widen
from eftlocal.apps.common import console, print_json
from eftlocal.catalog import models as catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.emulation.loading import Loaded
from eftlocal.errors import SettingError
from eftlocal.interrupt import before_leaving
from eftlocal.runs.ctrl_c import cursor_comes_back
from eftlocal.runtime.machine import usable_cores
from eftlocal.text import printable

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
    """Measure one emulator, print the report, and draw it if `plot_file` is given. Returns the exit code.

    Raises EftError before anything is measured if an option asks for something that is not possible.
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
            stack.enter_context(before_leaving(partial(shutil.rmtree, folder, ignore_errors=True)))
            large = folder / f"synthetic-{kind}.gguf"
            print(f"writing a synthetic base of {synthetic_base} ...", file=sys.stderr)
            widen(catalog.local_path(cat.model(entry.base)), large, size, kind)
            cat = _with_base(cat, entry, large)
        notes = console(stderr=True)
        stack.enter_context(cursor_comes_back(notes))
        status = stack.enter_context(notes.status("loading ..."))

        def progress(text: str) -> None:
            status.update(Text(printable(f"measuring: {text} ...")))  # a plain string would be markup

        loaded = _loaded(load, cat, entry.name, contexts)
        with closing(loaded.engine):
            if contexts:
                check_contexts(Emulator(loaded), contexts, repetitions)
            report = measure(loaded, prompts, tokens=tokens, repetitions=repetitions, progress=progress)
            ctx = context_costs(loaded, contexts, repetitions, progress) if contexts else ()
        counts = thread_counts(usable_cores()) if sweep_threads else ()
        threads = thread_costs(load, cat, entry.name, counts, repetitions, progress) if counts else ()
    report = replace(report, sweeps=Sweeps(threads, ctx))
    if as_json:
        print_json(asdict(report))
    else:
        show(report)
    if plot_file is not None:
        plot.draw(report, plot_file)
        print(printable(f"drawn to {plot_file}"), file=sys.stderr)
    return 0


def _loaded(load: Load, cat: catalog.Catalog, name: str, contexts: Sequence[int]) -> Loaded:
    """Load the emulator, with room for the longest of these contexts (in rising order)."""
    loaded = load(cat, name)
    if not contexts or contexts[-1] <= loaded.engine.n_ctx:
        return loaded
    loaded.engine.close()
    try:
        return load(cat, name, ctx=contexts[-1])
    except SettingError as error:  # the context is too long: everything else was checked before
        raise SettingError(error.message, "Give --sweep-ctx at most that.") from None


def _with_base(cat: catalog.Catalog, entry: catalog.Emulator, path: Path) -> catalog.Catalog:
    """A copy of the catalogue in which this emulator's base is the file `path`."""
    base = catalog.Model(name="synthetic-base", file=path)
    changed = replace(entry, base=base.name)
    return replace(cat, models={**cat.models, base.name: base}, emulators={**cat.emulators, entry.name: changed})
