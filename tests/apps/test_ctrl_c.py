"""Ctrl-C at any moment of a command: it ends at once with 130, prints no traceback, and a batch keeps whole lines."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.apps.terminal import CTRL_C, Terminal

PRESSES = int(os.environ.get("EFTLOCAL_TEST_INTERRUPTS", "4"))  # for each command
PROGRAM = [sys.executable, "-c", "import sys; from eftlocal.cli import main; print(file=sys.stderr); main()"]
QUESTION = ["-e", "demo", "How large is Lyon?"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")]


def press(words: list[str], seconds: float, folder: Path, **options: object) -> tuple[int, bytes, str, float]:
    """Runs the command and presses Ctrl-C. Returns exit code, stdout, stderr, and the seconds until it ended."""
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}
    with subprocess.Popen(
        [*PROGRAM, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    ) as run:  # type: ignore[call-overload]  # options of subprocess
        assert run.stderr.read(1) == b"\n"  # before that, Python itself has Ctrl-C
        time.sleep(seconds)
        run.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            out, err = run.communicate(timeout=20)
        finally:
            run.kill()
    return run.returncode, out, err.decode(), time.monotonic() - began


@pytest.mark.parametrize("command", ["generate", "json", "score", "batch", "list", "demo", "bench"])
def test_ctrl_c_at_any_moment_ends_the_command_and_tears_no_line(command: str, tmp_path: Path) -> None:
    rng, source = random.Random(command), tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"How large is city {i}?"}) + "\n" for i in range(3000)))
    for i in range(PRESSES):
        out = tmp_path / f"out{i}.jsonl"
        words = {
            "generate": ["generate", *QUESTION, "--max-tokens", "400"],
            "json": ["generate", *QUESTION, "--max-tokens", "400", "--json"],
            "score": ["score", "-e", "demo", "--prompt", "a", "--completion", "b " * 90],
            "batch": ["generate", "-e", "demo", "-i", str(source), "-o", str(out), "--quiet"],
            "list": ["list"],
            "demo": ["demo"],
            "bench": ["bench", "demo"],
        }[command]
        code, printed, err, seconds = press(words, rng.uniform(0, 1.5), tmp_path, stdin=subprocess.DEVNULL)
        assert code in (130, 0, -signal.SIGINT)  # 0: it had ended; -SIGINT: Python was ending
        assert seconds < 5 and err == ""
        if command == "json" and printed:
            assert json.loads(printed)["finish_reason"] in ("stop", "length", "cancelled")
        if out.exists():
            text = out.read_bytes()
            assert text[-1:] in (b"\n", b"")  # empty: no answer had ended
            assert all(json.loads(line)["text"] is not None for line in text.splitlines())


@pytest.mark.parametrize("words", [["generate", "-e", "demo"], ["generate", "-e", "demo", "-i", "-"], ["chat", "demo"]])
def test_ctrl_c_ends_a_command_that_waits_for_its_input(words: list[str], tmp_path: Path) -> None:
    reads, writes = os.pipe()
    try:
        code, out, err, seconds = press(words, 1.5, tmp_path, stdin=reads)
    finally:
        os.close(reads)
        os.close(writes)
    assert code == 130 and out == b"" and "Traceback" not in err and seconds < 3


def test_ctrl_c_ends_an_answer_that_nobody_reads(tmp_path: Path) -> None:
    import fcntl

    reads, writes = os.pipe()
    fcntl.fcntl(writes, 1031, 4096)  # F_SETPIPE_SZ
    os.write(writes, b"x" * 4096)  # it is full
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    with subprocess.Popen([*PROGRAM, "generate", *QUESTION], env=env, stdout=writes, stderr=subprocess.PIPE) as run:
        time.sleep(2)
        run.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            assert run.wait(10) == 130 and time.monotonic() - began < 2
        finally:
            run.kill()
        assert run.stderr is not None and run.stderr.read() == b"\n"
    os.close(reads)
    os.close(writes)


@pytest.mark.parametrize("command", [["demo"], ["bench", "demo"]])
def test_ctrl_c_leaves_a_terminal_with_its_cursor(command: list[str], tmp_path: Path) -> None:
    with Terminal("-c", "from eftlocal.cli import main; main()", *command, data=tmp_path) as terminal:
        terminal.until(lambda: b"\x1b[?25l" in terminal.raw, "the first row of progress")
        terminal.send(CTRL_C)
        assert terminal.close() == 130
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")


def test_ctrl_c_leaves_no_folder_of_the_bench_behind(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    words = [*PROGRAM, "bench", "demo", "--synthetic-base", "200M"]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        while not list(tmp_path.glob("eftlocal-bench-*")) and run.poll() is None:
            time.sleep(0.02)
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 130
    assert not list(tmp_path.glob("eftlocal-bench-*"))
