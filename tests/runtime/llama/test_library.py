"""Tests of llama.cpp's library: the features of its build, and that it is silent unless verbose."""

import os
import subprocess
import sys
from pathlib import Path

import llama_cpp as lib
import pytest

from eftlocal.runtime.llama import library
from tests.families import Family

VERBOSE = """
from eftlocal.runtime.llama import library
library.set_verbose(True)
library._log(4, "general.name = \\x1b[31m\\u009b\\nnext\\n".encode(), None)
"""
LOUD = """
import sys
from pathlib import Path
from eftlocal.runtime import gguf
from eftlocal.runtime.llama import context, library, model
library.set_verbose(sys.argv[2] == "verbose")
loaded = model.Model(gguf.check(Path(sys.argv[1])))
cache = context.Context(loaded, n_ctx=64)
cache.feed([context.Feed(0, [1, 2, 3], 1)])
cache.close()
loaded.close()
"""


def test_the_build_says_its_version_and_features() -> None:
    assert library.version() == lib.__version__
    features = library.build_features()
    assert features and all(name and value for name, value in features.items())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | ", {"SSE3": "1", "AVX2": "1"}),
        (
            b"CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : AVX2 = 1 | ",
            {"CUDA": "1", "ARCHS": "890", "USE_GRAPHS": "1", "AVX2": "1"},
        ),
        (b"MTL : EMBED_LIBRARY = 1 | CPU : NEON = 1 | ", {"MTL": "1", "EMBED_LIBRARY": "1", "NEON": "1"}),
        (b"", {}),
    ],
)
def test_features_are_read_from_what_llama_cpp_prints(
    monkeypatch: pytest.MonkeyPatch, said: bytes, expected: dict[str, str]
) -> None:
    monkeypatch.setattr(lib, "llama_print_system_info", lambda: said)
    assert library.build_features() == expected
    monkeypatch.setattr(lib, "llama_supports_rpc", lambda: True)
    assert library.build_features() == expected | {"RPC": "1"}


@pytest.mark.parametrize("how", ["silent", "verbose"])
def test_llama_cpp_is_silent_unless_it_is_asked_to_talk(family: Family, how: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOUD, str(family.tuned), how], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout == b""
    assert (b"llama" in done.stderr) is (how == "verbose")
    if how == "silent":
        assert done.stderr == b""


def test_the_log_of_llama_cpp_shows_escapes_of_a_file_as_text() -> None:
    done = subprocess.run([sys.executable, "-c", VERBOSE], capture_output=True, check=True)
    assert done.stderr == b"general.name = \\x1b[31m\\x9b\nnext\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names of any bytes")
def test_a_model_is_quantized_in_a_folder_of_any_name(tmp_path: Path, family: Family) -> None:
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    (folder / "f32.gguf").write_bytes(family.reference.read_bytes())
    library.quantize(folder / "f32.gguf", folder / "f16.gguf", "F16")
    assert 0 < (folder / "f16.gguf").stat().st_size < (folder / "f32.gguf").stat().st_size
