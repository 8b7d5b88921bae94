"""`eval --calibrate`: what is found is in the results, and an emulator with the line that was told has that loss."""

import json
from pathlib import Path
from typing import Any

import pytest

from eftlocal import Constraint, Emulator, evaluate
from eftlocal.apps import eval as app_eval
from eftlocal.apps.eval import Options
from eftlocal.catalog.models import load as load_catalog
from eftlocal.errors import EftError, SettingError
from eftlocal.evaluation.best import halves
from eftlocal.evaluation.results import as_json
from tests.builders import write_catalog
from tests.families import Family

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def catalog(family: Family, tmp_path: Path) -> Path:
    models = {name: getattr(family, name) for name in ("base", "tuned", "reference")}
    views = dict.fromkeys(("base", "tuned", "reference"), "raw")
    rewards = [{"name": "pair", "tuned": "tuned", "reference": "reference", "beta": 1.0}]
    return write_catalog(tmp_path, models, base="base", rewards=rewards, views=views)


def run(catalog: Path, data: Path, folder: Path | None, **options: Any) -> int:
    def load(_: object) -> Emulator:
        return Emulator.load(models=catalog, kv_type="f32", threads=1, context=256)

    wanted: dict[str, Any] = {"calibrate": True, "betas": (1.0,), "quiet": True}
    return app_eval.evaluate(load, Options(data=(str(data),), folder=folder, **(wanted | options)))


@pytest.fixture
def data(catalog: Path, tmp_path: Path) -> Path:
    """Questions whose answers are what the emulator says at the strength 0.4."""
    path = tmp_path / "data.jsonl"
    with Emulator.load(models=catalog, kv_type="f32", threads=1, context=256) as emulator:
        replies = emulator.generate_many(
            [f"{a}?" for a in LETTERS], beta=0.4, temperature=1.0, seed=1, constraint=Constraint("regex", "[a-h ]{5}")
        )
    rows = [{"prompt": f"{a}?", "answer": reply.text} for a, reply in zip(LETTERS, replies, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_line_that_is_told_gives_the_loss_that_is_told(
    catalog: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained" / "examples.jsonl"
    trained.parent.mkdir()
    trained.write_bytes(data.read_bytes())
    assert run(catalog, data, tmp_path / "out", seen=(str(trained.parent),)) == 0  # a folder, as `tune` takes it
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["calibration"]
    assert found["helps"] and "Calibration helps: " in out and f"models.toml:\n{found['toml']}\n" in out
    text = catalog.read_text(encoding="utf-8")
    (old,) = (line for line in text.splitlines() if line.startswith("rewards = "))
    catalog.write_text(text.replace(old, found["toml"]), encoding="utf-8")
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    _, judging = halves(len(rows), 0)
    logprob = tokens = 0.0
    with Emulator.load(models=catalog, kv_type="f32", threads=1, context=256) as emulator:
        assert emulator.biases
        for i in judging.tolist():
            answer = emulator.forced(rows[i]["prompt"], rows[i]["answer"], ends=True).tokens
            logprob += emulator.score(rows[i]["prompt"], answer).logprob
            tokens += len(answer)
    assert -logprob / tokens == pytest.approx(found["after"]["value"], abs=5e-3)


def test_it_is_the_same_again_and_without_examples_has_no_bias_on_tokens(
    catalog: Path, data: Path, tmp_path: Path
) -> None:
    texts = set()
    for _ in range(2):  # the second time, nothing is left to measure
        assert run(catalog, data, tmp_path / "out") == 0
        texts.add((tmp_path / "out" / "results.json").read_bytes())
    assert len(texts) == 1
    found = json.loads(texts.pop())["calibration"]
    assert found["unseen"] is None and not (tmp_path / "out" / "unseen-tokens.txt").exists()
    assert "unseen" not in found["toml"] and load_catalog(catalog)


def test_what_cannot_be_is_told(catalog: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--seen names data for a calibration\.\nAdd --calibrate"):
        Options(data=(str(data),), seen=("x",))
    few = tmp_path / "few.jsonl"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:4]), encoding="utf-8")
    with pytest.raises(SettingError, match="needs at least 8 items"):
        run(catalog, few, None)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(EftError, match=r"wrong\.jsonl"):
        run(catalog, data, tmp_path / "out", seen=(str(wrong),))
    with pytest.raises(SettingError, match="Say where: -o FOLDER"):
        Options(data=(str(data),), calibrate=True, seen=("x",))
    with pytest.raises(SettingError, match="is measured, and named as what was trained on"):
        Options(data=("x", "y"), calibrate=True, seen=("z", "y"), folder=tmp_path)


def test_what_a_calibration_needs_is_looked_at_before_anything_is_measured(
    catalog: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items, folder = tmp_path / "out" / "items.jsonl", tmp_path / "texts"
    folder.mkdir()
    few = tmp_path / "few.jsonl"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:4]), encoding="utf-8")
    for measured, seen in ((data, (str(folder),)), (data, (str(tmp_path / "absent.jsonl"),)), (few, ())):
        with pytest.raises(EftError):
            run(catalog, measured, tmp_path / "out", seen=seen)
        assert not items.exists()
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "report.html").mkdir()
    with pytest.raises(EftError, match=r"report\.html is a folder; a file is written there\.\nName another folder"):
        run(catalog, data, tmp_path / "out")
    assert not items.exists()
    measured_lines: list[object] = []
    with Emulator.load(models=catalog, kv_type="f32", threads=1, context=256) as emulator:
        for given in ({"data": few}, {"data": data, "seen": [folder]}):
            with pytest.raises(EftError):
                evaluate(emulator, betas=[1], calibrate=True, on_line=measured_lines.append, **given)
    assert not measured_lines


def test_from_python_it_is_the_same(catalog: Path, data: Path, tmp_path: Path) -> None:
    assert run(catalog, data, tmp_path / "out") == 0
    told = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["calibration"]
    with Emulator.load(models=catalog, kv_type="f32", threads=1, context=256) as emulator:
        found = evaluate(emulator, data, betas=[1], calibrate=True).calibration
        assert found is not None and as_json(found) == told and found.toml
        with_seen = evaluate(emulator, data, betas=[1], calibrate=True, seen=[data]).calibration
        assert with_seen is not None and with_seen.unseen is not None and not with_seen.toml
        assert evaluate(emulator, data, betas=[1], calibrate=True, limit=20).calibration is not None
