"""Downloads a file of the Hub into the cache, and resumes where an earlier download stopped.

The Hub's client starts each download from zero, saves the answer of a captive portal as a file, and compares only
sizes. So we download ourselves, with range requests over plain HTTPS. The bytes go into a partial file, which stays for
the next attempt when the process is killed. They are hashed as they arrive. The file becomes a blob of the client's
cache only when its size and sha256 are right.
"""

import errno
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.tqdm import tqdm

from eftlocal.catalog.hub import cache, client, upkeep
from eftlocal.catalog.hub.failures import one_line, telling
from eftlocal.catalog.hub.listing import RemoteFile, Repository
from eftlocal.catalog.hub.ranges import byte_range
from eftlocal.catalog.hub.settings import LIBRARY, cache_folder, endpoint
from eftlocal.catalog.hub.surroundings import session
from eftlocal.errors import HubError

__all__ = ["download", "part_bytes"]

Progress = Callable[[int], None]

PIECE: Final = 40 * 10**9  # bytes in one request: CDNs send at most 50 GB in one answer
PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 8.0)  # seconds before each further attempt, as long as no byte arrives
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PASSING: Final = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


def part_bytes(repository: Repository, file: str) -> int:
    """Returns how many bytes of a file an interrupted download left. The next download resumes from them.

    This is 0 for more bytes than the file has, because then the next download starts from zero.
    """
    remote = repository.file(file)
    there = _size(cache.partial_path(cache.blob_path(repository.repo, remote.etag)))
    return there if there <= remote.size else 0


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.is_file() else 0


def download(repository: Repository, file: str, *, progress: Progress | None = None, xet: bool = False) -> Path:
    """Downloads and verifies one file (of a split model, one shard). Returns its path in the cache.

    progress  is called with the number of bytes so far, including those of earlier attempts. While another process
              downloads the same file, we wait for it, and `progress` is called with its bytes
    xet       lets the Hub's client do the transfer, with Xet if the repository has it: fast on a fast line, but it
              starts from zero each time

    Raises HubError: no network, the licence is not accepted, no room on the disk, wrong bytes. The bytes so far are
    kept for the next attempt, also after Ctrl-C and when the process is killed. Only wrong bytes are set aside.
    """
    remote = repository.file(file)
    path = cache.snapshot_path(repository.repo, repository.commit, file)
    report = progress or (lambda there: None)
    fetch = _by_the_client if xet else _by_ourselves
    with telling(repository.repo, repository.revision):
        try:
            if not _whole(path, remote):
                fetch(repository, remote, cache.blob_path(repository.repo, remote.etag), path, report)
            upkeep.keep_ref(repository.repo, repository.revision, repository.commit)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise _no_room(error, remote, part_bytes(repository, file)) from error
            raise
    report(remote.size)
    return path


# --- our own download -------------------------------------------------------------------------------------------------


def _by_ourselves(repository: Repository, remote: RemoteFile, blob: Path, path: Path, progress: Progress) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    (blob.parents[1] / "snapshots").mkdir(exist_ok=True)  # if missing, the client's scan reports a corrupt repository
    partial = cache.partial_path(blob)
    with upkeep.locked(blob, lambda: progress(part_bytes(repository, remote.name))):
        if not _whole(blob, remote):
            _fetch(repository, remote, blob, partial, progress)
        if not _whole(path, remote):
            upkeep.link(blob, path)


def _whole(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == remote.size


def _fetch(repository: Repository, remote: RemoteFile, blob: Path, partial: Path, progress: Progress) -> None:
    """Downloads the rest of the partial file, checks its hash, and makes it a blob."""
    if _size(partial) > remote.size:
        partial.unlink()
    with partial.open("ab") as out:
        there, attempt = out.tell(), 0
        digest = upkeep.sha256_of(partial, progress)
        while there < remote.size:
            try:
                for chunk in byte_range(repository, remote, there, min(there + PIECE, remote.size)):
                    out.write(chunk)
                    digest.update(chunk)
                    there, attempt = there + len(chunk), 0
                    progress(there)
            except (*PASSING, HfHubHTTPError) as error:
                if attempt == len(PAUSES) or not _may_pass(error):
                    raise
                time.sleep(PAUSES[attempt])
                attempt += 1
        out.flush()
        os.fsync(out.fileno())  # a file among the blobs must be complete, also after a power cut
    _must_match(remote, digest.hexdigest(), partial, blob)
    partial.replace(blob)
    cache.rejected_path(blob).unlink(missing_ok=True)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: after a broken connection or a 5xx answer, but not a bad certificate."""
    if isinstance(error, HfHubHTTPError):
        return error.response.is_server_error
    return "CERTIFICATE" not in str(error)


def _must_match(remote: RemoteFile, sha256: str, data: Path, blob: Path) -> None:
    if remote.sha256 not in (None, sha256):
        upkeep.set_aside(data, blob)
        raise HubError(
            f"{remote.name} arrived with wrong bytes: its sha256 is {sha256}, but the Hub lists {remote.sha256}",
            "they were set aside and are not used; try again: the next download starts from zero",
        )


def _no_room(error: OSError, remote: RemoteFile, there: int) -> HubError:
    folder = cache_folder()
    return HubError(
        f"no room for {remote.name} ({error.strerror}):"
        f" {_amount(remote.size - there)} left to download, {_amount(cache.free_bytes(folder))} free in {folder}",
        "the next pull resumes where this one stopped; set HF_HOME to put the cache on another disk",
    )


def _amount(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 10**9 else f"{n / 1e6:.0f} MB"


# --- a download by the Hub's client -----------------------------------------------------------------------------------


def _by_the_client(repository: Repository, remote: RemoteFile, blob: Path, path: Path, progress: Progress) -> None:
    """Lets the Hub's client download. It takes the same lock, and names the unfinished file in its own way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of disks that look too small and of systems without links
        try:
            session()  # checks the surroundings
            hf_hub_download(
                repository.repo,
                remote.name,
                revision=repository.commit,
                endpoint=endpoint(),
                cache_dir=cache_folder(),
                token=client.token(),
                library_name=LIBRARY,
                tqdm_class=_bar(progress),
            )
        except (RuntimeError, ValueError) as error:  # Xet's library raises these for any failure
            hint = "try again without Xet; such a download can also resume"
            raise HubError(f"the Hub's client could not download {remote.name}: {one_line(error)}", hint) from error
    _must_match(remote, upkeep.sha256_of(path).hexdigest(), blob if blob.exists() else path, blob)
    cache.partial_path(blob).unlink(missing_ok=True)
    cache.rejected_path(blob).unlink(missing_ok=True)


def _bar(progress: Progress) -> type[tqdm]:
    """Returns a progress bar class for the client that draws nothing and calls `progress`."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            """Xet makes two bars. The one for the network's bytes is not counted, because they are compressed."""
            self.counts = not str(kwargs.get("name")).endswith(".transfer")
            self.there = 0
            super().__init__(*args, **kwargs | {"disable": True})  # type: ignore[no-untyped-call]  # tqdm has no types

        def update(self, n: float | None = 1) -> None:
            if self.counts:
                self.there += int(n or 0)
                progress(self.there)

    return Bar
