"""Tries a suspicious model in another process, where llama.cpp may abort without ending this one."""

import os
import subprocess
import sys
from functools import cache
from typing import Final

from eftlocal.errors import ModelLoadError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.gguf_limits import unproven

__all__ = ["must_survive"]

# The child imports from the same places as this process, and nothing from the folder that it happens to run in. Its
# standard input is a pipe that this process holds: when it closes, this process has ended, and so does the child.
CODE: Final = """import sys; sys.path[:] = sys.argv[2:]
from eftlocal.runtime.llama.trial import main; main(sys.argv[1])"""
SECONDS: Final = 120  # a trial takes about one
HINT: Final = "The file may be damaged, or made for another version of llama.cpp. Get it again, or another one."


def must_survive(header: Header) -> None:
    """Tries the model in another process if its header has anything that is not known to be safe.

    A model that is known to be safe costs nothing. Raises ModelLoadError when llama.cpp ended that process.
    """
    if (what := unproven(header)) is None or not all(shard.is_file() for shard in header.shards):
        return
    stats = [shard.stat() for shard in header.shards]
    if (end := _end(str(header.path), tuple((s.st_size, s.st_mtime_ns) for s in stats))) is not None:
        problem = f"llama.cpp ended the process in which this file was tried ({end}), perhaps because of {what}"
        raise ModelLoadError(f"{header.path}: {problem}", HINT)


@cache
def _end(path: str, _: tuple[tuple[int, int], ...]) -> str | None:
    """Returns how the process ended that tried the file; None if it did not abort. Sizes and times tell files apart."""
    quiet = os.environ | {"GGML_NO_BACKTRACE": "1"}  # otherwise llama.cpp starts a debugger
    reads, writes = os.pipe()
    try:
        done = subprocess.run(  # in a session of its own, so that Ctrl-C in the terminal does not end it
            [sys.executable, "-c", CODE, path, *sys.path],
            capture_output=True,
            check=False,
            encoding="utf-8",
            env=quiet,
            errors="replace",
            start_new_session=True,
            stdin=reads,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end in {SECONDS} seconds"
    except OSError:  # no process can be started here
        return None
    finally:
        os.close(reads)
        os.close(writes)
    if done.returncode in (0, 1):  # 1: Python itself could not run it
        return None
    said = [line for line in done.stderr.splitlines() if "GGML_ASSERT" in line or "what():" in line or ".cpp:" in line]
    return said[0].rpartition("/")[2].strip() if said else f"exit code {done.returncode}"
