"""The study of SmolLM2-135M, step by step: which steps there are, and what each of them runs.

Rates are searched with one seed on the development questions. The final figures are of other seeds and questions.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from . import runner, smollm2
from .lab import Setting
from .results import Results, Run

RATES = {"lora": (3e-4, 1e-3, 3e-3), "full": (3e-5, 1e-4, 3e-4), "mofo": (1e-4, 3e-4, 1e-3)}
SEARCHED, FINAL = (0,), (10, 11, 12)
COMMON = Setting(n=100, epochs=6.0)


@dataclass(frozen=True, slots=True)
class Size:
    """What the machine allows. kinds: (method, consistent) of the runs."""

    device: str
    jobs: int
    measured: int
    teach: dict[str, float]
    kinds: tuple[tuple[str, bool], ...]
    final: tuple[int, ...] = FINAL
    rates: int = 3


ALL = tuple((method, consistent) for method in RATES for consistent in (True, False))
ITSELF = (("full", False), ("lora", False))
GPU = Size("cuda", 4, 100, {"rows": 24576, "length": 256, "at_once": 1024, "batch": 32, "lr": 6e-4}, ALL)
CPU = Size("cpu", 1, 40, {"rows": 256, "length": 128, "at_once": 64, "batch": 8, "lr": 6e-4}, ALL, (10,), 1)


def settings(size: Size, kinds: tuple[tuple[str, bool], ...], common: Setting = COMMON) -> Iterator[Setting]:
    """The runs of a search."""
    for seed in SEARCHED:
        for method, consistent in kinds:
            rates = RATES[method] if size.rates > 1 else RATES[method][1:2]
            for lr in rates:
                yield replace(common, method=method, consistent=consistent, lr=lr, seed=seed)


def chosen(runs: list[Run], kinds: tuple[tuple[str, bool], ...], figure: str) -> dict[tuple[str, bool], Setting]:
    """For each kind, the run whose `figure` (a beta, or alone) is best on the development questions."""
    found = {}
    for kind in kinds:
        mine = [r for r in runs if (r["setting"]["method"], r["setting"]["consistent"]) == kind]
        best = max(mine, key=lambda run: run["measured"]["development"][figure][1])
        found[kind] = Setting(**best["setting"])
    return found


@dataclass(frozen=True, slots=True)
class Campaign:
    """The study in a folder, until a time of time.monotonic. Each step returns whether it was finished."""

    size: Size
    folder: Path
    until: float

    def teach(self) -> bool:
        given = dict(self.size.teach)
        lr = given.pop("lr")
        seconds = max(30.0, min(150.0 if self.size.device != "cpu" else 1e9, self.until - time.monotonic()))
        whole = {name: int(value) for name, value in given.items()}
        smollm2.teach(self.size.device, self.folder, lr=lr, seconds=seconds, **whole)
        return True

    def _run(self, name: str, pair: str, wanted: list[Setting], what: str) -> bool:
        most = max((setting.n for setting in wanted), default=0)
        make = partial(smollm2.make, pair, self.size.device, self.folder, most, self.size.measured)
        return runner.run([(Results(self.folder / f"{name}.jsonl"), wanted, what)], make, self.size.jobs, self.until)

    def pair(self, pair: str, kinds: tuple[tuple[str, bool], ...], figure: str = "1") -> bool:
        """Searches rates, and then measures the best one of each kind with the final seeds."""
        if not self._run(f"{pair}-search", pair, list(settings(self.size, kinds)), "development"):
            return False
        best = chosen(Results(self.folder / f"{pair}-search.jsonl").runs, kinds, figure)
        wanted = [replace(setting, seed=seed) for setting in best.values() for seed in self.size.final]
        return self._run(f"{pair}-final", pair, wanted, "development,questions")

    def layers(self) -> bool:
        return self.pair("layers", self.size.kinds)

    def quantized(self) -> bool:
        smollm2.quantized(self.folder)  # before the processes, which would all make it
        return self.pair("quantized", self.size.kinds)

    def keeper(self) -> bool:
        """The example that ships, at the rates that were chosen for the other style, and the base truly tuned on it."""
        ways = {"keeper": chosen(Results(self.folder / "layers-search.jsonl").runs, self.size.kinds, "1")}
        ways["keeper-itself"] = chosen(Results(self.folder / "itself-search.jsonl").runs, ITSELF, "alone")
        return all(
            self._run(
                f"{pair}-final",
                pair,
                [
                    replace(setting, n=smollm2.KEEPER_TRAINED, seed=seed)
                    for setting in best.values()
                    for seed in self.size.final
                ],
                "questions",
            )
            for pair, best in ways.items()
        )

    def itself(self) -> bool:
        """The base, truly tuned."""
        return self.pair("itself", ITSELF, "alone")

    def forget(self) -> bool:
        """The path of full and MoFO: what is forgotten at each held-out loss."""
        wanted = [
            replace(COMMON, method=method, consistent=consistent, lr=lr, seed=seed, looks=18, patience=99)
            for method in ("full", "mofo")
            for consistent in (False, True)
            for lr in RATES[method][1:]
            for seed in self.size.final
        ]
        return self._run("forget", "layers", wanted, "path")

    def trial(self) -> bool:
        """What the ways to find a rate say; `layers` and `many` are the whole runs that they are compared with."""
        wanted = [
            replace(COMMON, method=method, consistent=True, lr=1e-3, n=n, epochs=epochs)
            for n, epochs in ((100, 6.0), (900, 2.0))
            for method in RATES
        ]
        return self._run("trial", "layers", wanted, "trial")

    def many(self) -> bool:
        """Nine hundred examples: nearly all questions about the cities that are for training."""
        kinds = tuple((method, True) for method in RATES)
        wanted = list(settings(self.size, kinds, replace(COMMON, n=900, epochs=2.0)))
        return self._run("many-search", "layers", wanted, "development")

    @property
    def steps(self) -> dict[str, Callable[[], bool]]:
        own = (self.teach, self.layers, self.itself, self.keeper, self.forget, self.trial, self.many, self.quantized)
        return {step.__name__: step for step in own}
