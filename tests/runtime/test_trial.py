"""Tests of trying a suspicious model in another process: an abort becomes an error, and other models cost nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Never

import pytest

from eftlocal.errors import ModelLoadError
from eftlocal.runtime import gguf, trial
from eftlocal.runtime.llama.model import Model
from tests import families
from tests.families import Family
from tests.runtime.altered import altered, ends_llama_cpp


@pytest.fixture
def deadly(tmp_path: Path) -> Path:
    """A model of an architecture that is not known to be safe, on which llama.cpp aborts: 3 heads of keys for 4."""
    return families.write_model(tmp_path / "deadly.gguf", seed=1, architecture="internlm2", n_head_kv=3)


def test_a_model_that_ends_its_trial_is_refused_before_it_is_loaded(deadly: Path) -> None:
    assert ends_llama_cpp([deadly]) == [True]
    with pytest.raises(ModelLoadError) as caught:
        Model(gguf.check(deadly))
    message, hint = caught.value.message, caught.value.hint
    assert message.startswith(f"{deadly}: llama.cpp ended the process in which this file was tried (")
    assert "GGML_ASSERT" in message and message.endswith("perhaps because of the architecture internlm2")
    assert "\n" not in message and hint == trial.HINT


def test_a_suspicious_model_that_survives_its_trial_is_loaded(family: Family, tmp_path: Path) -> None:
    path = altered(family.tuned, tmp_path / "odd.gguf", {"llama.pooling_type": 0})
    Model(gguf.check(path)).close()


def test_a_suspicious_model_that_llama_cpp_refuses_gives_its_reason(family: Family, tmp_path: Path) -> None:
    path = families.write_model(tmp_path / "unknown.gguf", seed=1, architecture="notyet")
    with pytest.raises(ModelLoadError, match=r"could not load it: .*unknown model architecture: 'notyet'"):
        Model(gguf.check(path))


def test_a_model_that_is_known_to_be_safe_starts_no_process(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Never:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    for path in (family.tuned, family.sliding, family.recurrent):
        trial.must_survive(gguf.check(path))


def test_a_file_is_tried_once_until_it_changes(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    path = altered(family.tuned, tmp_path / "odd.gguf", {"llama.pooling_type": 0})
    for _ in range(2):
        trial.must_survive(gguf.check(path))
    assert len(commands) == 1
    altered(family.tuned2, path, {"llama.pooling_type": 0})
    trial.must_survive(gguf.check(path))
    assert len(commands) == 2


def test_a_trial_that_hangs_or_cannot_start_ends(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = gguf.check(altered(family.tuned, tmp_path / "odd.gguf", {"llama.pooling_type": 0}))

    def hang(command: list[str], **_: object) -> Never:
        raise subprocess.TimeoutExpired(command, trial.SECONDS)

    def fail(*_: object, **__: object) -> Never:
        raise OSError("no processes here")

    monkeypatch.setattr(subprocess, "run", fail)
    trial.must_survive(header)
    monkeypatch.setattr(subprocess, "run", hang)
    other = gguf.check(altered(family.tuned, tmp_path / "other.gguf", {"llama.pooling_type": 0}))
    with pytest.raises(ModelLoadError, match="it did not end in 120 seconds"):
        trial.must_survive(other)


def test_a_model_that_is_far_away_is_not_tried(family: Family, tmp_path: Path) -> None:
    path = altered(family.tuned, tmp_path / "odd.gguf", {"llama.pooling_type": 0})
    header = gguf.check(path)
    path.unlink()
    trial.must_survive(header)


@pytest.mark.slow
def test_a_trial_ends_with_the_process_that_began_it(family: Family) -> None:
    """Ctrl-C and kill -9 end that process, and the trial has a session of its own."""
    code = "import os, time\nfrom eftlocal.runtime.llama import trial\ntrial._try = lambda *_, **__: time.sleep(60)\n"
    began = f"{code}print(os.getpid(), flush=True)\ntrial.main({str(family.base)!r})"
    reads, writes = os.pipe()
    with subprocess.Popen([sys.executable, "-c", began], stdin=reads, stdout=subprocess.PIPE) as child:
        os.close(reads)
        assert child.stdout is not None and child.stdout.readline()
        assert child.poll() is None
        os.close(writes)
        assert child.wait(10) == 0
