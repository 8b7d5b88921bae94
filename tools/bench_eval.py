"""Measures what `eftlocal eval` saves: `python -m tools.bench_eval [-e NAME] [--models FILE] [--items N]`.

Multiple choice with four choices, measured as `eval` does it and scored one by one, in turns in one run:
    score     each choice as `eftlocal score` does it in a process of its own: an emulator that holds nothing yet,
              without the time that loading and making its KV caches takes
    kept      each choice by Emulator.score, one after the other in one process, which keeps the prompt between them
    eval      all items by `eftlocal.evaluate`, with the emulator and one strength
Then `eval demo demo` with five strengths. Times are seconds of the processor and of the clock: on a machine that others
use, only the former say something.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import eftlocal
from eftlocal.emulation.emulator import Emulator
from eftlocal.evaluation.items import Choices

SUBJECTS = ("a river", "a bridge", "an engine", "a letter", "a garden", "a storm", "a school", "a market")
PLACES = ("in the north", "by the sea", "on the island", "near the old town", "under the hill")


@contextmanager
def timed(into: list[tuple[float, float]]) -> Iterator[None]:
    """Appends (processor, clock) seconds of what runs within."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    into.append((time.process_time() - cpu, time.perf_counter() - wall))


def items(n: int) -> list[Choices]:
    """Questions of about 60 tokens, each with four choices of a few words."""
    found: list[Choices] = []
    for i in range(n):
        subject, place = SUBJECTS[i % len(SUBJECTS)], PLACES[i % len(PLACES)]
        prompt = (
            f"Someone tells you a story about {subject} {place}. It begins one cold morning in the year {1800 + 7 * i},"
            " when nobody had expected that anything would happen, and it ends on the evening of the same day. What is"
            " it most likely about, if you had to say it in a few words?"
        )
        choices = (f"How {subject} was lost", f"Who found {subject}", "A long journey home", "What the weather did")
        pairs = tuple((prompt, choice) for choice in choices)
        found.append(Choices(where=f"made:{i + 1}", source="made", pairs=pairs, right=frozenset({i % 4})))
    return found


def choices(load: Callable[[], Emulator], asked: list[Choices], rounds: int) -> None:
    """Measures the three ways in turns, and prints the median of each."""
    pairs = [pair for item in asked for pair in item.pairs]
    times: dict[str, list[tuple[float, float]]] = {"score": [], "kept": [], "eval": []}
    for _ in range(rounds):
        spent: list[tuple[float, float]] = []
        for prompt, choice in pairs:
            with load() as emulator:
                emulator.score("Why?", "So.")  # the template is compiled, the KV caches are made
                with timed(spent):
                    emulator.score(prompt, choice)
        times["score"].append((sum(cpu for cpu, _ in spent), sum(wall for _, wall in spent)))
        with load() as emulator:
            emulator.score("Why?", "So.")
            with timed(times["kept"]):
                for prompt, choice in pairs:
                    emulator.score(prompt, choice)
        with load() as emulator:
            eftlocal.evaluate(emulator, items(1), betas=[1.0])  # the KV caches are made
            with timed(times["eval"]):
                eftlocal.evaluate(emulator, asked, betas=[1.0])
    own = {name: [statistics.median(each) for each in zip(*found, strict=True)] for name, found in times.items()}
    for name, (cpu, wall) in own.items():
        ratio = f"  eval is {cpu / own['eval'][0]:.2f} times as fast" if name != "eval" else ""
        print(f"{name:<6} {cpu:7.2f} s of the processor {wall:7.2f} s{ratio}", flush=True)


def demo() -> None:
    with Emulator.load("demo") as emulator:
        spent: list[tuple[float, float]] = []
        with timed(spent):
            found = eftlocal.evaluate(emulator, "demo", betas=[0.5, 0.75, 1.0, 1.5, 2.0])
    cpu, wall = spent[0]
    columns = f"{found.n} questions in {len(found.columns)} columns"
    print(f"eval demo demo, {columns}: {cpu:.1f} s of the processor, {wall:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-e", "--emulator", default="demo")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asked = items(given.items)

    def load() -> Emulator:
        return Emulator.load(given.emulator, models=given.models, threads=given.threads)

    with load() as emulator:
        lengths = sorted(emulator.count(asked[0].pairs[0][0]).values())
        print(f"{emulator.name}: {given.items} items, prompts of {lengths[0]} to {lengths[-1]} tokens, four choices")
    choices(load, asked, given.rounds)
    demo()


if __name__ == "__main__":
    main()
