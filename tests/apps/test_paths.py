"""Folders and texts that are not ASCII: the program works in folders of these names and in these locales."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import write_catalog
from tests.families import Family

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names of any bytes"),
]

ASCII_PATHS = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CASES = {  # the locale, and the folder's name
    "UTF-8": ({"LC_ALL": "C.UTF-8"}, b"m\xff \x1b[31m\xc2\x9b"),
    "ASCII paths": (ASCII_PATHS, b"mod\xc3\xa8les"),
    "ASCII paths, no UTF-8": (ASCII_PATHS, b"m\xff"),
    "ASCII output": ({"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"}, b"mod\xc3\xa8les"),
}
ROOT = Path(__file__).parents[2]
PROMPT = "Où est 東京?"

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, str], bytes]:
    return CASES[request.param]


@pytest.fixture
def folder(case: tuple[dict[str, str], bytes], tmp_path: Path, family: Family) -> Path:
    """A folder of that name with models, an adapter, and a models.toml that names them by their paths in it."""
    made = tmp_path / os.fsdecode(case[1])
    made.mkdir()
    for name in ("base", "tuned", "reference", "lora"):
        (made / f"{name}.gguf").write_bytes(getattr(family, name).read_bytes())
    write_catalog(
        made,
        {
            "base": Path("base.gguf"),
            "tuned": Path("tuned.gguf"),
            "adapted": {"path": "reference.gguf", "lora": {"path": "lora.gguf"}},
        },
        base="base",
        description="東京",
        rewards=[{"name": "ré", "tuned": "tuned", "reference": "adapted"}],
        context=256,
    )
    return made


@pytest.fixture
def run(case: tuple[dict[str, str], bytes], folder: Path) -> Run:
    """Runs the program in the locale and in the folder, which holds the user's data too. No traceback may come."""

    def run(*words: str | Path | bytes, stdin: str = "") -> "subprocess.CompletedProcess[bytes]":
        env = os.environ | case[0] | {"TERM": "dumb", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
        env |= {name: str(folder / "home") for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
        command = [sys.executable, "-m", "eftlocal", *words]
        done = subprocess.run(command, input=stdin.encode(), env=env, cwd=folder, capture_output=True)
        for text in (done.stdout, done.stderr):
            assert b"Traceback" not in text and b"codec" not in text, text.decode("utf-8", "backslashreplace")
            assert b"\x1b" not in text and b"\xc2\x9b" not in text
        return done

    return run


def toml(folder: Path) -> tuple[str | Path, ...]:
    return ("--models", folder / "models.toml", "--max-tokens", "4", "--threads", "1", "--seed", "1")


def test_models_and_adapters_load_and_json_is_complete(run: Run, folder: Path) -> None:
    done = run("generate", *toml(folder), "--json", PROMPT.encode())
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    plain = run("generate", *toml(folder), "-", stdin=PROMPT)
    assert plain.returncode == 0 and (plain.stdout.decode("utf-8") == f"{reply['text']}\n" or b"?" in plain.stdout)
    trio = [word for role in ("base", "tuned", "reference") for word in (f"--{role}", folder / f"{role}.gguf")]
    assert run("generate", *trio, *toml(folder)[2:], PROMPT.encode()).returncode == 0


def test_what_is_told_of_paths_can_be_shown(run: Run, folder: Path) -> None:
    models = ("--models", folder / "models.toml")
    for words in (("list",), ("show", "e"), ("doctor", "e")):
        assert run(*words, *models).returncode == 0
        found = json.loads(run(*words, "--json", *models).stdout)
        if words == ("list",):
            assert next(entry for entry in found["emulators"] if entry["name"] == "e")["description"] == "東京"
    missing = run("generate", "--base", folder / "no.gguf", "Hi")
    assert missing.returncode == 1 and b"no.gguf" in missing.stderr and missing.stderr.count(b"\n") <= 2


def test_a_batch_is_written_in_utf_8_and_continued(run: Run, folder: Path) -> None:
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in (PROMPT, "Hello")]
    (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = ("-i", folder / "in.jsonl", "-o", folder / "out.jsonl")
    for _ in range(2):
        done = run("generate", *toml(folder), *files)
        assert done.returncode == 0, done.stderr
        written = (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["prompt"] for line in written] == [PROMPT, "Hello"] and PROMPT in written[0]


def test_a_session_is_saved_and_continued(run: Run, folder: Path) -> None:
    chat = ("chat", *toml(folder), "--plain", "--session", "été".encode())
    assert run(*chat, stdin=f"{PROMPT}\n/save où\n/quit\n").returncode == 0
    saved = json.loads((folder / "home" / "eftlocal" / "sessions" / "été.json").read_text(encoding="utf-8"))
    assert saved["messages"][0]["content"] == PROMPT
    again = run(*chat, stdin="/sessions\n/load où\n/export chat.md\n/quit\n")
    assert PROMPT in (folder / "chat.md").read_text(encoding="utf-8")
    assert again.returncode == 0 and b"is not a name" not in again.stderr and b"error" not in again.stderr


def test_init_writes_the_path_as_utf_8_or_says_why_not(run: Run, folder: Path, tmp_path: Path) -> None:
    done = run("init", "--base", folder / "base.gguf", "--file", folder / "own.toml")
    models = tomllib.loads((folder / "own.toml").read_text(encoding="utf-8"))["models"]
    assert done.returncode == 0 and models["mine-base"]["path"] == "base.gguf"  # beside it: no folder's name is written
    done = run("init", "--base", folder / "base.gguf", "--file", tmp_path / "far" / "own.toml")
    try:
        path = os.fsencode((folder / "base.gguf").absolute()).decode()
    except UnicodeDecodeError:
        assert done.returncode == 1 and b"is not UTF-8 text" in done.stderr
    else:
        models = tomllib.loads((tmp_path / "far" / "own.toml").read_text(encoding="utf-8"))["models"]
        assert done.returncode == 0 and models["mine-base"]["path"] == path
