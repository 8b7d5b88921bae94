"""Changes the cache of the Hub's client: adds, verifies, sets aside and removes files. `cache` finds them."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # it exists, but is imported only when used

from eftlocal.catalog.hub.cache import COMMIT, MAIN, blob_of, commit_of, entries, folder_of, rejected_path, unfinished
from eftlocal.catalog.hub.failures import telling
from eftlocal.catalog.hub.parts import part_names
from eftlocal.catalog.hub.settings import cache_folder
from eftlocal.errors import HubError

__all__ = ["keep_ref", "link", "locked", "remove", "set_aside", "sha256_of", "verify"]

SHA256: Final = re.compile(r"[0-9a-f]{64}")


# --- adding -----------------------------------------------------------------------------------------------------------


@contextmanager
def locked(blob: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the client's own lock on a blob, so that one process at a time writes it.

    While another process has the lock, `waiting` is called every second.
    """
    lock = cache_folder() / ".locks" / blob.parents[1].name / f"{blob.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(WeakFileLock(lock, timeout=1))
                break
            except TimeoutError:
                waiting()
        yield


def link(blob: Path, path: Path) -> None:
    """Puts a blob into a snapshot as the Hub's client does: as a relative link, or moved there if links do not work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if not constants.HF_HUB_DISABLE_SYMLINKS:
        with suppress(OSError):
            path.symlink_to(os.path.relpath(blob, path.parent))
            return
    blob.replace(path)


def keep_ref(repo: str, revision: str | None, commit: str) -> None:
    """Notes the commit that a branch or tag is at, for later use offline. Does nothing if the cache is read-only."""
    ref = folder_of(repo) / "refs" / (revision or MAIN)
    if commit in (revision, commit_of(repo, revision)):
        return
    with suppress(OSError):
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        new.write_text(commit)
        new.replace(ref)


# --- verifying --------------------------------------------------------------------------------------------------------


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> "hashlib._Hash":
    """Returns the hash of a file's bytes so far. More bytes can be added to it."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done)
    return digest


@telling("the cache")
def verify(path: Path) -> None:
    """Hashes a cached file and compares it with the name of its blob. Raises HubError and sets the file aside if wrong.

    A blob without a sha256 as its name cannot be compared: a small file, or any file on a system without links.
    """
    blob = blob_of(path)
    if SHA256.fullmatch(blob.name) and sha256_of(blob).hexdigest() != blob.name:
        set_aside(blob, blob)
        raise HubError(f"{path.name} is damaged: its sha256 is not {blob.name}", "it was set aside; pull it again")


def set_aside(data: Path, blob: Path) -> None:
    """Moves wrong bytes of `blob` to a name that nothing takes for a model."""
    data.replace(rejected_path(blob))
    _tidy(blob.parents[1])


# --- removing ---------------------------------------------------------------------------------------------------------


def remove(repo: str, files: Iterable[str], revision: str | None = None) -> int:
    """Removes models, with all their shards, from all snapshots, or from that of `revision`. Returns the bytes freed.

    A blob that another file or snapshot still uses stays. The rejected and unfinished downloads of these files are
    removed too. If one of `files` is not complete, all unfinished downloads of the repository are removed, because
    their names do not say which file they belong to. Raises HubError when one of them is being written.
    """
    folder = folder_of(repo)
    if not folder.is_dir():
        return 0
    wanted = {part for file in files for part in part_names(file)}
    commits = None if revision is None else {commit_of(repo, revision) or revision}
    with telling(repo), ExitStack() as locks:
        _tidy(folder)
        there = [  # the client's scan reads the whole cache, and fails at another repository that cannot be read
            (path, snapshot)
            for snapshot in entries(folder / "snapshots")
            for path in snapshot.rglob("*")
            if path.is_file()
        ]
        names = {
            path: path.relative_to(snapshot).as_posix()
            for path, snapshot in there
            if commits is None or snapshot.name in commits
        }
        gone = {path: name for path, name in names.items() if name in wanted}
        leftovers = unfinished(folder)
        if wanted <= set(gone.values()):
            etags = {blob_of(path).name for path in gone}
            leftovers = [path for path in leftovers if _etag(path) in etags]
        for etag in {_etag(path) for path in leftovers}:
            locks.enter_context(locked(folder / "blobs" / etag, lambda: _in_use(repo)))
        used = {blob_of(path) for path, _ in there if path not in gone}
        blobs = {blob_of(path) for path in gone} - used
        freed = sum(path.stat().st_size for path in blobs) + sum(path.lstat().st_size for path in leftovers)
        for path in (*gone, *blobs, *leftovers):
            path.unlink(missing_ok=True)
        _tidy(folder)
    return freed


def _etag(leftover: Path) -> str:
    return leftover.name.partition(".")[0]


def _in_use(repo: str) -> None:
    raise HubError(f"a file of {repo} is being downloaded just now", "wait for it or stop it, then try again")


def _tidy(folder: Path) -> None:
    """Removes a repository's broken links, empty folders and refs without a commit; and the folder itself if empty."""
    snapshots, blobs = folder / "snapshots", folder / "blobs"
    for path in sorted(snapshots.rglob("*"), reverse=True):  # the contents of a folder come before the folder
        if path.is_symlink() and not path.exists():
            path.unlink()
        elif path.is_dir() and not entries(path) and not unfinished(folder):  # a download under way may need the folder
            path.rmdir()
    for ref in sorted((folder / "refs").rglob("*")):
        if ref.is_file():
            commit = ref.read_bytes().decode(errors="replace").strip()
            if not COMMIT.fullmatch(commit) or not (snapshots / commit).is_dir():
                ref.unlink()
    if not entries(snapshots) and not entries(blobs):
        shutil.rmtree(folder)
