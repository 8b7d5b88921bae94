"""Compares Inspect over `eftlocal serve` with eftlocal itself: `python -m tools.check_inspect PROGRAM`.

PROGRAM is an installed `inspect` (pip install inspect-ai openai), usually in a virtual environment of its own. It is
run as anybody would run it, on one local file of questions:

    chat         its provider openai-api: answers, and the log-probability of each of their tokens
    completions  its provider openai-api-completions: the log-probability of each token of a prompt

Each number is compared with the emulator in this process, with the same F32 cache. The exit code is 1 if a difference
is above 1e-4, or if a text differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eftlocal.emulation.emulator import Emulator, Raw
from tools.check_lm_eval import EXACT, TOLERANCE, add_emulator, documents, exact

LIMIT = 24  # tokens of an answer
TASKS = f"""
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate

@task
def chat():
    config = GenerateConfig(temperature=0, max_tokens={LIMIT}, logprobs=True, top_logprobs=2)
    data = json_dataset("questions.jsonl", FieldSpec(input="question", target="target"))
    return Task(dataset=data, solver=generate(), scorer=match(location="exact"), config=config)

@task
def completions():
    config = GenerateConfig(max_tokens=1, logprobs=True, extra_body={{"echo": True}})
    data = json_dataset("questions.jsonl", FieldSpec(input="text", target="target"))
    return Task(dataset=data, solver=generate(), scorer=match(), config=config)
"""


def inspect(program: str, folder: Path, task: str, model: str, address: str) -> dict[str, Any]:
    """Run one task. Returns its log. Raises RuntimeError with what Inspect wrote if it fails."""
    logs = folder / f"logs-{task}"
    command = (program, "eval", f"tasks.py@{task}", "--model", model, "--log-dir", str(logs), "--log-format", "json")
    given = {"EFTLOCAL_BASE_URL": f"{address}/v1", "EFTLOCAL_API_KEY": "any", "INSPECT_DISPLAY": "plain"}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **given}, capture_output=True, encoding="utf-8", check=False
    )
    found = list(logs.glob("*.json"))
    if done.returncode or not found:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    log: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
    if log["status"] != "success":
        raise RuntimeError(f"{' '.join(command)}: {log['status']}:\n{log.get('error')}")
    return log


def chat(emulator: Emulator, samples: Sequence[Mapping[str, Any]]) -> tuple[int, int, float]:
    """Answers that differ, tokens compared, and the largest difference of a token's log-probability."""
    wrong, number, largest = 0, 0, 0.0
    for sample in samples:
        reply = emulator.generate(sample["input"], temperature=0, max_tokens=LIMIT, draft=0, logprobs=2)
        choice = sample["output"]["choices"][0]
        if choice["message"]["content"] != reply.text:
            wrong += 1  # after the first other token, its log-probabilities are those of another text
            continue
        for theirs, ours in zip(choice["logprobs"]["content"], reply.logprobs, strict=True):
            number, largest = number + 1, max(largest, abs(theirs["logprob"] - ours.logprob))
    return wrong, number, largest


def completions(emulator: Emulator, samples: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """Tokens compared, and the largest difference of a token's log-probability."""
    number, largest = 0, 0.0
    for sample in samples:
        head, tail = sample["input"].split("\n", 1)  # a prompt and its completion
        ours = emulator.score(Raw(head), f"\n{tail}").tokens
        theirs = sample["output"]["choices"][0]["logprobs"]["content"][-len(ours) - 1 : -1]  # the last was generated
        for their, our in zip(theirs, ours, strict=True):
            number, largest = number + 1, max(largest, abs(their["logprob"] - our.logprob))
    return number, largest


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("program", help="an installed inspect")
    parser.add_argument("-n", type=int, default=40, help="questions (default: 40)")
    add_emulator(parser)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, exact(given) as server:
        folder = Path(name)
        lines = []
        for document in documents(given.n):
            target = document["choices"][document["right"]]
            lines.append({"question": document["question"], "target": target, "text": document["prompt"] + target})
        (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        (folder / "tasks.py").write_text(TASKS, encoding="utf-8")
        with Emulator.load(given.emulator, models=given.models, **EXACT) as emulator:
            log = inspect(given.program, folder, "chat", f"openai-api/eftlocal/{given.emulator}", server.url)
            wrong, number, largest = chat(emulator, log["samples"])
            right = log["results"]["scores"][0]["metrics"]["accuracy"]["value"]
            print(f"chat: {len(log['samples'])} answers, {wrong} differ, {right:.3f} of them right")
            print(f"chat: {number} log-probabilities, difference {largest:.1e}")
            failed = wrong > 0 or largest > TOLERANCE
            model = f"openai-api-completions/eftlocal/{given.emulator}"
            log = inspect(given.program, folder, "completions", model, server.url)
            number, largest = completions(emulator, log["samples"])
            print(f"completions: {number} log-probabilities of prompts, difference {largest:.1e}")
            failed |= largest > TOLERANCE or number == 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
