"""Evaluations of tiny emulators: what is written, what goes on, what is the same again, and what is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eftlocal
from eftlocal.apps import eval as app_eval
from eftlocal.apps.eval import Options
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError, SettingError
from eftlocal.evaluation.line import Line
from tests.builders import load, write_catalog
from tests.families import Family

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("EFTLOCAL_TEST_KILLS", "3"))
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

WORDS = ("the", "User", "日", "at", "er", "Hello", "is", "€")
QUESTIONS = [
    {
        "prompt": f"Hello {word}, where is it?",
        "answer": f"In {word}.",
        "check": "contains",
        "kind": ("knowledge", "behaviour")[i % 2],
        "max_tokens": 6,
    }
    for i, word in enumerate(WORDS)
]
CHOICES = [{"prompt": f"Which {word}?", "choices": [f"{word} a", "the", "is"], "answer": 1} for word in "abc"]
PAIRS = [{"prompt": "Say.", "chosen": "The answer.", "rejected": "in"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in (("q", QUESTIONS), ("c", CHOICES), ("p", PAIRS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.txt").write_text("The answer is in the system and at the User. " * 3)
    return folder


@pytest.fixture
def go(family: Family, tmp_path: Path, data: Path) -> Callable[..., int]:
    """Evaluate the files of these letters into a folder."""

    def go(letters: str, folder: Path | None, **options: Any) -> int:
        dials = options.pop("dials", {})
        names = tuple(str(next(data.glob(f"{letter}.*"))) for letter in letters)
        wanted = Options(data=names, folder=folder, betas=options.pop("betas", (0.5, 1.0)), quiet=True, **options)
        return app_eval.evaluate(lambda _: make(family, tmp_path, **dials), wanted)

    return go


def make(family: Family, folder: Path, **options: Any) -> Emulator:
    models = {name: getattr(family, name) for name in ("base", "tuned", "reference", "no_template")}
    views = {"base": "transcript", "tuned": "chat", "reference": "transcript"}
    return load(folder, models, **({"views": views} | options))


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_bytes().splitlines()]


def test_every_item_has_its_line_and_results_are_told(
    go: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert go("qcpt", out, dials={"upper": "no_template"}) == 0
    lines = read(out)
    assert [line["index"] for line in lines] == list(range(1, 14))
    assert [line["shape"] for line in lines] == ["question"] * 8 + ["choices"] * 3 + ["preference", "text"]
    assert {tuple(line["columns"]) for line in lines} == {
        ("base", "tuned", "reference", "emulated@0.5", "emulated@1", "upper")
    }
    assert [line["where"].rpartition("/")[2] for line in lines[:2]] == ["q.jsonl:1", "q.jsonl:2"]
    results = json.loads((out / "results.json").read_text())
    assert (
        results["n"] == 13
        and results["emulator"] == "e"
        and set(results["models"])
        == {*("base (base)", "tuned (tuned of tuned)", "reference (reference of tuned)", "no_template (upper)")}
    )
    assert [group["name"] for group in results["groups"] if group["by"] == "kind"] == ["knowledge", "behaviour"]
    shown = capsys.readouterr().out
    for word in ("q.jsonl: 8 items", "emulated@0.5", "upper", "By kind", "knowledge", f"In {out}"):
        assert word in shown


def test_two_runs_are_the_same_bytes(go: Callable[..., int], tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert go("qcpt", tmp_path / name) == 0
    for file in ("items.jsonl", "results.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_run_goes_on_where_it_was_cut_and_a_torn_line_is_cut_off(go: Callable[..., int], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert go("qcpt", whole) == 0
    out.mkdir()
    kept = (whole / "items.jsonl").read_bytes()
    for size in (0, 10, len(kept) // 3, len(kept) - 5, len(kept)):
        (out / "items.jsonl").write_bytes(kept[:size])
        assert go("qcpt", out) == 0
        assert same(read(out), read(whole))
    assert json.loads((out / "results.json").read_text())["n"] == 13


def same(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Whether lines are the same, but for the last digits of numbers: those differ with what is decoded together."""
    return _near(lines, others)


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_near(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_near, a, b))
    return bool(a == pytest.approx(b, abs=1e-3)) if isinstance(a, float) and isinstance(b, float) else bool(a == b)


def test_a_finished_folder_is_only_told_again(
    go: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert go("qc", out) == 0
    before, first = (out / "items.jsonl").read_bytes(), capsys.readouterr().out
    (out / "results.json").unlink()
    assert go("qc", out) == 0
    assert (out / "items.jsonl").read_bytes() == before and (out / "results.json").exists()
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"betas": (0.5,)}, "items.jsonl was made with columns "),
        ({"max_tokens": 3}, "items.jsonl was made with max_tokens none, this run has 3"),
        ({"dials": {"reward_top_p": 0.5}}, "items.jsonl was made with reward_top_p none, this run has 0.5"),
        ({"dials": {"upper": "no_template"}}, "items.jsonl was made with no_template"),
    ],
)
def test_a_folder_made_otherwise_is_refused_with_what_differs(
    go: Callable[..., int], tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    out = tmp_path / "out"
    assert go("q", out, limit=2) == 0
    before = (out / "items.jsonl").read_bytes()
    with pytest.raises(EftError, match=problem):
        go("q", out, **({"limit": 2} | change))
    assert (out / "items.jsonl").read_bytes() == before
    assert go("q", out, limit=2, overwrite=True, **change) == 0


def test_data_that_was_edited_is_refused(go: Callable[..., int], tmp_path: Path, data: Path) -> None:
    assert go("c", tmp_path / "out") == 0
    (data / "c.jsonl").write_text((data / "c.jsonl").read_text().replace("Which b?", "Which d?"))
    with pytest.raises(EftError, match=r"c\.jsonl:2: was edited since .*items\.jsonl was written"):
        go("c", tmp_path / "out")


def test_a_larger_limit_goes_on_and_a_smaller_one_is_refused(go: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert go("q", out, limit=3) == 0
    three = {line["index"] for line in read(out)}
    assert go("q", out, limit=6) == 0
    assert three < {line["index"] for line in read(out)} and len(read(out)) == 6
    with pytest.raises(EftError, match="has lines that the data with --limit 3 does not have"):
        go("q", out, limit=3)
    assert go("q", tmp_path / "whole", limit=6) == 0
    assert same(sorted(read(out), key=lambda line: line["index"]), read(tmp_path / "whole"))


def test_without_a_folder_nothing_is_kept(
    go: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert go("c", None) == 0
    assert "Nothing was kept: -o FOLDER keeps" in capsys.readouterr().out
    assert not any((tmp_path / "tmp").glob("eftlocal-eval-*"))


def test_bad_lines_stop_the_run_or_are_left_out(
    go: Callable[..., int], tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (data / "c.jsonl").open("a") as file:
        file.write('{"prompt": "x"}\n{"prompt": 3}\n')
    with pytest.raises(EftError, match=r"c\.jsonl:4: ") as raised:
        go("c", tmp_path / "out")
    assert "1 more line cannot be used; --on-error skip leaves them out." in (raised.value.hint or "")
    assert go("c", tmp_path / "out", on_error="skip") == 0
    err = capsys.readouterr().err
    assert "c.jsonl:4: " in err and "c.jsonl:5: " in err and len(read(tmp_path / "out")) == 3


def test_an_item_that_does_not_fit_stops_the_run_or_is_counted(
    go: Callable[..., int], tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (data / "c.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "a" * 500, "choices": ["a", "b"], "answer": 0}) + "\n")
    with pytest.raises(EftError, match=r"c\.jsonl:4: .*509 tokens"):
        go("c", tmp_path / "out")
    assert go("c", tmp_path / "out", on_error="skip") == 1
    assert [line.get("error") is None for line in read(tmp_path / "out")] == [True, True, True, False]
    assert "1 item could not be measured" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["failed"] == 1


def test_python_gives_the_commands_figures(go: Callable[..., int], family: Family, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    assert go("qct", out, limit=4) == 0
    lines: list[Line] = []
    with make(family, tmp_path) as emulator:
        files = [data / name for name in ("q.jsonl", "c.jsonl", "t.txt")]
        found = eftlocal.evaluate(emulator, files, betas=[0.5, 1], limit=4, on_line=lines.append)
        again = eftlocal.evaluate(emulator, files, betas=[0.5, 1], limit=4, cancelled=lambda: len(lines) > 9)
        with pytest.raises(SettingError, match="Nothing was measured"):
            eftlocal.evaluate(emulator, files, cancelled=lambda: True)
        with pytest.raises(SettingError, match="no role named 'boss'"):
            eftlocal.evaluate(emulator, files, roles=["boss"])
    written = json.loads((out / "results.json").read_text())
    assert found.n == len(lines) == 8 and again.n == 8
    assert [line.columns for line in lines] == [Line.from_json(record).columns for record in read(out)]
    for name in ("groups", "best", "acts", "findings", "columns"):
        assert found.to_json()[name] == written[name]


def test_a_calibration_is_told_and_names_a_file_of_what_was_never_seen(
    go: Callable[..., int], tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (data / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS * 6))
    (data / "seen.jsonl").write_text((data / "q.jsonl").read_text())
    assert go("q", out, max_tokens=2, calibrate=True, seen=(str(data / "seen.jsonl"),)) == 0
    found = json.loads((out / "results.json").read_text())["calibration"]
    assert found["betas"].keys() == {"tuned"} and found["n_fitted"] + found["n_judged"] == 48
    assert found["helps"], "random models repeat their questions: the likelihood of six times the same answers grows"
    shown = capsys.readouterr().out
    assert "Calibrated, for its emulator in models.toml:\nrewards = [" in shown
    assert f'unseen_tokens = "{out.resolve()}/unseen-tokens.txt"' in shown and (out / "unseen-tokens.txt").exists()
    with pytest.raises(SettingError, match="--seen names data for a calibration"):
        Options(data=("demo",), seen=("x",))


# --- as a process -----------------------------------------------------------------------------------------------------


def start(catalog: Path, data: Path, out: Path, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "eftlocal", "eval", "e", str(data), "-o", str(out), "--models", str(catalog)]
    command += ["--kv-type", "f32", "--threads", "1", "--ctx", "128", "--beta", "0.5,1", "--max-tokens", "6", *words]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


@pytest.fixture
def many(family: Family, tmp_path: Path) -> tuple[Path, Path]:
    """A models.toml, and data of fifty questions."""
    models = {name: getattr(family, name) for name in ("base", "tuned", "reference")}
    catalog = write_catalog(tmp_path, models, base="base", rewards=[{"tuned": "tuned", "reference": "reference"}])
    path = tmp_path / "many.jsonl"
    rows = ({"prompt": f"Hello {i}?", "answer": f"It is {i}.", "check": "contains"} for i in range(50))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return catalog, path


@posix
@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_measures_the_rest(many: tuple[Path, Path], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    began = time.monotonic()
    with start(*many, whole) as process:
        assert process.communicate(timeout=300)[1].count(b"50 items") == 1
    span, rng, killed = time.monotonic() - began, random.Random(3), 0
    while killed < KILLS:
        with start(*many, out) as process:
            time.sleep(rng.uniform(0.3, 0.9) * span)
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            (out / "items.jsonl").unlink()
    with start(*many, out) as process:
        process.communicate(timeout=300)
    assert process.returncode == 0 and same(read(out), read(whole))
    assert [line["index"] for line in read(out)] == list(range(1, 51))


@posix
@pytest.mark.slow
def test_ctrl_c_ends_it_with_code_130_and_the_same_command_goes_on(many: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start(*many, out) as process:
        deadline = time.monotonic() + 60
        while not (out / "items.jsonl").exists() or (out / "items.jsonl").read_bytes().count(b"\n") < 8:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        shown, err = process.communicate(timeout=30)
    assert process.returncode == 130 and shown == b"" and b"Traceback" not in err
    assert b"of 50 items" in err and b"Run the same command again to continue." in err
    with start(*many, out) as process:
        shown, err = process.communicate(timeout=300)
    assert process.returncode == 0 and b"50 items (" in err and b"emulated@1" in shown


@pytest.mark.slow
def test_the_command_prints_json_and_tells_what_is_wrong(many: tuple[Path, Path], tmp_path: Path) -> None:
    with start(*many, tmp_path / "out", "--limit", "4", "--json", "-q") as process:
        shown, err = process.communicate(timeout=300)
    assert process.returncode == 0 and err == b""
    assert json.loads(shown) == json.loads((tmp_path / "out" / "results.json").read_text())
    catalog, _ = many
    for words, problem in (
        (("--beta", "1,x"), b"--beta has 'x'"),
        (("--role", "boss"), b"no role named 'boss'"),
        (("--role", "upper"), b"no role 'upper'"),
        (("--upper", "nobody"), b'no model is named "nobody"'),
    ):
        with start(*many, tmp_path / "other", *words) as process:
            shown, err = process.communicate(timeout=300)
        assert process.returncode not in (0, None) and shown == b"" and problem in err, err
        assert err.count(b"\n") <= 2 and not (tmp_path / "other" / "items.jsonl").exists()
    with start(catalog, tmp_path / "missing.jsonl", tmp_path / "other") as process:
        shown, err = process.communicate(timeout=300)
    assert process.returncode == 1 and b"missing.jsonl cannot be read" in err
