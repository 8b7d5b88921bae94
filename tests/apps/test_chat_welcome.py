"""The first line of a chat: what it says for which emulator, in which width, and where it is not shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from eftlocal.apps.chat.welcome import first_line
from eftlocal.catalog import models
from eftlocal.errors import CatalogError
from tests.apps.terminal import CTRL_D, ROOT, fake

ENTRIES = """
[models.m]
path = "m.gguf"
[emulators.pair]
base = "m"
rewards = [{ tuned = "m", reference = "m" }]
[emulators.alone]
base = "m"
example = "Who are you?"
"""


@pytest.fixture
def catalog(tmp_path: Path) -> models.Catalog:
    (tmp_path / "models.toml").write_text(ENTRIES)
    return models.load(tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("name", "width", "line"),
    [
        ("pair", 160, "Ask something · /help lists commands, /compare shows what the small pair does, Ctrl-D leaves"),
        ("pair", 80, "Ask something · /help, /compare, Ctrl-D leaves"),
        ("alone", 80, "Who are you? · /help lists commands, Ctrl-D leaves"),  # there is nothing to compare
        ("demo", 80, "Ask about a city: How large is Lyon? · /help, /compare, Ctrl-D leaves"),
        ("demo", 60, "Ask about a city: How large is Lyon? · /help, Ctrl-D leaves"),
        ("demo", 20, "Ask about a city: How large is Lyon? · /help, Ctrl-D leaves"),
    ],
)
def test_the_first_line_fits_and_names_what_there_is(name: str, width: int, line: str, catalog: models.Catalog) -> None:
    assert first_line(catalog.emulator(name), width) == line


def test_without_an_entry_there_is_a_line_too() -> None:
    assert first_line(None, 80) == "Ask something · /help lists commands, Ctrl-D leaves"


def test_an_example_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRIES.replace('"Who are you?"', "3"))
    with pytest.raises(CatalogError, match="example: must be a string, not an integer"):
        models.load(tmp_path / "models.toml").emulator("alone")


@pytest.mark.slow
def test_the_first_line_is_for_terminals(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(f'default = "alone"\n{ENTRIES}')
    command = ["-m", "tests.apps.fake", f"models={tmp_path / 'models.toml'}"]
    with fake(tmp_path, command[2], columns=60, lines=7) as terminal:  # as low as a terminal may be
        terminal.wait("Who are you? · /help lists commands, Ctrl-D leaves\n>>>")
        terminal.send(CTRL_D)
        assert terminal.close() == 0
    piped = subprocess.run([sys.executable, *command], input="say hi", capture_output=True, text=True, cwd=ROOT)
    assert (piped.stdout, piped.stderr) == ("hi\n", "")
