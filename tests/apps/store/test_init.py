"""`init` checks an emulator before it writes it, and `rm` takes out again exactly what `init` wrote."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest

from tests import families
from tests.apps.store.conftest import World
from tests.families import Family

pytestmark = pytest.mark.slow  # many commands, each with a Hub beside it


@pytest.fixture
def files(world: World, family: Family) -> Path:
    """A folder with models of the family, which no models.toml names."""
    folder = world.catalog.parent / "files"
    folder.mkdir()
    for name in ("base", "tuned", "reference", "tuned2", "other_vocabulary", "no_template"):
        shutil.copy(getattr(family, name), folder / f"{name}.gguf")
    families.write_model(folder / "base.gguf", seed=21)  # other weights than those that the catalogue names
    families.write_model(folder / "reference.gguf", seed=22)
    return folder


def users(world: World) -> Path:
    return world.catalog.parent / "home" / "eftlocal" / "models.toml"


def trio(folder: Path, base: str = "base", tuned: str = "tuned", reference: str = "reference") -> list[str]:
    roles = {"--base": base, "--tuned": tuned, "--reference": reference}
    return [word for role, name in roles.items() for word in (role, str(folder / f"{name}.gguf"))]


def test_an_emulator_of_files_is_written_and_runs_and_rm_takes_it_out(world: World, files: Path) -> None:
    done = world.run("init", *trio(files), "--name", "mine")
    assert done.code == 0, done.err
    views, fits, undo, last = done.err.splitlines()
    assert (
        views == "views: base transcript, tuned chat, reference transcript (`eftlocal show mine` shows what each sees)"
    )
    assert fits.startswith("it fits: ") and undo == "`eftlocal rm mine` takes it out again"
    assert last == f"{users(world)} now defines mine: eftlocal chat mine"
    assert world.run("generate", "-e", "mine", "--max-tokens", "2", "hi").code == 0
    refused = world.run("rm", "mine")
    assert refused.code == 2 and "--yes" in refused.err and users(world).exists()
    done = world.run("rm", "mine", "--yes")
    assert done.code == 0
    assert done.err.splitlines() == [
        *(f"kept: {files}/{name}.gguf is your own file" for name in ("base", "tuned", "reference")),
        f"{users(world)} no longer defines mine",
    ]
    assert not users(world).exists() and (files / "base.gguf").exists()
    assert world.run("rm", "mine", "--yes").code == 1


def test_paths_are_written_without_dots_and_relative_to_a_file_above_them(
    world: World, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("HOME", str(files))
    words = ["--base", "~/base.gguf", "--tuned", "../files/./tuned.gguf", "--reference", "reference.gguf"]
    assert world.run("init", *words, "--name", "a").code == 0
    models = tomllib.loads(users(world).read_text())["models"]
    assert {name: model["path"] for name, model in models.items()} == {
        f"a-{role}": f"{files}/{role}.gguf" for role in ("base", "tuned", "reference")
    }
    target = files.parent / "near.toml"
    assert world.run("init", "--base", "tuned2.gguf", "--name", "b", "--file", str(target)).code == 0
    assert tomllib.loads(target.read_text())["models"] == {"b-base": {"path": "files/tuned2.gguf"}}
    assert world.run("generate", "-e", "b", "--models", str(target), "--max-tokens", "2", "hi").code == 0


def test_a_model_that_has_an_entry_is_not_written_again(world: World, files: Path) -> None:
    own = files / "link.gguf"
    own.symlink_to(world.catalog.with_name("own.gguf"))
    words = ["--base", str(files / "base.gguf"), "--tuned", str(files / "tuned.gguf"), "--reference", str(own)]
    assert world.run("init", *words, "--name", "one").code == 0
    (reward,) = tomllib.loads(users(world).read_text())["emulators"]["one"]["rewards"]
    assert reward["reference"] == "own"  # the link leads to the file of this entry
    assert world.run("init", *words[:2], "--tuned", str(files / "tuned2.gguf"), *words[4:], "--name", "two").code == 0
    text = users(world).read_text()
    assert text.count("link.gguf") == 0 and text.count("base.gguf") == 1 and "[models.two-tuned]" in text
    assert tomllib.loads(text)["emulators"]["two"]["base"] == "one-base"
    refused = world.run("rm", "one", "--yes")
    assert refused.code == 1 and "two" in refused.err and refused.err.endswith("Remove two first.\n")
    assert users(world).read_text() == text
    assert world.run("rm", "two", "--yes").code == world.run("rm", "one", "--yes").code == 0


REFUSED = {
    "no name": (["--name", ""], "cannot be the name"),
    "a name of two lines": (["--name", "a\nb"], "cannot be the name"),
    "a name that looks like an option": (["--name", "--"], "cannot be the name"),
    "a name that looks like a path": (["--name", "a/b"], "cannot be the name"),
    "the name of what is named one by one": (["--name", "trio"], "stands for the models"),
    "a name that looks like a file": (["--name", "a.gguf"], "is a file's"),
    "an emulator's name": (["--name", "tiny"], 'the emulator "tiny" is already defined'),
    "a model's name": (["--name", "own"], 'the model "own" is already defined'),
    "a broken emulator's name": (["--name", "wrong"], 'the emulator "wrong" is already there, and broken: '),
    "a name that would hide a model": (["--name", "my"], 'the model "my-base" is already defined'),
    "no such file": (["--base", "./nope.gguf"], "does not exist"),
    "not a model": (["--base", "models.toml"], 'no model is named "models.toml"'),
    "a damaged file": (["--base", "bad.gguf"], "bad.gguf: "),
    "a vocabulary of another family": (["--tuned", "other_vocabulary.gguf"], "token"),
    "one file as tuned and reference": (["--tuned", "reference.gguf"], "nothing is emulated"),
    "a copy as tuned": (["--tuned", "copy.gguf"], "nothing is emulated"),
    "tuned alone": (["--only-tuned"], "no reference model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_init_writes_nothing_that_hides_or_breaks_something(
    case: str, world: World, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, problem = REFUSED[case]
    monkeypatch.chdir(files)
    (files / "bad.gguf").write_bytes(b"GGUF")
    shutil.copy(files / "reference.gguf", files / "copy.gguf")
    text = world.catalog.read_text() + '[models.my-base]\npath = "own.gguf"\n[emulators.wrong]\nbase = 1\n'
    world.catalog.write_text(text)
    base = ["--base", "base.gguf", "--tuned", "tuned.gguf"]
    options = base if words == ["--only-tuned"] else [*base, "--reference", "reference.gguf", *words]
    done = world.run("init", *options, "--file", "new.toml", *([] if "--name" in words else ["--name", "x"]))
    said = [line for line in done.err.splitlines() if "emulators.wrong" not in line or "already" in line]
    assert done.code == 1 and problem in done.err and len(said) <= 2 + (problem == "token") * 6, done.err
    assert not (files / "new.toml").exists() and world.catalog.read_text() == text


def test_what_is_odd_is_told(world: World, files: Path) -> None:
    alone = world.run("init", "--base", str(files / "base.gguf"), "--name", "alone")
    assert alone.code == 0 and "a base alone: nothing is emulated" in alone.err and "views: base chat (" in alone.err
    same = world.run("init", *trio(files, base="reference"), "--name", "same")
    assert same.code == 0 and "with beta 1 this is the tuned model itself" in same.err
    tuned = world.run("init", *trio(files, base="tuned"), "--name", "tuned")
    assert tuned.code == 0 and "emulates no larger model" in tuned.err
    swapped = world.run("init", *trio(files, tuned="no_template"), "--name", "swapped")
    assert swapped.code == 0 and "perhaps tuned and reference are swapped" in swapped.err
    assert "views: base transcript, tuned transcript, reference transcript" in swapped.err
    for name in ("alone", "same", "tuned", "swapped"):
        assert world.run("generate", "-e", name, "--max-tokens", "2", "hi").code == 0


HUB = ["--base", "hf:us/Big-GGUF/Big.Q4_K_M.gguf", "--tuned", "hf:us/Small-GGUF/small-chat.Q8_0.gguf"]
SMALL = "hf:us/Small-GGUF/small.Q8_0.gguf"


def test_what_is_on_the_hub_is_checked_there_and_nothing_is_downloaded(world: World, family: Family) -> None:
    done = world.run("init", *HUB, "--reference", "hf:us/Small-GGUF/none.gguf", "--name", "far")
    assert done.code == 1 and "us/Small-GGUF has no file 'none.gguf'" in done.err and not users(world).exists()
    world.server.add("us/Copy-GGUF", {"copy.gguf": family.reference, "odd.gguf": family.other_vocabulary})
    same = world.run("init", *HUB[:2], "--tuned", "hf:us/Copy-GGUF/copy.gguf", "--reference", SMALL, "--name", "far")
    assert same.code == 1 and "nothing is emulated" in same.err
    odd = world.run("init", *HUB, "--reference", "hf:us/Copy-GGUF/odd.gguf", "--name", "far")
    assert odd.code == 1 and "token" in odd.err and not users(world).exists()
    done = world.run("init", *HUB, "--reference", SMALL, "--name", "far")
    assert done.code == 0 and "it fits: " in done.err, done.err
    assert not list((world.home / "hub").rglob("blobs/*.gguf"))
    assert "[models" not in users(world).read_text()  # the catalogue has entries of these very files
    assert world.run("pull", "far").code == 0
    pair = ["--tuned", "hf:us/Small-GGUF/small-chat.Q8_0.gguf", "--reference", "hf:us/Copy-GGUF/copy.gguf@main"]
    assert world.run("init", *HUB[:2], *pair, "--name", "other-copy").code == 0
    entry = tomllib.loads(users(world).read_text())["models"]["other-copy-reference"]
    size = family.reference.stat().st_size
    assert entry == {"repo": "us/Copy-GGUF", "file": "copy.gguf", "revision": "main", "size": size}
    listed = {e["name"]: e for e in json.loads(world.run("list", "--json").out)["emulators"]}
    assert listed["other-copy"]["to_download"] == size and listed["other-copy"]["fits"] is True
    assert world.run("rm", "other-copy", "--yes").code == 0
    done = world.run("rm", "far", "--yes", "--json")
    found = json.loads(done.out)
    assert found["entry"] == str(users(world)) and not users(world).exists()
    assert found["freed"] == 0 and {user for kept in found["kept"] for user in kept["used_by"]} == {"tiny", "other"}


def test_what_cannot_be_checked_offline_is_added_by_force_only(world: World) -> None:
    world.server.close()
    words = ["init", *HUB, "--reference", SMALL, "--name", "far"]
    refused = world.run(*words)
    assert refused.code == 1 and "cannot reach" in refused.err and "--force" in refused.err
    assert not users(world).exists()
    done = world.run(*words, "--force")
    assert done.code == 0 and "not checked: cannot reach" in done.err
    assert "views" not in users(world).read_text() and "far" in users(world).read_text()


def test_force_replaces_what_init_wrote_and_hides_what_another_file_defines(world: World, files: Path) -> None:
    assert world.run("init", *trio(files), "--name", "mine").code == 0
    first = users(world).read_text()
    refused = world.run("init", *trio(files, tuned="tuned2"), "--name", "mine")
    assert refused.code == 1 and "already defined" in refused.err and "--force" in refused.err
    assert world.run("init", *trio(files, tuned="tuned2"), "--name", "mine", "--force").code == 0
    assert users(world).read_text() == first.replace("tuned.gguf", "tuned2.gguf")
    assert world.run("init", "--base", str(files / "base.gguf"), "--name", "here", "--force").code == 0
    assert json.loads(world.run("show", "here", "--json").out)["base"] == "mine-base"
    assert world.run("rm", "here", "--yes").code == 0
    assert json.loads(world.run("show", "here", "--json").out)["base"] == "own"
    users(world).write_text('[emulators.byhand]\nbase = "own"\n')
    refused = world.run("init", *trio(files), "--name", "byhand", "--force")
    assert refused.code == 1 and "init did not write it" in refused.err


@pytest.mark.parametrize("content", [b"[models.x\n", b"\xff\n", b"models = 3\n", b"models = { a = 1 }\n"])
def test_a_broken_file_is_told_and_stays_as_it_is(content: bytes, world: World, files: Path) -> None:
    users(world).parent.mkdir(parents=True)
    users(world).write_bytes(content)
    done = world.run("init", *trio(files), "--name", "mine")
    assert done.code == 1 and str(users(world)) in done.err and users(world).read_bytes() == content
    assert done.err.count(": is not") <= 1  # said once
    assert world.run("init", *trio(files), "--name", "mine", "--file", str(files / "other.toml")).code == 0


def test_a_broken_entry_of_init_can_be_taken_out(world: World, files: Path) -> None:
    assert world.run("init", *trio(files), "--name", "mine").code == 0
    users(world).write_text("# mine\n" + users(world).read_text().replace("base = ", "bse = "))
    assert world.run("show", "mine").code == 1
    assert world.run("rm", "mine", "--yes").code == 0
    assert users(world).read_text() == "# mine\n"


def test_a_link_stays_a_link_and_permissions_stay(world: World, files: Path) -> None:
    real = files / "dotfiles.toml"
    real.write_text("# my own\n")
    real.chmod(0o600)
    users(world).parent.mkdir(parents=True)
    users(world).symlink_to(real)
    assert world.run("init", *trio(files), "--name", "mine").code == 0
    assert users(world).is_symlink() and "[emulators.mine]" in real.read_text() and real.stat().st_mode & 0o777 == 0o600
    assert world.run("rm", "mine", "--yes").code == 0
    assert real.read_text() == "# my own\n" and users(world).is_symlink()


def test_init_says_how_to_use_a_file_of_another_place(world: World, tmp_path: Path) -> None:
    own = tmp_path / "spa ce" / "é\x7f.gguf"
    own.parent.mkdir()
    families.write_model(own, seed=31)
    target = str(tmp_path / "my models.toml")
    done = world.run("init", "--base", str(own), "--name", "é.1", "--file", target)
    assert done.code == 0 and done.err.endswith(f": eftlocal chat é.1 --models '{target}'\n")
    assert world.run("generate", "-e", "é.1", "--models", target, "--raw", "--max-tokens", "2", "hi").code == 0
    assert world.run("rm", "é.1", "--models", target, "--yes").code == 0 and not Path(target).exists()


def test_init_refuses_a_path_that_toml_cannot_hold(world: World, tmp_path: Path) -> None:
    own = tmp_path / os.fsdecode(b"\xff.gguf")
    shutil.copy(tmp_path / "own.gguf", own)
    (tmp_path / "own.gguf").write_bytes(b"another")
    done = world.run("init", "--base", str(own), "--file", str(tmp_path / "new.toml"))
    assert done.code == 1 and "UTF-8" in done.err
