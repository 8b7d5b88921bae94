"""What it saves that a server reads a long prompt while the pair here reads its own: python -m tools.bench_ahead NAME

A real llama-server (package xllamacpp) serves the base of NAME with one thread, and the pair runs here with another.
Prompts of prose that have nothing in common are answered with one token, in turn with and without reading ahead.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eftlocal import Emulator
from eftlocal.catalog import models as catalog
from eftlocal.runtime.remote.context import RemoteContext
from tests import llama_server

PROSE = Path(__file__).parents[1] / "ARCHITECTURE.md"


def nothing(_context: RemoteContext, _sequence: int, _prompt: Sequence[int]) -> None:
    """The server hears of a prompt only when its last part is fed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="an emulator whose base is a file")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--characters", type=int, default=4500, help="of a prompt")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cat = catalog.load(given.models)
    near = cat.emulator(given.name)
    path, prose = catalog.local_path(cat.model(near.base)), PROSE.read_text(encoding="utf-8")
    with llama_server.running(path, slots=1, context=4096) as server:
        base = catalog.Model(name="far", file=catalog.Server(url=server.url))
        far = replace(near, name="far", base="far")
        cat = replace(cat, models={**cat.models, "far": base}, emulators={**cat.emulators, "far": far})
        with Emulator.load("far", models=cat, threads=1, temperature=0.0, draft=0) as emulator:
            emulator.generate("Hello", max_tokens=1)
            ways = {RemoteContext.expect: list[float](), nothing: list[float]()}
            for i in range(given.rounds):
                for j, (way, seconds) in enumerate(ways.items()):
                    start = (2 * i + j) * 1500
                    began = time.perf_counter()
                    RemoteContext.expect = way  # type: ignore[method-assign]
                    emulator.generate(prose[start : start + given.characters], max_tokens=1)
                    seconds.append(time.perf_counter() - began)
    ahead, late = (statistics.median(seconds) for seconds in ways.values())
    print(f"first token: {ahead:.1f} s with reading ahead, {late:.1f} s without, {late / ahead:.2f} x")


if __name__ == "__main__":
    main()
