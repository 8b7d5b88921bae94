"""A file of the Hub into the cache, going on where an earlier download stopped.

The Hub's client starts each download from zero, writes what a captive portal answers into a file, and compares only
sizes. So a download here is our own: ranges over plain HTTPS, into a file that a killed process leaves to the next one,
hashed as it comes, and renamed to a blob of the client's cache only when size and sha256 are right.
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
from eftlocal.errors import HubError

__all__ = ["download", "part_bytes"]

Progress = Callable[[int], None]

PIECE: Final = 40 * 10**9  # bytes asked for at once: CDNs give no more than 50 GB in one answer
PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 8.0)  # seconds before each further attempt, while not a byte comes
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PASSING: Final = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


def part_bytes(repository: Repository, file: str) -> int:
    """How many bytes of a file an interrupted download left, from which the next one goes on."""
    partial = cache.partial_path(cache.blob_path(repository.repo, repository.file(file).etag))
    return partial.stat().st_size if partial.is_file() else 0


def download(repository: Repository, file: str, *, progress: Progress | None = None, xet: bool = False) -> Path:
    """One file (one part of a split one) into the cache, whole and verified; its path there.

    progress  is called with the number of bytes that are there by now, those of an earlier attempt included; also
              while another process downloads the same file, which is waited for
    xet       lets the Hub's client transfer it, with Xet where the repository has it: fast on a fast line, but it
              starts from zero each time

    Raises HubError: no network, no licence, no room, other bytes than the Hub promised. What has come stays for the
    next attempt, except where it is wrong: that is set aside. So it is at Ctrl-C and when the process is killed.
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


# --- by ourselves -----------------------------------------------------------------------------------------------------


def _by_ourselves(repository: Repository, remote: RemoteFile, blob: Path, path: Path, progress: Progress) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    (blob.parents[1] / "snapshots").mkdir(exist_ok=True)  # without it the client's scan calls the repository corrupt
    partial = cache.partial_path(blob)
    with upkeep.locked(blob, lambda: progress(part_bytes(repository, remote.name))):
        if not _whole(blob, remote):
            _fetch(repository, remote, blob, partial, progress)
        if not _whole(path, remote):
            upkeep.link(blob, path)


def _whole(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == remote.size


def _fetch(repository: Repository, remote: RemoteFile, blob: Path, partial: Path, progress: Progress) -> None:
    """The rest of the partial file, then its size and hash, then its place among the blobs."""
    if part_bytes(repository, remote.name) > remote.size:
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
        os.fsync(out.fileno())  # a name among the blobs is a promise, also after a power cut
    _must_match(remote, digest.hexdigest(), partial, blob)
    partial.replace(blob)
    cache.rejected_path(blob).unlink(missing_ok=True)


def _may_pass(error: Exception) -> bool:
    """A broken connection, or a server's trouble; not a certificate that nobody trusts."""
    if isinstance(error, HfHubHTTPError):
        return error.response.is_server_error
    return "CERTIFICATE" not in str(error)


def _must_match(remote: RemoteFile, sha256: str, data: Path, blob: Path) -> None:
    if remote.sha256 not in (None, sha256):
        upkeep.set_aside(data, blob)
        raise HubError(
            f"{remote.name} came with other bytes than the Hub promises: its sha256 is {sha256}, not {remote.sha256}",
            "they were set aside, not used; the next download starts anew",
        )


def _no_room(error: OSError, remote: RemoteFile, there: int) -> HubError:
    folder = cache_folder()
    return HubError(
        f"no room for {remote.name} ({error.strerror}):"
        f" {_amount(remote.size - there)} to come, {_amount(cache.free_bytes(folder))} free in {folder}",
        "what has come stays, and the next pull goes on from it; HF_HOME moves the cache to another disk",
    )


def _amount(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 10**9 else f"{n / 1e6:.0f} MB"


# --- by the Hub's client ----------------------------------------------------------------------------------------------


def _by_the_client(repository: Repository, remote: RemoteFile, blob: Path, path: Path, progress: Progress) -> None:
    """It takes the same lock, and its own name for the unfinished file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of disks that look too small, and systems without links
        try:
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
        except (RuntimeError, ValueError) as error:  # of Xet's library, of any kind
            hint = "try again without Xet, which also goes on from where it stopped"
            raise HubError(f"the Hub's client gave {remote.name} up: {one_line(error)}", hint) from error
    _must_match(remote, upkeep.sha256_of(path).hexdigest(), blob if blob.exists() else path, blob)
    cache.partial_path(blob).unlink(missing_ok=True)
    cache.rejected_path(blob).unlink(missing_ok=True)


def _bar(progress: Progress) -> type[tqdm]:
    """A progress bar that draws nothing and reports to us."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            """Of Xet's two bars the one of the network's bytes is left out: it counts what is compressed."""
            self.counts = not str(kwargs.get("name")).endswith(".transfer")
            self.there = 0
            super().__init__(*args, **kwargs | {"disable": True})  # type: ignore[no-untyped-call]  # tqdm has no types

        def update(self, n: float | None = 1) -> None:
            if self.counts:
                self.there += int(n or 0)
                progress(self.there)

    return Bar
