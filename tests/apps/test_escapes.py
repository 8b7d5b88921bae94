"""What a file says reaches the terminal without escape sequences, whichever part of the file says it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import write_catalog
from tests.families import Family, write_model

pytestmark = pytest.mark.slow

RED = "\x1b[31m"
STEERING = (b"\x1b", "\x9b".encode(), "\u202e".encode())  # ESC, CSI as one character, and right-to-left override


def _replaced(path: Path, old: bytes, new: bytes) -> None:
    assert len(old) == len(new) and old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def _architecture(folder: Path) -> None:
    write_model(folder / "base.gguf", seed=1, architecture=f"{RED}\x9b\u202ellama")


def _tokenizer(folder: Path) -> None:
    _replaced(folder / "base.gguf", b"smollm", f"{RED}x".encode())


def _template(folder: Path) -> None:
    text = "{{ raise_exception('" + RED + "\x9b\u202e\nnone of mine') }}"
    write_model(folder / "base.gguf", seed=1, chat_template=text)


def _token(folder: Path) -> None:
    _replaced(folder / "base.gguf", b"<|im_end|>", b"<|\x1b[2Jnd|>")


def _adapter(folder: Path) -> None:
    _replaced(folder / "lora.gguf", b"blk.0.attn_q", b"blk.0." + f"{RED}q".encode())


@pytest.mark.parametrize("spoil", [_architecture, _tokenizer, _template, _token, _adapter])
def test_no_escape_of_a_file_reaches_the_terminal(
    spoil: Callable[[Path], None], family: Family, tmp_path: Path
) -> None:
    for name in ("base", "reference", "lora"):
        (tmp_path / f"{name}.gguf").write_bytes(getattr(family, name).read_bytes())
    spoil(tmp_path)
    adapted = {"path": "reference.gguf", "lora": {"path": "lora.gguf"}}
    catalog = write_catalog(
        tmp_path,
        {"base": Path("base.gguf"), "adapted": adapted, "reference": Path("reference.gguf")},
        base="base",
        description=f"{RED}\x9b\u202e",
        rewards=[{"name": f"kind{RED}", "tuned": "adapted", "reference": "reference"}],
        views={"base": "chat", "tuned": "chat", "reference": "chat"},
        context=256,
    )
    said = b""
    for words in (
        ("generate", "--verbose", "--max-tokens", "2", "--threads", "1", "Hi"),
        ("show", "e"),
        ("show", "e", "--json"),
        ("doctor", "e"),
        ("list",),
        ("list", "--json"),
    ):
        command = [sys.executable, "-m", "eftlocal", words[0], "--models", str(catalog), *words[1:]]
        env = os.environ | {"HOME": str(tmp_path), "TERM": "dumb", "COLUMNS": "300"}
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True)
        for text in (done.stdout, done.stderr):
            assert not any(steering in text for steering in STEERING), (words, text)
            assert b"Traceback" not in text, text.decode()
        said += done.stdout + done.stderr
    assert b"\\x1b" in said  # the escape is shown as text
