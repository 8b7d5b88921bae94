"""`pull` and `chat` in a real terminal: the question, the bars, Ctrl-C."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.store.conftest import CATALOG
from tests.apps.terminal import CTRL_C, CTRL_D, ENTER, Terminal
from tests.families import Family
from tests.hub_server import HubServer, environment, serving

pytestmark = pytest.mark.slow  # real terminals, and downloads in them

PROGRAM = ("-c", "from eftlocal.cli import main; main()")


@pytest.fixture
def hub(family: Family, tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "models.toml").write_text(CATALOG)
    (tmp_path / "own.gguf").write_bytes(family.reference.read_bytes())
    with serving(tmp_path / "served") as server:
        server.add("us/Big-GGUF", {"Big.Q4_K_M.gguf": family.base})
        server.add("us/Small-GGUF", {"small-chat.Q8_0.gguf": family.tuned, "small.Q8_0.gguf": family.reference})
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> Path:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    for name, value in environment(hub, tmp_path / "hf").items():
        monkeypatch.setenv(name, value)
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("EFTLOCAL_MODELS", str(tmp_path / "models.toml"))
    return tmp_path


def test_ctrl_c_at_the_question_ends_its_line_and_downloads_nothing(home: Path) -> None:
    with Terminal(*PROGRAM, "pull", "tiny", data=home) as terminal:
        terminal.wait("[Y/n]")
        terminal.send(CTRL_C)
        assert terminal.close() == 130
        assert terminal.text.rstrip().endswith("[Y/n] ^C") and terminal.raw.endswith(b"^C\r\n")
    assert not list((home / "hf").rglob("*.gguf"))


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_each_file_has_one_bar_and_ctrl_c_leaves_them_as_they_are(columns: int, home: Path, hub: HubServer) -> None:
    with Terminal(*PROGRAM, "pull", "tiny", data=home, columns=columns) as terminal:
        terminal.wait("[Y/n]")
        hub.faults.rate = 100_000
        terminal.send(ENTER)
        terminal.wait("/s 0:0")
        terminal.send(CTRL_C)
        assert terminal.close() == 130
        rows = terminal.text.rstrip().split("\n")
        bars = [row.split()[0][:10] for row in rows if "━" in row]  # names are cut on a narrow terminal
        assert bars == ["all", "Big.Q4_K_M", "small-chat", "small.Q8_0"], terminal.text
        assert [row for row in rows if row][-1] == "eftlocal: interrupted; the same command continues from here"


def test_a_dumb_terminal_gets_lines(home: Path) -> None:
    with Terminal(*PROGRAM, "pull", "tiny", data=home, term="dumb") as terminal:
        terminal.wait("[Y/n]")
        terminal.send(ENTER)
        assert terminal.close() == 0
        assert terminal.text.count(": downloaded and checked\n") == 3 and b"\x1b" not in terminal.raw


def test_chat_offers_to_download_what_lacks(home: Path) -> None:
    with Terminal(*PROGRAM, "chat", "tiny", data=home) as terminal:
        terminal.wait("[Y/n]")
        terminal.send("n\r")
        assert terminal.close() == 1 and ">>>" not in terminal.text
    with Terminal(*PROGRAM, "chat", "tiny", data=home) as terminal:
        terminal.wait("[Y/n]")
        terminal.send(ENTER)
        terminal.prompt(1)
        terminal.send(CTRL_D)
        assert terminal.close() == 0
    with Terminal(*PROGRAM, "chat", "tiny", data=home) as terminal:
        terminal.prompt(1)
        assert "[Y/n]" not in terminal.text
        terminal.send(CTRL_D)
        assert terminal.close() == 0


def test_doctor_cuts_no_path_on_a_narrow_terminal(home: Path) -> None:
    with Terminal(*PROGRAM, "doctor", "here", data=home, columns=40, lines=60) as terminal:
        assert terminal.close() == 0
        assert str(home / "own.gguf") in "".join(terminal.text.split()), terminal.text


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_list_keeps_the_facts_of_each_emulator_and_says_where_the_models_are(columns: int, home: Path) -> None:
    text = (home / "models.toml").read_text()
    long = "What a user wrote about it, at some length; more than a narrow terminal has room for, in any case"
    (home / "models.toml").write_text(text.replace("a tiny one", long))
    with Terminal(*PROGRAM, "list", "--local", data=home, columns=columns, lines=60) as terminal:
        assert terminal.close() == 0
        rows = terminal.text.split("\n")
        (own,) = (row for row in rows if row.startswith("here "))
        assert own.split()[:3] == ["here", "yes", "yes"] and own.split()[4] in ("kB", "MB")
        assert not any(row.startswith("tiny") for row in rows) and "--models-too" in terminal.text
    with Terminal(*PROGRAM, "list", data=home, columns=columns, lines=80) as terminal:
        assert terminal.close() == 0
        assert "tiny" in terminal.text and "What a user wrote about it" in terminal.text
        assert (long in terminal.text) == (columns == 160) and max(map(len, terminal.text.split("\n"))) <= columns
