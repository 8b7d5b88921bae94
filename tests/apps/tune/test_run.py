"""Tests of whole runs on tiny models: what is written works, and what was interrupted ends with the same bytes."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eftlocal import Emulator
from eftlocal.apps.tune import estimates, files, run
from eftlocal.apps.tune.data import WrongLinesError
from eftlocal.apps.tune.options import Options, gguf_path
from eftlocal.apps.tune.progress import TuneProgress
from eftlocal.apps.tune.run import Outcome
from eftlocal.catalog.models import Catalog
from eftlocal.errors import EftError, FitError, SettingError, TrainingError
from eftlocal.runtime import gguf
from eftlocal.runtime.plan.machine import Machine
from eftlocal.runtime.views import TRANSCRIPT, TRANSCRIPT_STOPS
from eftlocal.training import parity, weights
from tests.builders import write_catalog
from tests.families import CHATML, Family, write_model


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


def tune(options: Options, tell: Callable[[TuneProgress], None] = lambda _: None) -> Outcome | None:
    if options.dry_run:
        return run.tune(Catalog(), options, tell)
    with files.held(options):
        return run.tune(Catalog(), options, tell)


def finished(options: Options, tell: Callable[[TuneProgress], None] = lambda _: None) -> Outcome:
    outcome = tune(options, tell)
    assert outcome is not None and options.output.exists()
    files.clean(options)
    return outcome


def told(options: Options) -> tuple[str, list[TuneProgress]]:
    """The texts of a finished run, and all that it told."""
    found: list[TuneProgress] = []
    finished(options, found.append)
    return "\n".join(each.text for each in found if each.text), found


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


def test_a_whole_model_says_the_form_that_its_answers_were_trained_in_and_is_asked_as_before(
    options: Options, family: Family, tmp_path: Path
) -> None:
    plain = write_model(tmp_path / "plain.gguf", seed=3, chat_template=None)
    text = tmp_path / "text.md"
    text.write_text("The user is on the assistant. " * 60)
    made = replace(options, method="full", epochs=0.5)
    runs = [
        (replace(made, reference=str(plain)), TRANSCRIPT),
        (replace(made, reference=str(family.tuned), view="transcript"), TRANSCRIPT),
        (replace(made, reference=str(family.tuned)), CHATML),
        (replace(made, reference=str(plain), data=(text,), length=64), ""),
    ]
    for number, (each, template) in enumerate(runs):
        path = tmp_path / f"whole{number}.gguf"
        finished(replace(each, output=path))
        assert gguf.check(path).text("tokenizer.chat_template") == template
    whole, bare = (emulator_of(tmp_path, f"whole{number}.gguf") for number in (0, 3))
    with whole, bare:
        for view in (*whole.members.views, *bare.members.views):
            assert view.template == TRANSCRIPT and view.stops == TRANSCRIPT_STOPS
        assert whole.render("Why?") == bare.render("Why?")


def emulator_of(folder: Path, name: str) -> Emulator:
    """The model alone, as `auto` asks it."""
    return Emulator.load(models=write_catalog(folder, {"m": folder / name}, base="m"), threads=1)


def test_the_file_says_how_it_was_made(options: Options) -> None:
    text, steps = told(options)
    header = gguf.check_lora(options.output)
    settings = json.loads(header.text("eftlocal.tune.settings"))
    assert settings["lr"] == 3e-3 and settings["method"] == "lora" and settings["rank"] == 16
    assert len(header.text("eftlocal.tune.data_sha256")) == 64 and header.text("general.name") == "voice"
    assert "36 examples: " in text and "4 more are kept back" in text and "[<|im_end|>]" in text
    assert "voice.gguf: an adapter" in text and "nats a token before" in text
    trained = [each for each in steps if each.phase == "training"]
    assert [each.done for each in trained] == list(range(1, 16)) and all(each.total == 15 for each in trained)
    assert trained[-1].held_out is not None and trained[-1].left_s == 0 and trained[-1].small is None


def test_pairs_are_trained_by_dpo(options: Options, pairs: Path) -> None:
    found: list[TuneProgress] = []
    outcome = finished(replace(options, data=(pairs,), method="dpo", lr=1e-2), found.append)
    assert outcome.before is not None and outcome.after is not None and outcome.after < outcome.before
    assert any("held out, the loss of a pair: " in each.text for each in found)


def test_with_a_base_the_emulators_loss_is_trained(options: Options, family: Family) -> None:
    """Before the training the reward is 0, so the emulator is the base."""
    plain = finished(replace(options, reference=str(family.base), method="full", epochs=1))
    steered = replace(options, base=str(family.base), view="chat", output=options.output.with_name("b.gguf"))
    looks: list[TuneProgress] = []
    outcome = finished(steered, looks.append)
    assert outcome.after is not None and outcome.before is not None and outcome.after < 0.9 * outcome.before
    assert outcome.emulator.base == str(family.base)
    last = [each for each in looks if each.held_out is not None][-1]
    assert last.best and outcome.verdict is not None  # both losses are what llama.cpp finds afterwards
    assert last.small == pytest.approx(-outcome.verdict.alone["tuned"].logprob, rel=2e-2)
    assert last.held_out == pytest.approx(-outcome.verdict.emulated[1.0].logprob, rel=2e-2)
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


def test_a_single_text_has_nothing_kept_back(options: Options, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("The user is on the assistant. " * 60)
    outcome = finished(replace(options, data=(tmp_path / "text.md",), length=32, batch=4))
    assert outcome.before is None and outcome.after is None and outcome.verdict is None


def test_an_early_end_is_told(options: Options) -> None:
    text, _ = told(replace(options, method="full", epochs=40, lr=0.1))
    assert "ended early: nothing better came in 4 looks" in text


def test_without_a_learning_rate_a_trial_finds_it(options: Options) -> None:
    text, found = told(replace(options, lr=None))
    (line,) = (line for line in text.splitlines() if line.startswith("learning rate "))
    rate = float(line.split()[2].rstrip(","))
    settings = json.loads(gguf.check_lora(options.output).text("eftlocal.tune.settings"))
    assert settings["lr"] == rate and "trying learning rates, 4 steps at each of them" in text
    assert sum(each.phase == "trial" for each in found) >= 4


# --- before it starts -------------------------------------------------------------------------------------------------


def test_wrong_lines_are_an_error_and_nothing_is_trained(options: Options, data: Path) -> None:
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:3], '{"prompt": "Hi"}', *lines[3:], "{", ""]))
    with pytest.raises(
        WrongLinesError, match=r"2 lines are wrong; nothing was trained\.\nThe first one: .*:4: "
    ) as error:
        tune(options)
    first, second = (problem.message for problem in error.value.problems)
    assert first.startswith(f"{data}:4: has a question and no answer") and second.startswith(f"{data}:42: is not JSON")
    assert not options.output.exists()


def test_a_dry_run_writes_nothing(options: Options, family: Family) -> None:
    before = set(options.output.parent.iterdir())
    found: list[TuneProgress] = []
    assert tune(replace(options, base=str(family.base), dry_run=True), found.append) is None
    assert set(options.output.parent.iterdir()) == before
    text = "\n".join(each.text for each in found)
    assert "3 epochs of" in text and "on the disk for what base and reference say" in text


def test_too_little_memory_is_refused_before_anything_is_read(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Machine(cores=1, memory=1 << 30, free=1 << 20, devices=())
    monkeypatch.setattr(estimates, "here", lambda: small)
    monkeypatch.setattr(weights, "read", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(FitError, match=r"takes about .* of memory; 1.05 MB are free"):
        tune(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dpo"}, "dpo trains on pairs, and there is none"),
        ({"reference": None}, "No reference was named"),
        ({"base": "a", "emulator": "b"}, "--for and --base were both given"),
        ({"fraction": 0.0}, "mofo is 0; it must be above 0"),
        ({"lr": math.inf}, "lr is inf; it must be above 0"),
        ({"length": 4}, "length is 4; it must be at least 16"),
        ({"threads": -1}, "threads is -1; it must be at least 1"),
        ({"rank": 1.5}, "rank is 1.5; it must be at least 1"),
        ({"lr": "1e-3"}, "lr is '1e-3'; it must be above 0"),
        ({"seed": 1 << 63}, "seed is .*; it must be a whole number"),
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"beta": 0.0}, "beta is 0"),
        ({"kind": "q9"}, "type is 'q9'; it must be one of f32, f16,"),
        ({"kind": "q8_0"}, "lora writes an adapter, a few MB that are always f32"),
    ],
)
def test_what_is_not_possible_is_refused(options: Options, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        tune(replace(options, **changes))


def test_pairs_need_dpo_and_an_unknown_reference_is_told(options: Options, pairs: Path) -> None:
    with pytest.raises(SettingError, match=r"These are pairs.*\nTrain on them with --method dpo"):
        tune(replace(options, data=(pairs,)))
    with pytest.raises(EftError, match='no model is named "nothing"'):
        tune(replace(options, reference="nothing"))


def test_what_is_kept_back_must_be_of_the_methods_kind_too(options: Options, data: Path, pairs: Path) -> None:
    with pytest.raises(SettingError, match=r"These are pairs.*pairs\.jsonl:1"):
        tune(replace(options, valid=(pairs,)))
    with pytest.raises(SettingError, match=r"there is none: .*data\.jsonl:1"):
        tune(replace(options, data=(pairs,), valid=(data,), method="dpo"))


def test_examples_that_are_all_kept_back_are_told(options: Options, data: Path) -> None:
    with pytest.raises(SettingError, match="All examples are in --valid"):
        tune(replace(options, valid=(data,)))


@pytest.mark.parametrize("output", ["", ".", "/"])
def test_an_output_without_a_name_is_refused(output: str) -> None:
    with pytest.raises(SettingError, match="is no name of a file"):
        gguf_path(Path(output))


# --- interruptions ----------------------------------------------------------------------------------------------------


class Impatient:
    """Stands in for Ctrl-C: it is asked for after a number of looks at it."""

    looks = 0

    def __init__(self, tell: Callable[[], None]) -> None:
        pass

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
    stopped = 0
    for looks in (3, 40 if steered else 4, 41, 46, 1000):
        monkeypatch.setattr(Impatient, "looks", looks)
        try:
            tune(again)
        except KeyboardInterrupt:
            stopped += 1
    assert stopped >= 2 and again.output.read_bytes() == wanted


def test_a_run_goes_on_with_its_rate_and_its_way(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is not searched for again, and other free memory does not change how steps are computed."""
    options = replace(options, lr=None)
    monkeypatch.setattr(run, "Stop", Impatient)
    monkeypatch.setattr(Impatient, "looks", 40)  # the trial looks before each step, too
    with pytest.raises(KeyboardInterrupt):
        tune(options)
    assert options.plan.exists() and options.checkpoint.exists()
    before = json.loads(options.plan.read_text())
    monkeypatch.setattr(Impatient, "looks", 1000)
    monkeypatch.setattr(run, "tried_rate", lambda *_: pytest.fail("the rate was searched for again"))
    monkeypatch.setattr(estimates, "ways", lambda _: pytest.fail("another way was looked for"))
    finished(options)
    settings = json.loads(gguf.check_lora(options.output).text("eftlocal.tune.settings"))
    assert (settings["lr"], settings["fed"]) == (before["lr"], before["fed"])


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"identity": 3}'])
def test_a_plan_that_is_damaged_is_an_error(options: Options, text: str) -> None:
    options.folder.mkdir()
    options.plan.write_text(text)
    with pytest.raises(TrainingError, match=r"(cannot be read|other data).*\n.*[Dd]elete"):
        tune(options)


def test_a_finished_run_leaves_its_file_alone(options: Options, family: Family, data: Path) -> None:
    finished(replace(options, base=str(family.base)))
    assert sorted(path.name for path in options.output.parent.iterdir()) == [
        data.name,
        "voice.gguf",
        "voice.report.json",
    ]


def test_a_folder_is_not_replaced_by_a_file(options: Options) -> None:
    options.output.mkdir()
    with pytest.raises(SettingError, match=r"voice\.gguf is a folder"):
        options.must_be_free(force=True)


def test_two_runs_do_not_write_to_the_same_place(options: Options) -> None:
    with files.held(options), pytest.raises(EftError, match=r"voice\.tune is being written by another run"):
        tune(options)
    assert not options.folder.exists()  # nothing is left of a run that did not begin


def test_a_stopped_run_leaves_its_best(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Stop", Impatient)
    monkeypatch.setattr(Impatient, "looks", 6)
    with pytest.raises(KeyboardInterrupt):
        tune(options)
    assert gguf.check_lora(options.output).text("eftlocal.tune.steps") == "6"


def test_a_run_with_other_settings_does_not_go_on_from_it(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Stop", Impatient)
    monkeypatch.setattr(Impatient, "looks", 6)
    with pytest.raises(KeyboardInterrupt):
        tune(options)
    for other in (replace(options, seed=1), replace(options, rank=4), replace(options, view="transcript")):
        with pytest.raises(TrainingError, match="is of a run with other data, models or settings"):
            tune(other)
