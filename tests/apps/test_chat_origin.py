"""A session opens with the emulator and models file that it was held with, from any folder, or says what is missing."""

from dataclasses import replace
from pathlib import Path

import pytest

from eftlocal.apps.chat.session import Saved
from eftlocal.cli.options import Options
from eftlocal.cli.origin import elsewhere, origin_of, own_catalog, telling_a_way
from eftlocal.decoding.settings import Settings
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import CatalogError, WorkerError

MODELS = """
default = "mine"
[models.m]
path = "m.gguf"
[emulators.mine]
base = "m"
[emulators.second]
base = "m"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "models.toml").write_text(MODELS)
    for name in ("m", "tuned", "reference"):
        (folder / f"{name}.gguf").write_bytes(b"GGUF")
    monkeypatch.delenv("EFTLOCAL_MODELS", raising=False)
    monkeypatch.chdir(folder)
    return folder


def held(options: Options, name: str | None = None) -> Saved:
    """A session that was held with these options."""
    catalog, name = options.catalog(name)
    emulator = catalog.emulator(name).name
    return Saved(emulator=emulator, settings=Settings(), messages=(), origin=origin_of(options, catalog))


def test_a_session_of_a_models_file_opens_with_it_from_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = held(Options(models=Path("models.toml")), "second")
    monkeypatch.chdir(tmp_path)
    made, catalog, name = own_catalog(Options(), saved, "it")
    assert (name, made.models) == ("second", folder / "models.toml")
    assert catalog.model("m").file == folder / "m.gguf"


def test_the_models_file_of_the_environment_is_kept_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFTLOCAL_MODELS", "models.toml")
    saved = held(Options())
    monkeypatch.delenv("EFTLOCAL_MODELS")
    assert saved.emulator == "mine"
    assert own_catalog(Options(), saved, "it")[2] == "mine"


@pytest.mark.parametrize("pair", [False, True])
def test_models_that_were_named_one_by_one_are_named_again(
    pair: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(base="m.gguf")
    if pair:
        options = replace(options, tuned="./tuned.gguf", reference="hf:a/b/reference.gguf")
    saved = held(options)
    monkeypatch.chdir(tmp_path)
    made, catalog, name = own_catalog(Options(), saved, "it")
    assert name is None and made.base == str(folder / "m.gguf")
    emulator = catalog.emulator(None)
    assert catalog.model(emulator.base).file == folder / "m.gguf"
    if pair:
        assert (made.tuned, made.reference) == (str(folder / "tuned.gguf"), "hf:a/b/reference.gguf")
    other, _ = elsewhere(Options(), saved.origin or {})
    assert other.emulator(saved.emulator) == emulator


def test_a_file_in_place_of_an_emulator_is_named_again(folder: Path) -> None:
    saved = held(Options(), "m.gguf")
    assert own_catalog(Options(), saved, "it")[0].base == str(folder / "m.gguf")


def test_views_and_guidance_are_the_session_s_unless_the_command_line_has_its_own(folder: Path) -> None:
    options = Options(models=Path("models.toml"), view=["base=raw"], negative="Be rude.", guidance=2.5)
    saved = held(options)
    made, catalog, name = own_catalog(Options(), saved, "it")
    assert (made.view, made.negative, made.guidance) == (["base=raw"], "Be rude.", 2.5)
    assert made.changed(catalog, name).emulator(name) == options.changed(*options.catalog()).emulator("mine")
    made, _, _ = own_catalog(Options(view=["base=chat"], negative="Be long."), saved, "it")
    assert (made.view, made.negative, made.guidance) == (["base=chat"], "Be long.", None)
    made, _, _ = own_catalog(Options(guidance=3.0), saved, "it")
    assert (made.negative, made.guidance) == ("Be rude.", 3.0)


def test_workers_are_the_session_s_unless_the_command_line_has_its_own(folder: Path) -> None:
    options = Options(models=Path("models.toml"), rpc=["127.0.0.1:1, 127.0.0.1:2"], insecure=True)
    saved = held(options)
    made, _, _ = own_catalog(Options(), saved, "it")
    assert made.rpc == ["127.0.0.1:1", "127.0.0.1:2"]
    assert not made.insecure  # it must be allowed again
    assert own_catalog(Options(rpc=["127.0.0.1:3"]), saved, "it")[0].rpc == ["127.0.0.1:3"]


def test_a_session_opened_in_another_chat_has_its_own_workers_or_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(Options, "load", lambda self, *_: used.append(self.rpc))
    far, near = held(Options(rpc=["127.0.0.1:1"]), "demo"), held(Options(), "demo")
    for saved in (far, near):
        elsewhere(Options(rpc=["127.0.0.1:2"]), saved.origin or {})[1]("demo")
    assert used == [["127.0.0.1:1"], None]


@pytest.mark.parametrize(
    ("options", "way"),
    [
        (Options(), "eftlocal chat demo --continue"),
        (
            Options(base="m.gguf", tuned="tuned.gguf", reference="hf:a/b/r.gguf"),
            "eftlocal chat --base {0}/m.gguf --tuned {0}/tuned.gguf --reference hf:a/b/r.gguf --continue",
        ),
    ],
)
def test_kept_workers_that_are_away_are_an_error_that_says_how_to_go_on_without(
    options: Options, way: str, folder: Path
) -> None:
    def load(name: str | None) -> Emulator:
        raise WorkerError("The worker 127.0.0.1:1 is not there.", "Start it.")

    saved = held(replace(options, rpc=["127.0.0.1:1"]), None if options.base else "demo")
    with pytest.raises(WorkerError) as caught:
        telling_a_way(load, saved, "--continue")(None)
    assert caught.value.message == "The worker 127.0.0.1:1 is not there."
    assert caught.value.hint == "Start it. Without workers: " + way.format(folder)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("models.toml", "models.toml: no such file"),
        ("[emulators.second]", 'no emulator is named "second"'),
    ],
)
def test_what_is_missing_is_one_error_that_names_it_and_a_way_out(gone: str, said: str, folder: Path) -> None:
    saved = held(Options(models=Path("models.toml")), "second")
    file = folder / "models.toml"
    if gone == file.name:
        file.unlink()
    else:
        file.write_text(MODELS.partition(gone)[0])
    with pytest.raises(CatalogError) as caught:
        own_catalog(Options(), saved, "it")
    assert caught.value.message.startswith("The session it was held with second, which cannot be had: ")
    assert said in caught.value.message
    assert (caught.value.hint or "").endswith("Name an emulator to go on with: eftlocal chat EMULATOR --session it")


def test_an_older_session_of_named_models_says_that_it_does_not_know_them() -> None:
    saved = Saved(emulator="trio", settings=Settings(), messages=())
    with pytest.raises(CatalogError, match="its models were named on the command line, and it does not say which"):
        own_catalog(Options(), saved, "it")


def test_models_of_the_command_line_go_before_those_of_the_session(folder: Path) -> None:
    saved = held(Options(models=Path("models.toml")), "second")
    (folder / "new.toml").write_text(MODELS)
    made, _, name = own_catalog(Options(models=folder / "new.toml"), saved, "it")
    assert (made.models, name) == (folder / "new.toml", "second")
