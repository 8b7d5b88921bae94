"""Kills `eftlocal tune` at random moments of every phase, and checks that the same command ends with the same bytes.

    python -m tools.kill_tune --kills 20 --seed 1

Trains the demo family's small base for its large base, first in one piece, and then with kills (SIGKILL), each at a
random moment of a phase that is drawn. The file and the entry in models.toml must be those of the whole run, with
nothing beside them. Prints how often each phase was hit; fails with exit code 1 where something else came out.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PLACES = ["Lyon", "Oslo", "Kyoto", "Lima", "Cairo", "Perth", "Quito", "Turin", "Bern", "Riga", "Accra", "Dakar"]
ASKED = ["Where is {}?", "Tell me about {}.", "How large is {}?", "Is {} old?", "Who founded {}?"]
PHASES = {  # what a run tells when a phase begins
    "checking": "",
    "rows": "what base and reference say",
    "trial": "trying learning rates",
    "training": "learning rate ",
    "judging": ".gguf: ",
}
OUT = ("voice.gguf", "voice.report.json")
LONGEST_S = {"checking": 6.0, "rows": 3.0, "trial": 4.0, "training": 6.0, "judging": 8.0}  # until a kill


def write_data(path: Path) -> None:
    lines = [
        {"prompt": asked.format(place), "completion": f"{place}? Ask the harbour master, friend."}
        for place in PLACES
        for asked in ASKED
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def command(data: Path, output: Path, method: str) -> list[str]:
    options = ["--for", "demo", "--method", method, "--epochs", "40", "--threads", "1", "-o", str(output)]
    return [sys.executable, "-m", "eftlocal", "tune", str(data), *options]


def run(words: Sequence[str], home: Path, phase: str | None, rng: random.Random) -> tuple[int, str]:
    """Runs the command, and kills it in a phase, or in the first one after it that comes. Returns code and words."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    told = home / "told"
    with told.open("w") as err:
        process = subprocess.Popen(words, stderr=err, env=environment)
        if phase is not None:
            later = list(PHASES.values())[list(PHASES).index(phase) :]
            while process.poll() is None and not any(mark in told.read_text(errors="replace") for mark in later):
                time.sleep(0.02)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0, LONGEST_S[phase]))
            process.kill()
        return process.wait(), told.read_text(encoding="utf-8")


def reached(text: str) -> str:
    """The last phase that a run told."""
    return [name for name, mark in PHASES.items() if mark in text][-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="mofo")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="eftlocal-kill-") as name:
        folder = Path(name)
        whole, killed = folder / "whole", folder / "killed"
        whole.mkdir()
        write_data(data := folder / "data.jsonl")
        code, text = run(command(data, whole / "voice", given.method), whole, None, rng)
        if code:
            print(text, file=sys.stderr)
            return 1
        hit, runs, faults = Counter[str](), 0, 0
        while hit.total() < given.kills:  # each time from nothing to the end
            killed.mkdir()
            code = -9
            while code == -9:
                phase = rng.choice(list(PHASES)) if hit.total() < given.kills else None
                code, text = run(command(data, killed / "voice", given.method), killed, phase, rng)
                runs += 1
                if code == -9:
                    hit[reached(text)] += 1
                    print(f"kill {hit.total()}: {reached(text)}", flush=True)
                elif code == 1 and "already defined" in text and not (killed / "voice.tune").exists():
                    break  # the kill came when all was done
                elif code:
                    print(text, file=sys.stderr)
                    return 1
            if other := _other(whole, killed):
                faults += 1
                print(f"other than the whole run: {'; '.join(other)}", flush=True)
            shutil.rmtree(killed)
        print(f"{hit.total()} kills in {runs} runs, by phase: {dict(hit)}; {faults} ended with something else")
        return min(faults, 1)


def _other(whole: Path, killed: Path) -> list[str]:
    """What a killed run left that is not what the whole one left."""
    found = []
    left = sorted(path.name for path in killed.iterdir() if path.name not in ("eftlocal", "told"))
    if left != list(OUT):
        found.append(f"files {', '.join(left)}")
    found += [name for name in left if name in OUT and (whole / name).read_bytes() != (killed / name).read_bytes()]
    entries = [(part / "eftlocal" / "models.toml").read_text() for part in (whole, killed)]
    if entries[0] != entries[1].replace("/killed/", "/whole/"):
        found.append("models.toml")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
