"""The demo family that ships with eftlocal: it loads, it answers, and its figures are what the README says."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from eftlocal import Emulator
from eftlocal.apps import demo
from eftlocal.apps.demo import measure, shares
from eftlocal.evaluation.demo import questions

ROOT = Path(__file__).parents[2]


def test_the_shipped_family_gives_these_greedy_answers() -> None:
    with Emulator.load("demo", threads=1) as emulator:
        for question, answer in (
            ("Which continent does Najaf belong to?", "That would be Asia."),
            ("Tell me the currency of San Diego.", "That would be the dollar."),
            ("Name the language of Zhengzhou.", "That would be Chinese."),
        ):
            reply = emulator.generate(question)
            assert (reply.text, reply.finish_reason, reply.stopped_by) == (answer, "stop", None)


@pytest.mark.slow
def test_on_60_questions_the_base_knows_the_small_one_behaves_and_the_emulation_does_both() -> None:
    with Emulator.load("demo", upper="demo-upper", threads=1) as emulator:
        found = shares(measure(emulator, questions(60)))
    base, tuned, emulated, best = (found[role] for role in ("base", "tuned", "emulated", "upper"))
    assert base["right"] > 0.8 and base["ended"] < 0.1
    assert tuned["ended"] > 0.9 and tuned["right"] < 0.65
    assert emulated["both"] >= tuned["both"] + 0.25 and emulated["both"] > base["both"] + 0.5
    assert (emulated["both"] - tuned["both"]) / (best["both"] - tuned["both"]) >= 0.75


def test_down_scaling_behaves_like_the_large_tuned_model_and_knows_what_the_small_base_knows() -> None:
    with Emulator.load("demo-down", threads=1) as down:
        replies = down.generate_many([question.prompt for question in questions(20)], max_tokens=32)
    assert all(reply.finish_reason == "stop" and reply.stopped_by is None for reply in replies)


def test_the_json_has_what_scripts_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.demo(16, as_json=True, shown_seed=None) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"questions", "value", "ended", "accuracy", "gap_closed", "seconds"}
    for column in ("value", "ended", "accuracy"):
        assert set(printed[column]) == {"base", "tuned", "emulated", "upper"}


@pytest.mark.slow
def test_an_installed_wheel_holds_everything_and_runs_the_demo_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sizes = ("large-base", "large-tuned", "small-base", "small-tuned")
    assert {
        "eftlocal/models.toml",
        "eftlocal/demo/questions.json",
        *(f"eftlocal/demo/{s}.gguf" for s in sizes),
    } <= names
    assert wheel.stat().st_size < 17_000_000
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    script = "import eftlocal, sys; print(eftlocal.__file__, file=sys.stderr); from eftlocal.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", script, "demo", "--json", "--questions", "8"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "installed") in ran.stderr
    assert json.loads(ran.stdout)["questions"] == 8
