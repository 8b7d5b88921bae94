"""A mistake in the user's models.toml is told, and every command that does not need what it breaks goes on."""

import json
from pathlib import Path

import pytest

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
