"""A local Hub server with a tiny emulator on it, and the program connected to this server."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from eftlocal import cli
from tests.families import Family
from tests.hub_server import HubServer, connect, serving

CATALOG = """
default = ["tiny", "here"]
[models.big]
repo = "us/Big-GGUF"
file = "Big.Q4_K_M.gguf"
[models.small-chat]
repo = "us/Small-GGUF"
file = "small-chat.Q8_0.gguf"
[models.small]
repo = "us/Small-GGUF"
file = "small.Q8_0.gguf"
[models.own]
path = "own.gguf"

[emulators.tiny]
description = "a tiny one"
base = "big"
rewards = [{ name = "kind", tuned = "small-chat", reference = "small" }]
context = 256
[emulators.other]
base = "small"
views = { base = "raw" }
context = 256
[emulators.here]
base = "own"
views = { base = "raw" }
context = 256
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class World:
    """The Hub server, the catalogue that names its files, the Hub's cache, and a function that runs the program."""

    server: HubServer
    catalog: Path
    home: Path
    run: Callable[..., Done]


@pytest.fixture
def world(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[World]:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    catalog = tmp_path / "models.toml"
    catalog.write_text(CATALOG)
    (tmp_path / "own.gguf").write_bytes(family.reference.read_bytes())
    monkeypatch.setattr("eftlocal.catalog.models.packaged", lambda name: catalog)
    served = tmp_path / "served"
    served.mkdir()

    def run(*words: str, stdin: str = "") -> Done:
        import io
        import sys

        monkeypatch.setattr(sys, "argv", ["eftlocal", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(int(end.value.code or 0), *capfd.readouterr())

    with serving(served) as server, connect(server, tmp_path / "hf"):
        others = {"README.md": b"x", "mmproj-Big.gguf": b"GGUF"}
        server.add("us/Big-GGUF", {"Big.Q4_K_M.gguf": family.base, "Big.Q8_0.gguf": family.tuned2, **others})
        server.add("us/Small-GGUF", {"small-chat.Q8_0.gguf": family.tuned, "small.Q8_0.gguf": family.reference})
        yield World(server, catalog, tmp_path / "hf", run)
