"""Tests of `eftlocal tune` as a process: killed at any moment, the same command ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.families import Family

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("EFTLOCAL_TEST_KILLS", "2"))


@pytest.fixture
def command(family: Family, tmp_path: Path) -> list[str]:
    data = tmp_path / "data.jsonl"
    lines = [{"prompt": f"Say {i}", "completion": f"{i % 3} on, mate"} for i in range(40)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    program = [sys.executable, "-m", "eftlocal", "tune", str(data), "--reference", str(family.reference)]
    return [*program, "--threads", "1", "--epochs", "200", "--lr", "1e-4", "-o"]


def start(command: list[str], output: Path) -> subprocess.Popen[str]:
    """Starts the command, with a models.toml of its own beside its output."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(output.parent / "config"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, str(output)], stderr=subprocess.PIPE, text=True, env=environment)


def until(process: subprocess.Popen[str], text: str) -> str:
    """Reads what the process tells until a line begins so, or until its end."""
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        if line.startswith(text):
            break
    return told


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(command: list[str], tmp_path: Path) -> None:
    whole = start(command, tmp_path / "voice")
    assert whole.communicate()[1].endswith("eftlocal chat voice\n") and whole.returncode == 0
    (tmp_path / "again").mkdir()
    checkpoint = tmp_path / "again" / "voice.tune" / "checkpoint"
    went_on = 0
    for kill in range(KILLS + 1):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = start(command, tmp_path / "again" / "voice")
        told = until(process, "step " if kill < KILLS else "no line")
        went_on += "going on after step" in told
        while kill < KILLS and process.poll() is None:  # one is written each second
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        code = process.wait()
        assert process.stderr is not None
        process.stderr.close()
        if code == 0:  # it was done before it could be killed
            break
    assert code == 0 and went_on >= 1
    assert (tmp_path / "again" / "voice.gguf").read_bytes() == (tmp_path / "voice.gguf").read_bytes()


def test_ctrl_c_ends_after_the_step_and_leaves_the_best(command: list[str], tmp_path: Path) -> None:
    process = start(command, tmp_path / "voice")
    until(process, "step ")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert "stopping after this step" in told and "(the best so far)" in told
    assert told.endswith("stopped; the same command goes on from here\n")
    assert (tmp_path / "voice.gguf").exists() and (tmp_path / "voice.tune" / "checkpoint").exists()


def test_ctrl_c_before_the_training_leaves_nothing(command: list[str], tmp_path: Path) -> None:
    process = start(command, tmp_path / "voice")
    until(process, "the model is computed as llama.cpp does it")
    process.send_signal(signal.SIGSTOP)  # so that the training has not begun
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, told = process.communicate()
    assert process.returncode == 130
    if "stopping after this step" not in told:
        assert not list(tmp_path.glob("voice*"))


def test_ctrl_c_while_it_is_judged_says_that_the_same_command_goes_on(command: list[str], tmp_path: Path) -> None:
    quick = [*command[:-4], "2", *command[-3:]]  # epochs
    process = start(quick, tmp_path / "voice")
    until(process, "held out, the small model's loss")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and "the same command goes on from here" in told
    assert (tmp_path / "voice.gguf").exists() and not (tmp_path / "voice.tune" / "lock").exists()
    again = start(quick, tmp_path / "voice")
    assert "going on after step 10 of 10" in again.communicate()[1] and again.returncode == 0


def test_help_does_not_load_torch_and_a_mistake_is_one_line(command: list[str], tmp_path: Path) -> None:
    script = "import sys; from eftlocal.cli.commands import app; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"
    wrong = subprocess.run([*command, str(tmp_path / "x"), "--lr", "0"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr == "eftlocal: lr is 0; it must be above 0.\n"


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from eftlocal.cli import main; main()"
    words = [sys.executable, "-c", script, "tune", "x.jsonl", "--reference", "y.gguf", "-o", str(tmp_path / "z")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("eftlocal: Training needs the package torch, which is not installed.\npip install")


# --- the emulator -----------------------------------------------------------------------------------------------------


def program(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "eftlocal", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_trained_model_is_an_emulator_that_answers(
    command: list[str], family: Family, tmp_path: Path, method: str
) -> None:
    data, home = command[4], tmp_path / "home"
    options = ["--method", method, "--base", family.base, "--lr", "3e-3", "--epochs", "4", "--threads", "1"]
    tune = ("tune", data, "--reference", family.reference, *options, "-o", tmp_path / "voice")
    done = program(home, *tune)
    assert done.returncode == 0, done.stderr
    assert "views: base transcript, tuned chat, reference chat" in done.stderr
    assert "now defines voice: eftlocal chat voice" in done.stderr
    answer = program(home, "generate", "-e", "voice", "--temperature", 0, "--max-tokens", 16, "Say 4")
    assert answer.returncode == 0 and answer.stdout.endswith(" on, mate\n"), answer.stdout
    again = program(home, *tune)
    assert again.returncode == 1 and 'the emulator "voice" is already defined' in again.stderr
    assert program(home, *tune, "--dry-run", "--force").returncode == 0


def test_for_an_emulator_its_reference_base_and_settings_are_taken(command: list[str], tmp_path: Path) -> None:
    data, home = command[4], tmp_path / "home"
    options = ["--for", "demo", "--method", "mofo", "--epochs", "2", "--threads", "1"]
    done = program(home, "tune", data, *options, "-o", tmp_path / "voice")
    assert done.returncode == 0, done.stderr
    assert "held out, the emulator's loss: " in done.stderr
    assert program(home, "show", "voice").returncode == 0
    toml = (home / "eftlocal" / "models.toml").read_text()
    assert 'base = "demo-large-base"' in toml and 'reference = "demo-small-base"' in toml
    assert "sampling = { temperature = 0.0, max_tokens = 48 }" in toml


def test_rm_names_the_adapter_that_stays_and_each_file_once(command: list[str], tmp_path: Path) -> None:
    home, voice = tmp_path / "home", tmp_path / "voice.gguf"
    options = ["--for", "demo", "--epochs", "1", "--lr", "1e-3", "--threads", "1"]
    assert program(home, "tune", command[4], *options, "-o", voice).returncode == 0
    done = program(home, "rm", "voice", "--yes")
    lines = [line for line in done.stderr.splitlines() if line.startswith("kept: ")]
    assert f"kept: {voice} is your own file" in lines and voice.exists()
    assert sum("small-base.gguf" in line for line in lines) == 1


def test_without_a_base_the_trained_model_is_an_emulator_alone(
    command: list[str], family: Family, tmp_path: Path
) -> None:
    data, home = command[4], tmp_path / "home"
    options = ["--reference", family.reference, "--epochs", "2", "--threads", "1"]
    done = program(home, "tune", data, *options, "-o", tmp_path / "voice")
    assert done.returncode == 0, done.stderr
    assert "nothing is emulated, it answers as the model does by itself" in done.stderr
    assert program(home, "generate", "-e", "voice", "--max-tokens", 4, "Say 4").returncode == 0
