"""A server's API key goes to the server and nowhere else: into no output, message, file or record."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_catalog
from tests.families import Family
from tests.runtime.remote.mirror import mirrored

KEY = "sk-7f3a-never-shown"
PAIR = [{"tuned": "tuned", "reference": "reference"}]
VIEWS = {"base": "raw", "tuned": "raw", "reference": "raw"}

pytestmark = pytest.mark.slow


def test_the_key_is_in_no_output_and_no_file(family: Family, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "in.jsonl").write_text('{"prompt": "Hi"}\n{"prompt": "Ho"}\n')
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")} | {"HOME": str(home), "MY_KEY": KEY}
    commands = {
        "generate --json Hi --max-tokens 4": 0,
        "generate -i in.jsonl -o out.jsonl --max-tokens 4": 0,
        "score --json --prompt Hi --completion there": 0,
        "doctor e": 0,
        "chat --session talk": 0,
    }
    said = []
    with mirrored(family.base) as (server, _):
        models: dict[str, Any] = {
            "base": {"url": server.url, "api_key_env": "MY_KEY"},
            "tuned": family.tuned,
            "reference": family.reference,
        }
        path = write_catalog(work, models, base="base", rewards=PAIR, views=VIEWS)

        def run(command: str, code: int) -> None:
            arguments = [sys.executable, "-m", "eftlocal", *command.split(), "--models", str(path)]
            done = subprocess.run(
                arguments, cwd=work, env=environment, input="Hi\n/stats\n", capture_output=True, text=True, timeout=120
            )
            assert done.returncode == code, (command, done.stderr)
            said.extend([done.stdout, done.stderr])

        for command, code in commands.items():
            run(command, code)
        assert any(f"Authorization: Bearer {KEY}" in head for head in server.headers)
    run("generate Hi --debug", 1)  # nobody is there any more
    run("doctor e", 1)
    assert "".join(said).strip() and KEY not in "".join(said)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "out.jsonl" for file in files) and any("sessions" in file.parts for file in files)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
