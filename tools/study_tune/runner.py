"""Runs settings in processes of their own, each with a laboratory, and writes each result as it comes."""

import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch

from . import trials
from .lab import Lab, Setting
from .results import Results

Found = dict[str, Any]
Make = Callable[[], Lab]
Stage = tuple[Results, Iterable[Setting], str]  # where results go, what is run, and what is measured

_lab: Lab


def _start(make: Make) -> None:
    global _lab
    torch.set_num_threads(1)
    _lab = make()


def _run(job: tuple[int, Found, str]) -> tuple[int, Found, Found]:
    stage, setting, what = job
    return stage, setting, measure(_lab, Setting(**setting), what)


def measure(lab: Lab, setting: Setting, what: str) -> Found:
    """What one run gives: `what` is trial, path, or the parts to measure on, with a comma between them."""
    if what == "trial":
        return trials.compare(lab, setting)
    if what == "path":
        return lab.path(setting, "development")
    return lab.run(setting, what.split(","))


def run(stages: list[Stage], make: Make, jobs: int, until: float) -> bool:
    """Runs what is missing, with so many processes, until `until` of time.monotonic. Returns whether all was run."""
    missing = [
        (number, dict(setting), what)
        for number, (results, settings, what) in enumerate(stages)
        for setting in results.missing([asdict(setting) for setting in settings])
    ]
    if not missing:
        return True
    print(f"{len(missing)} runs to {', '.join(str(results.path) for results, *_ in stages)}", flush=True)
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(missing)), _start, (make,)) as pool:
        done = pool.imap_unordered(_run, missing)
        for n in range(1, len(missing) + 1):
            try:
                stage, setting, found = done.next(max(1.0, until - time.monotonic()))
            except multiprocessing.TimeoutError:
                print(f"stopped after {n - 1} of {len(missing)}; the same command goes on", flush=True)
                return False
            stages[stage][0].add(setting, found)
            if n % 10 == 0 or n == len(missing):
                print(f"{n} of {len(missing)}, {time.monotonic() - started:.0f} s", flush=True)
    return True
