"""A run as a process: it is killed or interrupted, the disk is full, the pipe is closed, another run is beside it."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eftlocal.apps import batch
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError
from eftlocal.evaluation.demo import questions
from tests.apps.batch.fake import Scripted, over

pytestmark = pytest.mark.slow  # each test starts processes; many are killed and resumed

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("EFTLOCAL_TEST_KILLS", "6"))

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and locks of POSIX")


def start(*words: object, **options: Any) -> "subprocess.Popen[bytes]":
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "tests.apps.batch.program", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, **(pipes | options))


def finish(*words: object, **options: Any) -> tuple[int, str]:
    with start(*words, **options) as process:
        _, err = process.communicate(timeout=120)
    return process.returncode, err.decode()


def wait_for(path: Path, lines: int) -> None:
    """Wait until the file has so many lines."""
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"p{i}\n" for i in range(300)))
    return path


# --- runs with real models --------------------------------------------------------------------------------------------


def test_answers_are_those_that_single_calls_give(tmp_path: Path, out: Path) -> None:
    asked = [question.prompt for question in questions(24)]
    lines: list[dict[str, Any]] = [{"prompt": text} for text in asked[:8]]
    lines += [{"messages": [{"role": "user", "content": text}], "beta": 0.5} for text in asked[8:16]]
    lines += [{"prompt": text, "seed": i, "temperature": 1.0, "max_tokens": 6} for i, text in enumerate(asked[16:])]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert batch.generate(lambda _: Emulator.load("demo", kv_type="f32"), over(path, out, quiet=True)) == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    with Emulator.load("demo", kv_type="f32") as emulator:
        for text, line, got in zip(asked, lines, written, strict=True):
            own = {key: value for key, value in line.items() if key not in ("prompt", "messages")}
            reply = emulator.generate(text, **own)
            assert (got["text"], got["finish_reason"]) == (reply.text, reply.finish_reason)
            assert got["usage"]["prompt_tokens"] == reply.prompt_tokens
        assert set(written[0]["models"]) == {spec.name for spec in emulator.members.specs}


def test_a_constraint_and_log_probabilities_are_told(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{question.prompt}\n" for question in questions(2)))
    choice = Constraint.choice(["yes", "no"])

    def load(_: object) -> Emulator:
        return Emulator.load("demo", constraint=choice, logprobs=2)

    assert batch.generate(load, over(path, out, quiet=True)) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for line in lines:
        assert line["text"] in ("yes", "no") and line["complete"] is True
        assert line["settings"]["constraint"] == {"choice": choice.text} and line["settings"]["logprobs"] == 2
        assert len(line["logprobs"]) == line["usage"]["completion_tokens"]
        token = line["logprobs"][0]
        assert set(token) == {"id", "text", "logprob", "base", "rewards", "top"} and len(token["top"]) == 2
    assert batch.generate(load, over(path, out, quiet=True)) == 0
    with pytest.raises(EftError, match="made with constraint "):
        batch.generate(lambda _: Emulator.load("demo", logprobs=2), over(path, out, quiet=True))


def test_scores_are_those_that_single_calls_give(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.jsonl"
    pairs = [(question.prompt, ["That would be Asia.", question.answers[-1]]) for question in questions(8)]
    path.write_text("".join(json.dumps({"prompt": p, "completions": c}) + "\n" for p, c in pairs))
    assert batch.score(lambda _: Emulator.load("demo", kv_type="f32"), over(path, out, quiet=True)) == 0
    with Emulator.load("demo", kv_type="f32") as emulator:
        for (prompt, completions), line in zip(pairs, out.read_text().splitlines(), strict=True):
            for completion, found in zip(completions, json.loads(line)["scores"], strict=True):
                score = emulator.score(prompt, completion)
                assert found["logprob"] == pytest.approx(score.logprob, abs=1e-4)
                tuned = sum(token.rewards["answers"]["tuned"] for token in score.tokens)
                assert found["rewards"]["answers"]["tuned"] == pytest.approx(tuned, abs=1e-4)
                assert found["completion_tokens"] == len(score.tokens)


@posix
def test_killed_at_any_moment_the_next_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    path, whole, out = tmp_path / "in.txt", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(f"{question.prompt}\n" for question in questions(150)))
    words = ("kind=demo", "seed=1", "quiet=true", "parallel=8")
    began = time.monotonic()
    assert finish(path, whole, *words) == (0, "")
    span, rng = time.monotonic() - began, random.Random(5)
    killed = 0
    while killed < KILLS:
        with start(path, out, *words) as process:
            time.sleep(rng.uniform(0.2, 0.9) * span)
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        if rng.random() < 0.5 and out.exists():  # as if it was killed in the middle of a write
            data = out.read_bytes()
            out.write_bytes(data[: max(0, len(data) - rng.randrange(2000))])
        if process.returncode == 0:  # it had finished before the kill
            out.unlink()
    assert finish(path, out, *words) == (0, "")
    assert out.read_bytes() == whole.read_bytes()


# --- interruptions ----------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_it_with_a_summary_and_code_130(source: Path, out: Path, times: int) -> None:
    with start(source, out, "step=0.05") as process:
        wait_for(out, 9)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=30)
    ends = (130,) if times == 1 else (130, -signal.SIGINT)  # the second may come while Python itself ends
    assert process.returncode in ends and b"of 300 answers, " in err and b"Traceback" not in err
    assert out.read_bytes().endswith(b"\n")
    done = out.read_bytes().count(b"\n")
    assert 9 <= done < 300
    code, again = finish(source, out)
    assert code == 0 and f"300 answers ({done} of them earlier)" in again


@posix
def test_a_reader_that_leaves_ends_it_quietly(source: Path) -> None:
    with start(source, "-", "step=0.01") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b'{"index": 1, ')
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=30) == 0


# --- a slow pipe ------------------------------------------------------------------------------------------------------


def answered(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """The next line that the process writes."""
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def give(process: "subprocess.Popen[bytes]", text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.flush()


@pytest.mark.parametrize("words", [("quiet=true",), ("kind=demo", "seed=1", "quiet=true"), ("score=true",)], ids=str)
def test_a_line_is_answered_while_the_next_one_is_still_held_back(words: tuple[str, ...]) -> None:
    with start("-", "-", *words, stdin=subprocess.PIPE) as process:
        for number in (1, 2):
            give(process, f'{{"prompt": "p{number}", "completion": "c"}}\n')
            assert answered(process)["index"] == number
        give(process, '{"prompt": "p3", "completion": "c"}')  # without a line end
        rest, err = process.communicate(timeout=30)
    assert process.returncode == 0 and json.loads(rest)["index"] == 3
    assert err == b"" or "score=true" in words


def test_what_runs_goes_on_while_a_line_is_waited_for_and_the_order_is_kept() -> None:
    with start("-", "-", "step=0.01", "quiet=true", stdin=subprocess.PIPE) as process:
        give(process, "slow 30 p1\np2\n")
        assert [answered(process)["prompt"] for _ in range(2)] == ["slow 30 p1", "p2"]
        give(process, "p3\n")
        assert answered(process)["prompt"] == "p3"
        process.communicate(timeout=30)
    assert process.returncode == 0


@posix
def test_only_what_may_have_to_wait_is_read_in_a_thread(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    script = "import sys\nfrom eftlocal.runs.reader import Source\nprint(Source.of(sys.argv[1], 'text').waits)"
    with source.open("rb") as file:
        for path, stdin, waits in (
            ("-", file, b"False\n"),
            (str(source), subprocess.DEVNULL, b"False\n"),
            ("-", subprocess.PIPE, b"True\n"),
            (str(tmp_path / "pipe"), subprocess.DEVNULL, b"True\n"),
        ):
            with subprocess.Popen([sys.executable, "-c", script, path], stdin=stdin, stdout=subprocess.PIPE) as asked:
                assert asked.communicate(timeout=30)[0] == waits


@posix
def test_a_named_pipe_as_input_is_waited_for_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with start(pipe, "-", "quiet=true") as process, pipe.open("w") as writer:
        writer.write("p1\n")
        writer.flush()
        assert answered(process)["prompt"] == "p1"
        writer.close()
        assert process.wait(timeout=30) == 0


@posix
@pytest.mark.parametrize("words", [(), ("kind=demo",), ("score=true",)], ids=str)
def test_one_ctrl_c_ends_the_wait_for_a_line(words: tuple[str, ...]) -> None:
    with start("-", "-", *words, stdin=subprocess.PIPE) as process:
        give(process, '{"prompt": "p1", "completion": "c"}\n')
        assert answered(process)["index"] == 1
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130  # although its input is still open
        assert process.stderr is not None
        err = process.stderr.read()
    assert b"1 answer" in err or b"1 score" in err
    assert b"Traceback" not in err and b"Fatal" not in err


@posix
def test_a_pipe_that_ends_with_ctrl_c_is_no_whole_input() -> None:
    for _ in range(8):  # which of both comes first is chance
        with start("-", "-", stdin=subprocess.PIPE) as process:
            give(process, '{"prompt": "p1"}\n')
            assert answered(process)["index"] == 1
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.stdin is not None
            process.stdin.close()  # as the program before the pipe does, which gets Ctrl-C too
            assert process.wait(timeout=10) == 130


def test_an_error_ends_it_while_the_input_is_still_open() -> None:
    with start("-", "-", stdin=subprocess.PIPE) as process:
        give(process, '{"prompt": "p1"}\n{"prompt": 2}\n{"prompt": "p3"}\n')
        assert answered(process)["index"] == 1
        assert process.wait(timeout=10) == 1
        assert process.stderr is not None
        err = process.stderr.read().decode()
    assert "eftlocal: <stdin>:2: prompt is 2; it must be a string\n" in err and "Fatal" not in err


@posix
def test_an_input_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as only_to_write:
        code, err = finish("-", "-", stdin=only_to_write)
    assert code == 1 and "eftlocal: <stdin> cannot be read: Bad file descriptor.\n" in err


# --- disks ------------------------------------------------------------------------------------------------------------


@posix
def test_a_full_disk_is_told_and_nothing_is_lost(source: Path, out: Path) -> None:
    code, err = finish(source, out, "limit=40000", "seed=1")
    assert code == 1 and f"{out} cannot be written: File too large.\n" in err
    assert "Run the same command again to continue." in err
    assert "of 300 answers" in err and "Traceback" not in err
    data = out.read_bytes()
    assert data.endswith(b"\n") and 39_000 < len(data) <= 40_000
    assert finish(source, out, "seed=1")[0] == 0
    assert out.read_bytes().startswith(data) and out.read_bytes().count(b"\n") == 300


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("target", ["-", "/dev/full"])
def test_a_full_device_is_told(source: Path, target: str) -> None:
    with Path("/dev/full").open("wb") as full:
        code, err = finish(source, target, stdout=full)
    name = "<stdout>" if target == "-" else target
    assert code == 1 and f"{name} cannot be written: No space left on device.\n" in err and "Exception" not in err


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder that everybody can read, but its owner cannot write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.txt").write_text("a\n")
        (folder / "there.jsonl").touch(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@posix
@pytest.mark.parametrize("name", ["new.jsonl", "there.jsonl"])
def test_a_read_only_folder_or_file_is_told(locked_folder: Path, name: str) -> None:
    become = ["user=65534"] if os.geteuid() == 0 else []  # root can write everywhere
    code, err = finish(locked_folder / "in.txt", locked_folder / name, *become)
    assert (code, err) == (1, f"eftlocal: {locked_folder / name} cannot be written: Permission denied.\n")


@posix
def test_a_place_that_is_none_is_told(source: Path, tmp_path: Path) -> None:
    for target, reason in ((tmp_path / "no" / "out.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(EftError, match=f"cannot be written: {reason}"):
            batch.generate(Scripted().load, over(source, target))


@posix
def test_a_named_pipe_is_a_stream(source: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with start(source, pipe, "quiet=true") as process:
        assert pipe.read_bytes().count(b"\n") == 300
        assert process.wait(timeout=30) == 0


# --- two runs at the same time, and many lines ------------------------------------------------------------------------


@posix
def test_two_runs_do_not_write_one_file(source: Path, out: Path) -> None:
    with start(source, out, "step=0.1") as first:
        wait_for(out, 1)
        code, err = finish(source, out)
        assert (code, first.poll()) == (1, None)
        assert err.startswith(f"eftlocal: {out} is being written by another run.\n")
        first.kill()
    assert finish(source, out)[0] == 0
    assert [json.loads(line)["index"] for line in out.read_bytes().splitlines()] == list(range(1, 301))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_ten_thousand_lines_take_the_memory_of_a_thousand(tmp_path: Path, out: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    def look(_: int) -> None:
        for mark in (1000, 10_000):
            if emulator.pulled >= mark and mark not in seen:
                seen[mark] = resident()

    seen: dict[int, int] = {}
    emulator = Scripted(parallel=8, on_step=look)
    path = tmp_path / "in.jsonl"
    with path.open("w") as file:
        for i in range(10_000):
            file.write(
                json.dumps({"id": i, "prompt": f"{'slow 50' if i % 100 == 0 else ''} p{i}", "x": "y" * 2000}) + "\n"
            )
    assert batch.generate(emulator.load, over(path, out, quiet=True)) == 0
    assert seen[10_000] < 1.05 * seen[1000]
    assert [json.loads(line)["index"] for line in out.read_bytes().splitlines()] == list(range(1, 10_001))
