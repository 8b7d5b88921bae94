"""Tests of whole runs on tiny models: what is written works, and what was interrupted ends with the same bytes."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal.apps.tune import run
from eftlocal.apps.tune.options import Options
from eftlocal.apps.tune.run import Outcome, tune
from eftlocal.catalog.models import Catalog
from eftlocal.errors import EftError, FitError, SettingError, TrainingError
from eftlocal.runtime import gguf
from eftlocal.runtime.plan.machine import Machine
from eftlocal.training import parity, weights
from tests.families import Family

Tune = Callable[..., Outcome]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    lines = [{"prompt": f"Say {i}", "completion": f"{i % 3} on, mate"} for i in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"Say {i}", "chosen": "Yes, mate", "rejected": "No"} for i in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def options(family: Family, data: Path, tmp_path: Path) -> Options:
    return Options(
        data=(data,), output=tmp_path / "voice.gguf", reference=str(family.reference), epochs=3, lr=3e-3, threads=1
    )


def finished(options: Options) -> Outcome:
    outcome = tune(Catalog(), options)
    assert outcome.exit_code == 0 and outcome.path == options.output
    return outcome


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "full", "mofo"])
def test_a_run_learns_and_writes_what_llama_cpp_computes(options: Options, family: Family, method: Any) -> None:
    outcome = finished(replace(options, method=method))
    assert outcome.before is not None and outcome.after is not None and outcome.after < 0.8 * outcome.before
    reference, path = gguf.check(family.reference), options.output
    tokens = list(range(40, 80))
    plain = parity.llama_cpps(reference, tokens)
    if method == "lora":
        assert gguf.check_lora(path).text("general.type") == "adapter"
        tuned = parity.llama_cpps(reference, tokens, lora=path)
    else:
        tuned = parity.llama_cpps(gguf.check(path), tokens)
    assert np.abs(tuned - plain).max() > 0.1


def test_the_file_says_how_it_was_made(options: Options, capfd: pytest.CaptureFixture[str]) -> None:
    finished(options)
    header = gguf.check_lora(options.output)
    settings = json.loads(header.text("eftlocal.tune.settings"))
    assert settings["lr"] == 3e-3 and settings["method"] == "lora" and settings["rank"] == 16
    assert len(header.text("eftlocal.tune.data_sha256")) == 64 and header.text("general.name") == "voice"
    told = capfd.readouterr().err
    assert "36 examples: " in told and "4 more are kept back" in told and "[<|im_end|>]" in told
    assert "step 15 of 15: loss" in told and "voice.gguf: an adapter" in told and "nats a token before" in told


def test_pairs_are_trained_by_dpo(options: Options, pairs: Path) -> None:
    outcome = finished(replace(options, data=(pairs,), method="dpo", lr=1e-2))
    assert outcome.before is not None and outcome.after is not None and outcome.after < outcome.before


def test_with_a_base_the_emulators_loss_is_trained(options: Options, family: Family) -> None:
    """Before the training the reward is 0, so the emulator is the base."""
    plain = finished(replace(options, reference=str(family.base), method="full", epochs=1))
    outcome = finished(replace(options, base=str(family.base), view="chat", output=options.output.with_name("b.gguf")))
    assert outcome.after is not None and outcome.before is not None and outcome.after < 0.9 * outcome.before
    assert outcome.emulator is not None and outcome.emulator.base == str(family.base)
    assert plain.before is not None and plain.before != pytest.approx(outcome.before, rel=1e-2)  # another view
    chat = finished(
        replace(options, reference=str(family.base), method="full", epochs=1, view="transcript",
                output=options.output.with_name("c.gguf"))
    )  # fmt: skip
    assert chat.before == pytest.approx(outcome.before, rel=1e-2)  # rows are stored in half precision


def test_a_texts_tokens_are_all_trained(options: Options, tmp_path: Path, family: Family) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(6):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"{i}. " + "The user is on the assistant. " * 8)
    outcome = finished(replace(options, data=(tmp_path / "texts",), length=64, base=str(family.base)))
    assert outcome.after is not None and outcome.before is not None and outcome.after < outcome.before


def test_a_single_text_has_nothing_kept_back_and_tells_its_steps(
    options: Options, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.md").write_text("The user is on the assistant. " * 60)
    outcome = finished(replace(options, data=(tmp_path / "text.md",), length=32, batch=4))
    assert outcome.before is None and outcome.after is None
    assert capfd.readouterr().err.count("\nstep ") == 10


def test_an_early_end_is_told(options: Options, capfd: pytest.CaptureFixture[str]) -> None:
    finished(replace(options, method="full", epochs=40, lr=0.1))
    assert "ended early: nothing better came in 4 looks" in capfd.readouterr().err


# --- before it starts -------------------------------------------------------------------------------------------------


def test_wrong_lines_are_told_and_nothing_is_trained(
    options: Options, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:3], '{"prompt": "Hi"}', *lines[3:], "{", ""]))
    assert tune(Catalog(), options).exit_code == 1
    told = capfd.readouterr().err
    assert f"{data}:4: has a question and no answer" in told and f"{data}:42: is not JSON" in told
    assert told.endswith("2 lines are wrong; nothing was trained\n") and not options.output.exists()


def test_a_dry_run_writes_nothing(options: Options, family: Family, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(options.output.parent.iterdir())
    outcome = tune(Catalog(), replace(options, base=str(family.base), dry_run=True))
    assert outcome.exit_code == 0 and set(options.output.parent.iterdir()) == before
    told = capfd.readouterr().err
    assert "3 epochs of" in told and "on the disk for what base and reference say" in told


def test_too_little_memory_is_refused_before_anything_is_read(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Machine(cores=1, memory=1 << 30, free=1 << 20, devices=())
    monkeypatch.setattr(run, "here", lambda: small)
    monkeypatch.setattr(weights, "read", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(FitError, match=r"takes about .* of memory; 1.05 MB are free"):
        tune(Catalog(), options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dpo"}, "dpo trains on pairs, and there is none"),
        ({"reference": None}, "No reference was named"),
        ({"base": "a", "emulator": "b"}, "--for and --base were both given"),
        ({"fraction": 0.0}, "mofo is 0; it must be above 0"),
        ({"lr": math.inf}, "lr is inf; it must be above 0"),
        ({"length": 4}, "length is 4; it must be at least 16"),
        ({"beta": 0.0}, "beta is 0"),
    ],
)
def test_what_is_not_possible_is_refused(options: Options, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        tune(Catalog(), replace(options, **changes))


def test_pairs_need_dpo_and_an_unknown_reference_is_told(options: Options, pairs: Path) -> None:
    with pytest.raises(SettingError, match=r"These are pairs.*\nTrain on them with --method dpo"):
        tune(Catalog(), replace(options, data=(pairs,)))
    with pytest.raises(EftError, match='no model is named "nothing"'):
        tune(Catalog(), replace(options, reference="nothing"))


# --- interruptions ----------------------------------------------------------------------------------------------------


class Impatient:
    """Stands in for Ctrl-C: it is asked for after a number of looks at it."""

    looks = 0

    def __enter__(self) -> "Impatient":
        self.left = self.looks
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def asked(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("steered", [False, True])
@pytest.mark.parametrize("method", ["lora", "mofo"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    options: Options, family: Family, monkeypatch: pytest.MonkeyPatch, method: Any, steered: bool
) -> None:
    options = replace(options, method=method, base=str(family.base) if steered else None)
    finished(options)
    wanted = options.output.read_bytes()
    monkeypatch.setattr(run, "Stop", Impatient)
    folder = options.output.parent / "again"
    folder.mkdir()
    again = replace(options, output=folder / "voice.gguf")
    codes = []
    for looks in (3, 40 if steered else 4, 41, 46, 1000):
        monkeypatch.setattr(Impatient, "looks", looks)
        codes.append(tune(Catalog(), again).exit_code)
    assert codes[0] == 130 and codes[-1] == 0
    assert again.output.read_bytes() == wanted


def test_a_finished_run_leaves_its_file_alone(options: Options, family: Family, data: Path) -> None:
    finished(replace(options, base=str(family.base)))
    assert sorted(path.name for path in options.output.parent.iterdir()) == [data.name, "voice.gguf"]


def test_a_stopped_run_leaves_its_best(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Stop", Impatient)
    monkeypatch.setattr(Impatient, "looks", 6)
    assert tune(Catalog(), options).exit_code == 130
    assert gguf.check_lora(options.output).text("eftlocal.tune.steps") == "6"


def test_a_run_with_other_settings_does_not_go_on_from_it(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Stop", Impatient)
    monkeypatch.setattr(Impatient, "looks", 6)
    tune(Catalog(), options)
    for other in (replace(options, seed=1), replace(options, rank=4), replace(options, view="transcript")):
        with pytest.raises(TrainingError, match="is of a run with other data, models or settings"):
            tune(Catalog(), other)
