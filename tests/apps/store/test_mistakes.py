"""What is broken (an entry, a file, the cache, the token) is told, and every command that does not need it goes on."""

import json
from pathlib import Path

import pytest

from eftlocal.catalog.hub import cache
from tests.apps.store.conftest import World

ENTRIES = '[models.bad]\npth = "x"\n[emulators.wrong]\nbase = "bad"\n[emulators.fine]\nbase = "own"\n'


@pytest.fixture
def users(world: World) -> Path:
    """The user's models.toml, whose folder exists."""
    file = world.catalog.parent / "home" / "eftlocal" / "models.toml"
    file.parent.mkdir(parents=True)
    return file


def test_a_broken_entry_is_told_where_entries_are_listed_and_raised_where_it_is_asked_for(
    world: World, users: Path
) -> None:
    users.write_text(ENTRIES)
    mistake = f'eftlocal: {users}: [models.bad] pth: unknown key; did you mean "path"?'
    for words in (["list"], ["list", "--json"], ["show", "fine"], ["rm", "small", "--yes"]):
        done = world.run(*words)
        assert done.code == 0 and done.err.startswith(f"{mistake} (so wrong cannot be used)\n"), done.err
    for words in (["show", "wrong"], ["rm", "wrong", "--yes"], ["pull", "wrong"], ["generate", "-e", "wrong", "hi"]):
        done = world.run(*words)
        assert (done.code, done.err) == (1, f'{mistake}\nThe emulator "wrong" uses this model.\n')
    done = world.run("generate", "-e", "fine", "--raw", "--max-tokens", "2", "hi")
    assert (done.code, done.err) == (0, "")
    found = json.loads(world.run("doctor", "--json").out)
    assert [f["state"] for f in found if f["name"] == "catalogue"] == ["wrong", "ok"]


def test_a_file_that_is_no_toml_is_told_and_the_packaged_catalogue_works(world: World, users: Path) -> None:
    users.write_text("[models.x\n")
    mistake = f"{users}: is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 10)"
    for words in (["list"], ["show", "here"], ["generate", "-e", "here", "--raw", "--max-tokens", "2", "hi"]):
        done = world.run(*words)
        assert (done.code, done.err) == (0, f"eftlocal: {mistake}\n")
    done = world.run("generate", "-e", "mine", "hi")
    assert done.code == 1 and done.err.startswith(f"eftlocal: {mistake}\n")
    assert 'no emulator is named "mine"' in done.err and f"It may be in a part of {users} that" in done.err
    done = world.run("doctor", "here")
    assert done.code == 0 and "note catalogue" in done.out
    done = world.run("list", "--models", str(users))
    assert (done.code, done.err) == (1, f"eftlocal: {mistake}\n")


def test_a_part_of_the_cache_that_cannot_be_read_hides_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run("pull", "small")
    real = cache.entries

    def refuse(folder: Path) -> list[Path]:  # tests may run as root, which may read every folder
        if "Big" in str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(cache, "entries", refuse)
    done = world.run("list", "--json")
    problem = f"{world.home}/hub/models--us--Big-GGUF/snapshots: Permission denied"
    assert done.code == 0 and done.err == f"eftlocal: {problem}\n"
    assert {e["name"]: e["local"] for e in json.loads(done.out)["emulators"]} == {
        "tiny": False,
        "other": True,
        "here": True,
    }
    done = world.run("generate", "--raw", "--max-tokens", "2", "hi")  # of the defaults, the next one is here
    assert done.code == 0 and "tiny is not on this machine" in done.err
    found = json.loads(world.run("doctor", "--json").out)
    assert next(f["text"] for f in found if f["name"] == "catalogue").endswith("here: other, here")
    assert world.run("show", "tiny").code == 0  # it is looked at on the Hub


def test_doctor_examines_what_it_can_in_a_home_that_is_no_folder(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HF_HUB_CACHE": "/dev/null/hub", "HF_TOKEN_PATH": "/dev/null/token"}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null/.config")
    done = world.run("doctor", "--json")
    found = {f["name"]: (f["state"], f["text"]) for f in json.loads(done.out)}
    assert done.code == 1 and done.err == "" and found["cache"][0] == "wrong"
    assert found["token"] == ("ok", "none: only gated models need one")
    assert found["catalogue"] == ("ok", "3 emulators; here: here")
    done = world.run("init", "--base", str(world.catalog.with_name("own.gguf")), "--name", "x")
    assert done.code == 1 and done.err.count("\n") <= 2 and "cannot be written: Not a directory" in done.err


def test_a_token_that_cannot_be_read_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    done = world.run("pull", "tiny", "--yes")
    assert done.code == 1 and "token cannot be read: it is not UTF-8 text" in done.err and "\\xff" not in done.err
