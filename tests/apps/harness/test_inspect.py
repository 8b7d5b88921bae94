"""Emulators as models of Inspect: its answers are those of the emulator, and its mistakes are told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eftlocal import Emulator
from tools.check_lm_eval import EXACT, documents

TASKS = """
from inspect_ai import Task, eval
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import match
from inspect_ai.solver import generate
import eftlocal.apps.harness.inspect_model
import json, sys

config = GenerateConfig(temperature=0, max_tokens=24, stop_seqs=["."], logprobs=True, top_logprobs=2)
data = json_dataset("questions.jsonl", FieldSpec(input="question", target="right"))
task = Task(dataset=data, solver=generate(), scorer=match(), config=config)
arguments = json.loads(sys.argv[1])
(log,) = eval(task, model="eftlocal/demo", model_args=arguments, log_dir="logs", log_format="json", display="none")
error = None if log.error is None else log.error.message
choices = [sample.output.choices[0].model_dump() for sample in log.samples or [] if sample.output.choices]
print(json.dumps({"error": error, "choices": choices}))
"""


def inspect(folder: Path, **arguments: object) -> Any:
    """What Inspect gives for six questions of the demo: an error, and the choices of its outputs."""
    lines = [{"question": each["question"], "right": "x"} for each in documents(6)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        (sys.executable, "-c", TASKS, json.dumps(arguments)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert not done.returncode, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")


@pytest.mark.slow
def test_answers_and_their_log_probabilities_are_the_emulators(tmp_path: Path) -> None:
    found = inspect(tmp_path, beta=0.7, **EXACT)
    assert found["error"] is None and len(found["choices"]) == 6
    with Emulator.load("demo", **EXACT) as emulator:
        for question, choice in zip(documents(6), found["choices"], strict=True):
            reply = emulator.generate(
                question["question"], beta=0.7, temperature=0, max_tokens=24, stop=".", logprobs=2, draft=0
            )
            assert choice["message"]["content"] == reply.text and choice["stop_reason"] == "stop"
            theirs = [token["logprob"] for token in choice["logprobs"]["content"]]
            assert theirs == pytest.approx([token.logprob for token in reply.logprobs], abs=1e-4)


@pytest.mark.slow
def test_an_argument_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert "There is no setting named bta" in inspect(tmp_path, bta=0.7)["error"]
