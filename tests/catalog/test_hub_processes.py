"""Tests of downloads in other processes: two at once, killed, with a full disk, without a network."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from tests.hub_server import HubServer, environment, model

pytestmark = [
    pytest.mark.slow,  # each test starts processes
    pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX"),
]

REPO, FILE = "owner/Model-GGUF", "Model-Q4_K_M.gguf"
SIZE = 2_000_000
MODEL = model(SIZE)
SHA256 = hashlib.sha256(MODEL).hexdigest()
PULL = f"""
import sys
from eftlocal.catalog import hub
from eftlocal.errors import HubError
try:
    print(hub.download(hub.repository({REPO!r}), {FILE!r}))
except HubError as error:
    sys.exit(str(error))
"""
FULL = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({SIZE // 2}, resource.RLIM_INFINITY))
{PULL}"""
CLIENT = f"""
from huggingface_hub import hf_hub_download
print(hf_hub_download({REPO!r}, {FILE!r}))
"""
CACHED = f"""
from eftlocal.catalog import hub
print(hub.cached({REPO!r}, {FILE!r}))
"""


def start(server: HubServer, home: Path, code: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env=environment(server, home) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Waits for the end of the process and returns its stdout and stderr."""
    out, err = process.communicate(timeout=60)
    return out.strip(), err.strip()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def served(server: HubServer) -> HubServer:
    server.add(REPO, {FILE: MODEL})
    return server


@pytest.fixture
def partial(home: Path) -> Path:
    return home / "hub" / "models--owner--Model-GGUF" / "blobs" / f"{SHA256}.incomplete"


@pytest.mark.parametrize("second", [PULL, CLIENT])
def test_two_downloads_at_once_of_the_same_file_take_it_once(
    served: HubServer, home: Path, partial: Path, second: str
) -> None:
    served.faults.rate = 2_000_000
    first = start(served, home, PULL)
    wait_until(partial.exists)
    answers = [finish(process) for process in (start(served, home, second, HF_HUB_DISABLE_XET="1"), first)]
    (path,) = {out for out, _ in answers}
    assert Path(path).read_bytes() == MODEL
    assert answers[1][1] == ""
    assert served.served == SIZE
    assert scan_cache_dir(home / "hub").warnings == []


def test_a_killed_download_is_gone_on_with(served: HubServer, home: Path, partial: Path) -> None:
    served.faults.rate = 1_000_000
    for so_far in (200_000, 500_000, 900_000):
        process = start(served, home, PULL)
        wait_until(lambda so_far=so_far: partial.exists() and partial.stat().st_size > so_far)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        finish(process)
        assert finish(start(served, home, CACHED)) == ("None", "")
        assert scan_cache_dir(home / "hub").warnings == []
    left = partial.stat().st_size
    served.faults.rate = None
    path, err = finish(start(served, home, PULL))
    assert err == ""
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == SHA256
    assert served.asked("cdn")[-1].headers["range"] == f"bytes={left}-{SIZE - 1}"
    assert not partial.exists()


def test_a_full_disk_is_said_with_what_is_missing_and_later_gone_on_from(
    served: HubServer, home: Path, partial: Path
) -> None:
    out, err = finish(start(served, home, FULL))
    assert out == ""
    message, hint = err.splitlines()
    assert message.startswith(f"no room for {FILE} (File too large): 1 MB left to download, ")
    assert message.endswith(f" free in {home / 'hub'}")
    assert hint == "the next pull resumes where this one stopped; set HF_HOME to put the cache on another disk"
    assert partial.stat().st_size == SIZE // 2
    path, err = finish(start(served, home, PULL))
    assert err == ""
    assert Path(path).read_bytes() == MODEL
    assert served.asked("cdn")[-1].headers["range"] == f"bytes={SIZE // 2}-{SIZE - 1}"


def test_offline_the_cache_is_used_and_what_is_not_in_it_is_an_error(served: HubServer, home: Path) -> None:
    out, err = finish(start(served, home, PULL, TRANSFORMERS_OFFLINE="1"))
    assert (out, err.splitlines()[0]) == ("", "TRANSFORMERS_OFFLINE is set, so no request is sent to the Hub")
    assert finish(start(served, home, CACHED, HF_HUB_OFFLINE="1")) == ("None", "")
    path, _ = finish(start(served, home, PULL))
    assert finish(start(served, home, CACHED, HF_HUB_OFFLINE="1")) == (path, "")
    assert finish(start(served, home, CLIENT, HF_HUB_OFFLINE="1")) == (path, "")


def test_ctrl_c_ends_a_download_and_keeps_its_bytes(served: HubServer, home: Path, partial: Path) -> None:
    served.faults.rate = 1_000_000
    process = start(served, home, PULL)
    wait_until(lambda: partial.exists() and partial.stat().st_size > 200_000)
    os.kill(process.pid, signal.SIGINT)
    _, err = finish(process)
    assert err.endswith("KeyboardInterrupt")
    assert partial.stat().st_size > 200_000
