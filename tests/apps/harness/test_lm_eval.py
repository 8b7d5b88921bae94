"""`eftlocal lm-eval`: the harness's numbers are those of `Emulator.score`, its texts those of `Emulator.generate`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlocal import Emulator, Ids
from eftlocal.apps.harness import run
from eftlocal.errors import EftError, SettingError
from tools.check_lm_eval import EXACT, TOLERANCE, differing, documents, scored, task, tasks

ENDLESS = "Lyon is a large city. " * 200  # longer than the demo's context


IN_PYTHON = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from eftlocal import Emulator
from eftlocal.apps.harness.lm_eval_model import EmulatorLM

tasks = TaskManager(include_path=sys.argv[1], include_defaults=False)
with Emulator.load("demo", kv_type="f32", draft=0) as emulator:
    found = simple_evaluate(
        EmulatorLM(emulator, {"beta": 0.5}, parallel=3),
        tasks=["eftlocal_asked", "eftlocal_chat"],
        task_manager=tasks,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
print(json.dumps(found["samples"], default=str))
"""


def python(folder: Path, *words: str) -> str:
    """Run Python with the harness, offline. Returns what it prints."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        (sys.executable, *words),
        env={**os.environ, **offline},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert not done.returncode, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("lm_eval", reason="the extra `lm-eval` is not installed")
    folder = tmp_path_factory.mktemp("harness")
    data = folder / "questions.json"
    lines = [*documents(6)]
    for line in lines:
        line["text"] = line["prompt"] + line["choices"][line["right"]]
    lines[0]["text"] = ENDLESS
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_target": "{{text}}", "doc_to_text": ""}
    metrics = {"metric_list": [{"metric": "word_perplexity"}]}
    asked = dict(next(tasks(data)), task="eftlocal_asked", doc_to_text="{{question}}")
    for each in (*tasks(data), asked, task("eftlocal_texts", data, **(rolling | metrics))):
        (folder / f"{each['task']}.yaml").write_text(json.dumps(each), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator.load("demo", **EXACT) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the command writes: task -> its samples."""
    what = ("demo", "--tasks", "eftlocal_choices,eftlocal_answers,eftlocal_texts", "--include_path", str(folder))
    exact = ("--kv-type", "f32", "--draft", "0")
    printed = python(folder, "-m", "eftlocal", "lm-eval", *what, *exact, "--output_path", str(folder), "--log_samples")
    assert "eftlocal ({'model': 'demo', 'kv_type': 'f32'})" in printed
    found = {}
    for path in (folder / "demo").glob("samples_*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        found[path.name.removeprefix("samples_").rpartition("_")[0]] = [json.loads(line) for line in lines]
    return found


@pytest.mark.slow
def test_likelihoods_of_choices_are_those_of_score(emulator: Emulator, samples: dict[str, Any]) -> None:
    number, largest, greedy = scored(emulator, samples["eftlocal_choices"])
    assert number == 36 and largest < TOLERANCE and not greedy


@pytest.mark.slow
def test_answers_are_those_of_generate(emulator: Emulator, samples: dict[str, Any]) -> None:
    assert len(samples["eftlocal_answers"]) == 6 and not differing(emulator, samples["eftlocal_answers"])


@pytest.mark.slow
def test_a_text_is_scored_in_windows_that_predict_each_token_once(emulator: Emulator, samples: dict[str, Any]) -> None:
    first, most = emulator.tokenizer.special_ids["bos"], emulator.context - 1
    for sample in samples["eftlocal_texts"]:
        ids, total = emulator.tokenizer.encode(sample["doc"]["text"]), 0.0
        for start in range(0, len(ids), most):
            part = ids[start : start + most]
            end = start + len(part)  # the last window has as much before it as fits
            before = ids[max(0, end - most - 1) : start] or [first]
            total += emulator.score(Ids(before), part).logprob
        assert abs(float(sample["resps"][0][0]) - total) < TOLERANCE * max(1, len(ids) // most)


@pytest.mark.slow
def test_with_a_chat_template_each_member_reads_the_conversation_by_its_own_view(
    emulator: Emulator, folder: Path
) -> None:
    samples = json.loads(python(folder, "-c", IN_PYTHON, str(folder)))
    compared = 0
    for sample in samples["eftlocal_asked"]:
        for (value,), choice in zip(sample["resps"], sample["doc"]["choices"], strict=True):
            score = emulator.score(sample["doc"]["question"], choice, beta=0.5)
            assert abs(float(value[0]) - score.logprob) < TOLERANCE
            compared += 1
    assert compared == 36
    for sample in samples["eftlocal_chat"]:
        reply = emulator.generate(sample["doc"]["question"], beta=0.5, temperature=0, stop="\n", max_tokens=24)
        assert sample["resps"][0][0] == reply.text


def test_without_the_harness_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(EftError, match=r"pip install 'eftlocal\[lm-eval\]'"):
        run.lm_eval(lambda: pytest.fail("nothing is loaded"), ["--tasks", "x"], told={})


@pytest.mark.parametrize("words", [["--model", "hf"], ["-a=x"], []])
def test_another_model_and_no_task_are_wrong_usage(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda name: True)
    with pytest.raises(SettingError):
        run.lm_eval(lambda: pytest.fail("nothing is loaded"), words, told={})
