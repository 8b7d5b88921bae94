"""Runs with a scripted emulator: what is written in which order, what a mistake does, and how a run is continued."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pytest

from eftlocal.apps import batch
from eftlocal.arithmetic.bias import Bias
from eftlocal.errors import EftError, SettingError
from eftlocal.runs import runner
from tests.apps.batch.fake import Scripted, over


class Ended(NamedTuple):
    code: int
    lines: list[dict[str, Any]]
    err: str


Go = Callable[..., Ended]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def go(tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> Go:
    """Run these lines, given as texts or as fields. `dials` are the settings of the emulator."""

    def go(lines: Sequence[str | dict[str, Any]], emulator: Scripted | None = None, **options: Any) -> Ended:
        dials = options.pop("dials", {})
        work = batch.score if options.pop("scored", False) else batch.generate
        path = tmp_path / "in.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        loaded = emulator or Scripted(**dials)
        capfd.readouterr()
        code = work(loaded.load, over(path, out, **options))
        assert loaded.closed
        return Ended(code, read(out), capfd.readouterr().err)

    return go


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def prompts(n: int) -> list[dict[str, Any]]:
    return [{"id": i, "prompt": f"p{i}"} for i in range(n)]


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_line_has_the_inputs_fields_the_answer_and_what_made_it(go: Go) -> None:
    code, (line,), err = go(
        [{"id": "x", "prompt": "Hi", "beta": 0.5, "text": "taken", "note": [1, {"a": None}]}], dials={"seed": 3}
    )
    assert code == 0
    assert list(line)[:2] == ["index", "digest"] and line["index"] == 1
    assert (line["id"], line["prompt"], line["beta"], line["note"]) == ("x", "Hi", 0.5, [1, {"a": None}])
    assert line["input_text"] == "taken" and line["text"].startswith("Hi 0.5 ") and line["finish_reason"] == "stop"
    assert line["usage"] == {"prompt_tokens": {"base": 2}, "completion_tokens": 3}
    settings = line["settings"]
    assert (settings["beta"], settings["seed"], settings["mix"], settings["n"]) == (0.5, 3, {"kind": 1.0}, 1)
    assert settings["temperature"] == 0.7 and settings["max_tokens"] == 1024 and settings["context"] == 512
    assert line["emulator"] == "scripted" and line["models"] == {}
    assert "1 answer, 3 tokens in" in err and "stop 1, failed 0" in err and err.count("\n") == 1 and "\x1b" not in err


def test_samples_differ_and_the_first_is_that_of_a_single_one(go: Go, out: Path) -> None:
    one = go(prompts(3), dials={"seed": 1}).lines
    assert all("sample" not in line for line in one)
    out.unlink()
    four = go([*prompts(2), {"id": 2, "prompt": "p2", "n": 1}], samples=4, dials={"seed": 1}).lines
    assert [(line["index"], line.get("sample")) for line in four] == [
        *((i, s) for i in (1, 2) for s in range(4)),
        (3, None),
    ]
    assert [line["text"] for line in four if not line.get("sample")] == [line["text"] for line in one]
    assert len({line["text"] for line in four}) > 6


def test_a_seed_of_the_lines_own_draws_the_same_wherever_it_stands(go: Go, out: Path) -> None:
    line = {"prompt": "p", "seed": 9}
    first = go([line, *prompts(2)], dials={"seed": 1}).lines[0]
    out.unlink()
    last = go([*prompts(2), line], dials={"seed": 2}).lines[-1]
    assert first["text"] == last["text"] and first["settings"]["seed"] == last["settings"]["seed"] == 9


@pytest.mark.parametrize("parallel", [1, 3, 16])
def test_lines_come_in_the_inputs_order_or_as_they_finish(go: Go, out: Path, parallel: int) -> None:
    lines = [{"prompt": f"slow {9 - i} p"} for i in range(8)]
    ordered = go(lines, parallel=parallel).lines
    assert [line["index"] for line in ordered] == [1, 2, 3, 4, 5, 6, 7, 8]
    out.unlink()
    unordered = go(lines, parallel=parallel, ordered=False).lines
    assert sorted(line["index"] for line in unordered) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ([line["index"] for line in unordered] == [1, 2, 3, 4, 5, 6, 7, 8]) == (parallel == 1)


@pytest.mark.parametrize("parallel", [None, 6])
def test_there_are_no_more_places_than_lines_that_are_left(go: Go, parallel: int | None) -> None:
    first, again = Scripted(parallel=6), Scripted(parallel=6)
    go(prompts(2), first, parallel=parallel, samples=2)
    go(prompts(7), again, parallel=parallel, samples=2)
    assert (first.places, again.places) == (4, 6)


def test_a_slow_first_prompt_holds_only_so_many_others_back(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WAITING", 20)
    emulator = Scripted(parallel=4, on_step=lambda step: at.append(emulator.pulled))
    at: list[int] = []
    lines = go([{"prompt": "slow 1000 p"}, *prompts(100)], emulator).lines
    assert [line["index"] for line in lines] == list(range(1, 102))
    assert at[500] < 30 < at[-1]


def test_the_system_text_of_the_command_line_is_told(go: Go) -> None:
    own, other = go([{"prompt": "a", "system": "Own."}, {"prompt": "b"}], system="All.").lines
    assert own["text"].startswith("Own. / a ") and "system" not in own["settings"]
    assert other["text"].startswith("All. / b ") and other["settings"]["system"] == "All."


def test_an_empty_input_is_an_empty_output(go: Go, out: Path) -> None:
    assert go([]).code == 0 and out.read_bytes() == b""


def test_half_a_surrogate_pair_is_written_as_it_came(go: Go) -> None:
    (line,) = go(['{"prompt": "a", "note": "\\ud800"}']).lines
    assert line["note"] == "\ud800"


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["{", '{"x": 1}', '{"prompt": "a", "top_p": 3}'])
def test_a_bad_line_stops_it_before_anything_is_loaded(go: Go, out: Path, bad: str) -> None:
    def load(_: object) -> Any:
        raise AssertionError

    emulator = Scripted()
    emulator.load = load  # type: ignore[assignment, method-assign]  # only of this fake
    with pytest.raises(EftError, match=r"in\.jsonl:3: "):
        go([*prompts(2), bad], emulator)
    assert not out.exists()


@pytest.mark.parametrize("ordered", [True, False])
def test_skipped_lines_hold_their_error_and_are_told(go: Go, out: Path, ordered: bool) -> None:
    lines = [{"prompt": "a"}, "{", {"id": 5, "prompt": "fail"}, {"prompt": "b", "mix": {"x": 1}}, {"prompt": "c"}]
    code, found, err = go(lines, on_error="skip", ordered=ordered)
    found.sort(key=lambda line: line["index"])
    assert code == 1
    assert [line.get("error", "")[:12] for line in found] == ["", "is not JSON:", "The prompt i", "There is no ", ""]
    assert found[2]["id"] == 5 and not any("text" in line for line in found[1:4])
    for number in (2, 3, 4):
        assert f"in.jsonl:{number}: " in err
    assert "5 answers" in err and "failed 3" in err
    again = go(lines, on_error="skip", ordered=ordered)
    assert again.code == 1 and read(out) == again.lines and "(5 of them earlier)" in again.err


def test_an_answer_that_fails_stops_it_when_all_before_it_are_written(go: Go, out: Path) -> None:
    lines = [{"prompt": "slow 9 p"}, {"prompt": "fail"}, *prompts(50)]
    emulator = Scripted()
    with pytest.raises(EftError, match=r"in\.jsonl:2: The prompt is 600 tokens long"):
        go(lines, emulator)
    assert [line["index"] for line in read(out)] == [1] and emulator.pulled < 10
    lines[1] = {"prompt": "mended"}
    assert go(lines).code == 0
    assert [line["index"] for line in read(out)] == list(range(1, 53))


def test_options_out_of_range_are_an_error(go: Go) -> None:
    for name, values in {"samples": (0, 100_000), "parallel": (0, 100_000)}.items():
        for value in values:
            with pytest.raises(SettingError, match=f"is {value}; it must be between 1 and"):
                go(prompts(1), **{name: value})
    with pytest.raises(SettingError, match="cannot have a system text"):
        go(prompts(1), raw=True, system="x")


# --- continued runs ---------------------------------------------------------------------------------------------------


def broken_off(go: Go, lines: Sequence[Any], after: int, **options: Any) -> Ended:
    """The run, interrupted in step number `after`."""

    def interrupt(step: int) -> None:
        if step == after:
            os.kill(os.getpid(), signal.SIGINT)

    return go(lines, Scripted(on_step=interrupt, **options.pop("dials", {})), **options)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("ordered", [True, False])
def test_ctrl_c_drops_what_runs_and_the_same_command_goes_on_with_the_same_draws(
    go: Go, out: Path, ordered: bool
) -> None:
    lines = [{"prompt": f"slow {1 + i % 3} p{i}"} for i in range(40)]
    code, first, err = broken_off(go, lines, 5, ordered=ordered, samples=2)
    assert code == 130 and 0 < len(first) < 40 and f"{len(first)} of 80 answers" in err
    again = go(lines, ordered=ordered, samples=2)
    assert again.code == 0 and again.lines[: len(first)] == first and f"({len(first)} of them earlier)" in again.err
    seed = first[0]["settings"]["seed"]
    out.unlink()
    whole = go(lines, dials={"seed": seed}, samples=2).lines
    key: Any = lambda line: (line["index"], line["sample"])  # noqa: E731
    assert sorted(again.lines, key=key) == whole
    assert ordered == (again.lines == whole)


@pytest.mark.parametrize("cut", [1, 2, 11, 12, 13, 300])
def test_a_torn_last_line_is_mended(go: Go, out: Path, cut: int) -> None:
    whole = go(prompts(5), dials={"seed": 1}).lines
    data = out.read_bytes()
    starts = [0, *(i + 1 for i, byte in enumerate(data) if byte == 10)]
    for end in (starts[3] + cut, starts[4] - 1, cut):
        out.write_bytes(data[:end])
        assert go(prompts(5), dials={"seed": 1}).lines == whole
        assert out.read_bytes() == data
    out.write_bytes(data[: starts[3]] + bytes(400))  # zeros, as a file system may leave them after a power cut
    assert go(prompts(5), dials={"seed": 1}).lines == whole


DIFFERENT = [
    ({"dials": {"beta": 0.5, "seed": 1}}, "made with beta 1.0, this run has 0.5"),
    ({"dials": {"seed": 2}}, "made with seed 1, this run has 2"),
    ({"dials": {"seed": 1, "mix": {"kind": 2.0}}}, "made with mix kind 1.0, this run has 2.0"),
    ({"dials": {"seed": 1, "stop": ["x"], "top_k": 5}}, 'with stop [], this run has ["x"]; with top_k 0, this run'),
    ({"dials": {"seed": 1}, "samples": 2}, "made with n 1, this run has 2"),
    ({"dials": {"seed": 1}, "system": "Be brief."}, "made with system none, this run has Be brief."),
    ({"dials": {"seed": 1}, "raw": True}, "made with raw none, this run has true"),
    ({"dials": {"seed": 1, "beta": 2.0, "top_k": 5, "top_p": 0.5, "max_tokens": 5}}, "(and 2 more differences)"),
]


@pytest.mark.parametrize(("options", "message"), DIFFERENT, ids=[message for _, message in DIFFERENT])
def test_an_output_of_other_settings_is_refused_with_the_difference(
    go: Go, out: Path, options: dict[str, Any], message: str
) -> None:
    lines = prompts(4)
    go(lines[:2], dials={"seed": 1})
    before = out.read_bytes()
    with pytest.raises(EftError, match="--overwrite") as refused:
        go(lines, **options)
    assert message in refused.value.message and str(refused.value).count("\n") == 1
    assert out.read_bytes() == before
    assert go(lines, overwrite=True, **options).code == 0
    assert {line["index"] for line in read(out)} == {1, 2, 3, 4}


def test_settings_of_the_lines_own_are_no_difference(go: Go) -> None:
    lines = [{"prompt": "a", "beta": 2, "seed": 4}, {"prompt": "b", "beta": 3}, {"prompt": "c", "logprobs": 2}]
    some = go(lines[:2]).lines
    again = go(lines)
    assert again.code == 0 and again.lines[:2] == some
    assert again.lines[2]["settings"]["seed"] == some[1]["settings"]["seed"]


def test_another_bias_is_a_difference_and_each_line_names_it(go: Go) -> None:
    plain = go(prompts(2)).lines
    assert "bias" not in plain[0]["settings"]
    other = Scripted()
    other.biases = {"kind": Bias(0.5, -1.0, np.array([3, 4]))}
    with pytest.raises(EftError, match=r"made with bias none, this run has \{\"kind\": \{\"end\": 0.5"):
        go(prompts(2), other)
    (line, _) = go(prompts(2), Scripted(), overwrite=True).lines
    assert "bias" not in line["settings"]
    again = Scripted()
    again.biases = other.biases
    (line, _) = go(prompts(2), again, overwrite=True).lines
    assert line["settings"]["bias"]["kind"].keys() == {"end", "unseen", "unseen_tokens"}
    others = Bias(0.5, -1.0, np.array([3, 5])).as_json()
    assert line["settings"]["bias"]["kind"] != others


def test_another_emulator_is_a_difference(go: Go) -> None:
    go(prompts(2))
    other = Scripted()
    other.name = "other"
    with pytest.raises(EftError, match="made with emulator scripted, this run has other"):
        go(prompts(2), other)


def test_what_an_older_release_did_not_note_of_a_server_is_no_difference_and_another_model_is_one(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = {"url": "http://127.0.0.1:1", "model": "big", "view": "0"}

    def now(**more: object) -> None:
        monkeypatch.setattr("eftlocal.apps.batch.work.models", lambda *_: {"base": noted | more})

    now()
    go(prompts(2))
    now(weights=5)
    assert go(prompts(3)).code == 0
    now(model="other", weights=5)
    with pytest.raises(EftError, match="made with base model big, this run has other"):
        go(prompts(4))


def test_an_edited_input_is_refused_and_a_longer_one_is_not(go: Go) -> None:
    go(prompts(3))
    edited = [*prompts(2), {"id": 2, "prompt": "other"}]
    with pytest.raises(EftError, match=r"in\.jsonl:3: was edited since"):
        go(edited)
    with pytest.raises(EftError, match=r"out\.jsonl has lines that .*in\.jsonl does not have"):
        go(prompts(2))
    assert len(go(prompts(5)).lines) == 5
    assert go(edited, overwrite=True).lines[2]["prompt"] == "other"


def test_a_bad_line_that_was_mended_since_is_an_edit(go: Go) -> None:
    go(["{", *prompts(1)], on_error="skip")
    with pytest.raises(EftError, match="1: was edited since"):
        go([*prompts(2)], on_error="skip")


@pytest.mark.parametrize(
    "content", [b"notes\n", b"notes", b'{"index": 1}\n', b"[]\n", b'{"index": -1, "digest": 0}\n', b"\xff\n"]
)
def test_a_file_of_other_things_is_refused_and_stays(go: Go, out: Path, content: bytes) -> None:
    out.write_bytes(content)
    with pytest.raises(EftError, match=r"out\.jsonl:1: is not a line that a run wrote"):
        go(prompts(1))
    assert out.read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="makes a symbolic link")
def test_the_inputs_file_is_no_output(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a"}\n')
    (tmp_path / "link.jsonl").symlink_to(path)
    for overwrite in (True, False):
        with pytest.raises(EftError, match=r"is the input file|is not a line that a run wrote"):
            batch.generate(Scripted().load, over(path, str(tmp_path / "link.jsonl"), overwrite=overwrite))
    assert path.read_text() == '{"prompt": "a"}\n'


def test_nothing_is_overwritten_before_the_run_begins(go: Go, out: Path) -> None:
    go(prompts(2))
    before = out.read_bytes()
    with pytest.raises(EftError):
        go([*prompts(2), "{"], overwrite=True)
    assert out.read_bytes() == before


# --- the date ---------------------------------------------------------------------------------------------------------


def dated() -> Scripted:
    emulator = Scripted()
    emulator.dated = True
    return emulator


def test_a_run_that_is_continued_another_day_keeps_the_date_of_its_output(
    go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(date):
        @classmethod
        def today(cls) -> Self:
            return cls(2031, 5, 6)

    today = date.today().isoformat()
    assert today <= go(prompts(2), dated()).lines[0]["settings"]["date"] <= date.today().isoformat()
    monkeypatch.setattr(runner, "date", Tomorrow)
    lines = go(prompts(4), dated()).lines
    assert len(lines) == 4 and len({line["settings"]["date"] for line in lines}) == 1
    assert go(prompts(2), dated(), overwrite=True).lines[0]["settings"]["date"] == "2031-05-06"


def test_a_given_date_is_a_setting_of_the_output(go: Go) -> None:
    day = date(2024, 2, 29)
    (line,) = go(["{"], dated(), date=day, on_error="skip").lines
    assert line["settings"]["date"] == "2024-02-29"
    with pytest.raises(EftError, match="made with date 2024-02-29, this run has 2025-01-01"):
        go(["{"], dated(), date=date(2025, 1, 1), on_error="skip")
    assert go(["{"], dated(), date=day, on_error="skip").code == 1


def test_only_prompts_that_may_hold_a_date_have_one_in_their_settings(go: Go) -> None:
    assert "date" not in go(prompts(1), date=date(2024, 2, 29)).lines[0]["settings"]
    assert "date" not in go(prompts(1), dated(), raw=True, overwrite=True).lines[0]["settings"]
    pair = {"prompt": "a", "completion": "b"}
    assert "date" in go([pair], dated(), scored=True, overwrite=True).lines[0]["settings"]


@pytest.mark.parametrize("written", [None, 5, "yesterday"])
def test_a_date_that_cannot_be_read_from_the_output_is_a_difference(go: Go, out: Path, written: object) -> None:
    (line,) = go(prompts(1), dated()).lines
    line["settings"]["date"] = written
    out.write_text(json.dumps(line) + "\n")
    with pytest.raises(EftError, match="made with date"):
        go(prompts(2), dated())


# --- pipes ------------------------------------------------------------------------------------------------------------


def test_standard_input_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert batch.generate(Scripted().load, over("-", "-", quiet=True)) == 0
    out, err = capfdbinary.readouterr()
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["one", "two"] and err == b""


def test_piped_lines_go_on_too_and_are_compared_as_they_come(
    out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def pipe(text: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return batch.generate(Scripted().load, over("-", out))

    assert pipe("one\n") == 0
    assert pipe("one\ntwo\n") == 0
    assert [line["prompt"] for line in read(out)] == ["one", "two"]
    with pytest.raises(EftError, match="<stdin>:2: was edited since"):
        pipe("one\nthree\n")


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_sums_by_role_and_tokens_where_asked(go: Go, out: Path) -> None:
    lines = [{"id": 1, "prompt": "p", "completion": "a b"}, {"prompt": "p", "completions": ["a", "b c d"], "beta": 2}]
    one, several = go(lines, scored=True).lines
    sums = {"logprob": -2.0, "base": -4.0, "rewards": {"kind": {"tuned": -2.0, "reference": -6.0}}}
    assert one["score"] == {**sums, "completion_tokens": 2} and one["completion"] == "a b" and one["id"] == 1
    assert [(s["logprob"], s["completion_tokens"]) for s in several["scores"]] == [(-2.0, 1), (-6.0, 3)]
    assert set(one["settings"]) == {"beta", "mix", "context", "kv_type", "tokens"}
    with pytest.raises(EftError, match="made with tokens false, this run has true"):
        go(lines, scored=True, tokens=True)
    detailed = go(lines, scored=True, tokens=True, overwrite=True).lines[0]["score"]
    assert [token["text"] for token in detailed["tokens"]] == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_scoring_goes_on_where_it_broke_off_and_skips_what_fails(go: Go) -> None:
    lines = [{"prompt": "p", "completion": f"c{i}" if i != 3 else "fail"} for i in range(10)]
    with pytest.raises(EftError, match=r"in\.jsonl:4: The prompt is 600"):
        go(lines, scored=True)
    code, found, err = go(lines, scored=True, on_error="skip")
    assert code == 1 and [line["index"] for line in found] == list(range(1, 11)) and "(3 of them earlier)" in err
    assert "error" in found[3] and "10 scores" in err
