"""Finds files in the cache of the Hub's client on this machine: where they are and which are complete. No network.

    models--owner--name/
      blobs/<etag>                       a complete file; the etag of a large file is its sha256
      blobs/<etag>.incomplete            an interrupted download, which can be resumed
      blobs/<etag>.rejected.incomplete   a download with a wrong sha256: kept to look at, never used
      refs/<branch or tag>               the commit that it was at
      snapshots/<commit>/<file>          a link to its blob; the file itself on a system without links
    .locks/models--owner--name/<etag>.lock   held while that blob is written

The layout is documented: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. The client's own scan and
prune know all names that end in `.incomplete`.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eftlocal.catalog.hub.parts import part_names
from eftlocal.catalog.hub.settings import cache_folder
from eftlocal.errors import HubError

__all__ = [
    *("COMMIT", "MAIN", "CachedFile", "blob_of", "blob_path", "cached", "cached_files", "commit_of", "entries"),
    *("folder_of", "free_bytes", "partial_path", "rejected_path", "snapshot_path", "unfinished", "unfinished_bytes"),
]

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
MAIN: Final = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """A complete GGUF file in the cache. `path` is its place in a snapshot, `blob` the file that this links to."""

    repo: str
    file: str
    size: int
    path: Path
    blob: Path


# --- paths ------------------------------------------------------------------------------------------------------------


def folder_of(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def blob_path(repo: str, etag: str) -> Path:
    return folder_of(repo) / "blobs" / etag


def partial_path(blob: Path) -> Path:
    """The path of a blob's unfinished download. The client uses another name for its own downloads."""
    return blob.with_name(f"{blob.name}.incomplete")


def rejected_path(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.rejected.incomplete")


def snapshot_path(repo: str, commit: str, file: str) -> Path:
    return folder_of(repo) / "snapshots" / commit / file


def blob_of(path: Path) -> Path:
    """The blob that a snapshot's file links to. Follows one link: the blob may itself be a link into a shared store."""
    return Path(os.path.normpath(path.parent / path.readlink())) if path.is_symlink() else path


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk that `folder` is on, or will be on when it does not exist yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


# --- looking into the cache -------------------------------------------------------------------------------------------


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HubError(f"{error.filename}: {error.strerror}", "set HF_HOME to put the cache elsewhere") from error


@_reading()
def cached(repo: str, file: str, revision: str | None = None) -> Path | None:
    """Returns the path of a complete model in the cache, or None. Of a split model, it is the first shard.

    `revision` is a commit, branch or tag. None means main as it was last seen, or else the newest snapshot that has the
    file.
    """
    for commit in _commits(repo, file, revision):
        parts = [snapshot_path(repo, commit, part) for part in part_names(file)]
        if all(part.is_file() for part in parts):
            return parts[0]
    return None


def _commits(repo: str, file: str, revision: str | None) -> Iterator[str]:
    """Yields the commits to look at, the best first."""
    known = commit_of(repo, revision)
    if known is not None:
        yield known
    if revision is not None:
        if COMMIT.fullmatch(revision):
            yield revision
        return
    links = [(path, path / file) for path in entries(folder_of(repo) / "snapshots")]
    dated = [(link.lstat().st_mtime, path.name) for path, link in links if link.is_file()]
    yield from (commit for _, commit in sorted(dated, reverse=True))


def commit_of(repo: str, revision: str | None) -> str | None:
    """Returns the commit that a branch or tag (None: main) was at when it was last asked for; None when not known."""
    try:
        commit = (folder_of(repo) / "refs" / (revision or MAIN)).read_text().strip()
    except (OSError, ValueError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def entries(folder: Path) -> list[Path]:
    """Returns the sorted entries of a folder; an empty list when the folder does not exist."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


@_reading()
def cached_files() -> tuple[CachedFile, ...]:
    """Returns all complete GGUF files in the cache, sorted by repository and name.

    A file that several commits share is listed once. A repository that cannot be read is left out.
    """
    found: dict[tuple[str, str, Path], CachedFile] = {}
    for folder in entries(cache_folder()):
        if folder.name.startswith("models--"):
            with suppress(OSError):
                for entry in _files_of(folder):
                    found.setdefault((entry.repo, entry.file, entry.blob), entry)
    return tuple(found[key] for key in sorted(found))


def _files_of(folder: Path) -> Iterator[CachedFile]:
    repo = folder.name.removeprefix("models--").replace("--", "/", 1)
    for snapshot in entries(folder / "snapshots"):
        for path in sorted(snapshot.rglob("*.gguf")):
            if path.is_file():
                file, size = path.relative_to(snapshot).as_posix(), path.stat().st_size
                yield CachedFile(repo=repo, file=file, size=size, path=path, blob=blob_of(path))


def unfinished(folder: Path) -> list[Path]:
    """Returns the interrupted and rejected downloads in a repository's folder, ours and the client's."""
    return [path for path in entries(folder / "blobs") if path.suffix == ".incomplete"]


@_reading()
def unfinished_bytes(repo: str | None = None) -> int:
    """Returns the bytes of interrupted and rejected downloads, of one repository or of all that can be read (None)."""
    if repo is not None:
        return sum(path.lstat().st_size for path in unfinished(folder_of(repo)))
    total = 0
    for folder in entries(cache_folder()):
        with suppress(OSError):
            total += sum(path.lstat().st_size for path in unfinished(folder))
    return total
