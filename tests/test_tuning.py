"""Tests of `eftlocal.tune`: a Python program's examples become an emulator that it can load."""

import json
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

import eftlocal
from eftlocal.apps.tune.options import Options, TuneOptions
from eftlocal.catalog import models
from eftlocal.runtime import gguf
from eftlocal.tuning import OTHER_NAMES
from tests.families import Family

EXAMPLES: list[dict[str, object]] = [{"prompt": f"Say {i}", "completion": f"{i % 3} on, mate"} for i in range(30)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models.toml of the user's that is not there yet."""
    file = tmp_path / "config" / "models.toml"
    monkeypatch.setattr(models, "users_file", lambda: file)
    monkeypatch.setattr("eftlocal.tuning.users_file", lambda: file)
    return file


def settings(family: Family) -> dict[str, Any]:
    return {"reference": family.reference, "base": str(family.base), "lr": 3e-3, "epochs": 3, "threads": 1}


def test_examples_become_an_emulator_that_loads(family: Family, tmp_path: Path, home: Path) -> None:
    seen: list[eftlocal.TuneProgress] = []
    tuned = eftlocal.tune(EXAMPLES, tmp_path / "voice", progress=seen.append, **settings(family))
    assert tuned.path == tmp_path / "voice.gguf" and tuned.emulator == "voice" and home.exists()
    assert tuned.before is not None and tuned.after is not None and tuned.after < tuned.before
    assert tuned.verdict is not None and tuned.verdict.answers == 3
    assert {each.phase for each in seen} >= {"checking", "logits", "training", "writing", "judging"}
    with eftlocal.Emulator.load(tuned.emulator, max_tokens=4) as emulator:
        assert emulator.generate("Say 4").text
    with pytest.raises(FrozenInstanceError):
        tuned.emulator = "other"  # type: ignore[misc]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config", "voice.gguf", "voice.report.json"]
    report = json.loads((tmp_path / "voice.report.json").read_text())
    assert report["emulator"] == "voice" and report["verdict"]["chosen"]["beta"] == tuned.verdict.beta


def test_what_is_there_is_replaced_only_with_force(
    family: Family, tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = eftlocal.tune(EXAMPLES, tmp_path / "voice", **settings(family))
    with pytest.raises(eftlocal.CatalogError, match="already defined"):
        eftlocal.tune(EXAMPLES, tmp_path / "voice", **settings(family))
    before = made.path.read_bytes()
    other = eftlocal.tune(EXAMPLES, tmp_path / "voice", force=True, seed=1, **settings(family))
    assert other.path.read_bytes() != before
    assert capfd.readouterr() == ("", "")  # it tells its caller, and not the terminal


def test_wrong_examples_and_settings_are_errors(family: Family, tmp_path: Path, home: Path) -> None:
    with pytest.raises(eftlocal.EftError, match=r"1 line is wrong; nothing was trained\.\nThe first one: examples:2: "):
        eftlocal.tune([EXAMPLES[0], {"prompt": "Hi"}], tmp_path / "x", **settings(family))
    with pytest.raises(eftlocal.SettingError, match="no values of JSON"):
        eftlocal.tune([{"prompt": "Hi", "completion": {1}}], tmp_path / "x", **settings(family))
    with pytest.raises(eftlocal.EftError, match="There is no example"):
        eftlocal.tune([], tmp_path / "x", **settings(family))
    with pytest.raises(eftlocal.SettingError, match="mofo is 2"):
        eftlocal.tune(EXAMPLES, tmp_path / "x", mofo=2.0, **settings(family))
    wrong: list[tuple[Any, str]] = [
        (None, "examples is NoneType; it must be a path"),
        (5, "examples is int"),
        ([EXAMPLES[0], 1], "item 2 is int; it must be a path or a mapping"),
    ]
    for examples, told in wrong:
        with pytest.raises(eftlocal.SettingError, match=told):
            eftlocal.tune(examples, tmp_path / "x", **settings(family))
    for name in ("nonsense", "dry_run", "fraction"):
        with pytest.raises(eftlocal.SettingError, match=f"There is no option named {name}"):
            eftlocal.tune(EXAMPLES, tmp_path / "x", **{**settings(family), name: True})
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_of_at_most(n: int) -> Iterator[None]:
    """Within this context no file of this process gets longer than `n` bytes, as on a full disk."""
    resource = pytest.importorskip("resource")  # not on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = [  # what is written, and what is told
    ("eftlocal.training.rows.Rows.append", r"rows: .* could not be written: File too large"),
    ("eftlocal.training.checkpoint.save", r"checkpoint: the checkpoint could not be written: File too large"),
    ("eftlocal.training.output.write", r"voice\.gguf: could not be written: File too large"),
    ("eftlocal.tuning.add", r"models\.toml.*File too large"),
]


@pytest.mark.parametrize(("what", "told"), FULL, ids=["rows", "checkpoint", "output", "entry"])
def test_a_full_disk_is_told_and_the_same_call_goes_on(
    family: Family, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, what: str, told: str
) -> None:
    clean = eftlocal.tune(EXAMPLES, tmp_path / "clean", **settings(family))
    home.write_text(f"# mine\n{home.read_text()}")
    before = home.read_text()
    write = pkgutil.resolve_name(what)

    def full(*arguments: Any, **more: Any) -> Any:
        with files_of_at_most(200):
            return write(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(what, full)
        with pytest.raises(eftlocal.EftError, match=told) as error:
            eftlocal.tune(EXAMPLES, tmp_path / "voice", **settings(family))
    assert len(str(error.value).split("\n")) <= 2 and home.read_text() == before
    assert not list(tmp_path.rglob("*.part"))
    made = eftlocal.tune(EXAMPLES, tmp_path / "voice", **settings(family))
    assert tensors(made.path) == tensors(clean.path) and "# mine" in home.read_text()


def tensors(path: Path) -> bytes:
    """The end of a file: its tensors, without the name and the settings before them."""
    data = path.read_bytes()
    header = gguf.check_lora(path)
    return data[min(tensor.offset for tensor in header.tensors) :]


def test_its_options_are_those_of_a_run() -> None:
    names = {OTHER_NAMES.get(name, name) for name in TuneOptions.__annotations__}
    assert names < {field.name for field in fields(Options)}
