"""Lists a Hub repository at one commit: its files, their sizes and hashes, and which of them are models."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from huggingface_hub import HfApi

from eftlocal.catalog.hub import client, settings
from eftlocal.catalog.hub.failures import not_the_hub, telling
from eftlocal.catalog.hub.parts import part_names
from eftlocal.catalog.hub.surroundings import session
from eftlocal.errors import HubError

__all__ = ["RemoteFile", "Repository", "repository"]

HASH: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # git's SHA-1, or a SHA-256
QUANTIZATION: Final = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q|TQ)\d(?:_[A-Z0-9]+)*|MXFP4(?:_MOE)?|BF16|FP?16|FP?32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a repository; `size` is in bytes."""

    name: str
    size: int
    sha256: str | None  # None for a small file, which is kept in git itself
    git_id: str = ""

    @property
    def etag(self) -> str:
        """The name of its blob in the cache of the Hub's client."""
        return self.sha256 or self.git_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository at one commit, so that all files taken from it belong together.

    revision  the branch or tag that was asked for (None: main); the cache notes its commit
    licence   the licence, as the model card names it
    """

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]
    gated: bool
    licence: str | None
    revision: str | None = None

    @property
    def quantizations(self) -> tuple[str, ...]:
        """The quantizations of its models, read from the file names: Q4_K_M, Q8_0, ..."""
        found = (QUANTIZATION.findall(file.name) for file in self.models)
        return tuple(dict.fromkeys(names[-1].upper() for names in found if names))

    def file(self, name: str) -> RemoteFile:
        """Returns the file of that name. Raises HubError, with the nearest names."""
        for file in self.files:
            if file.name == name:
                return file
        models = [file.name for file in self.models]
        near = _nearest(name, models)
        raise HubError(
            f"{self.repo} has no file {name!r}" + (f"; the nearest: {', '.join(near)}" if near else ""),
            f"it offers {', '.join(self.quantizations)}" if self.quantizations else _no_models(models),
        )

    def parts(self, name: str) -> tuple[RemoteFile, ...]:
        """Returns all shards of the model that the file `name` belongs to, in order; one file when it is not split.

        Raises HubError when a shard is missing.
        """
        self.file(name)
        there = {file.name: file for file in self.files}
        parts = part_names(name)
        if missing := [part for part in parts if part not in there]:
            raise HubError(
                f"{self.repo} has only {len(parts) - len(missing)} of {len(parts)} shards of the model:"
                f" {missing[0]} is missing",
                "its upload may not be finished; choose another file or another repository",
            )
        return tuple(there[part] for part in parts)

    @property
    def models(self) -> tuple[RemoteFile, ...]:
        """The GGUF files that are models. An image projector (mmproj) is not a model."""
        return tuple(f for f in self.files if f.name.endswith(".gguf") and "mmproj" not in f.name.lower())


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    by_folded = {option.rsplit("/", 1)[-1].casefold(): option for option in names}
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1].casefold(), by_folded, n=3)
    return [by_folded[folded] for folded in close]


def _no_models(names: list[str]) -> str:
    if names:
        return f"it offers {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    return "it has no GGUF file at all; GGUF models are in repositories with names that end in -GGUF"


def repository(repo: str, revision: str | None = None) -> Repository:
    """Asks the Hub for a repository at a commit, branch or tag (None: main), pinned to the commit that it is at now.

    Raises HubError: no such repository or revision, the licence is not accepted, no network.
    """
    with telling(repo, revision):
        session()  # checks the surroundings; HfApi takes the same session
        api = HfApi(endpoint=settings.endpoint(), token=client.token(), library_name=settings.LIBRARY)
        try:
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=settings.timeout())
            commit, siblings = info.sha, info.siblings
            files = tuple(_file(sibling) for sibling in siblings or ())
        except (TypeError, AttributeError, KeyError) as error:  # JSON, but not about a repository
            raise not_the_hub("something that does not describe a repository") from error
    if commit is None or not HASH.fullmatch(commit):
        raise not_the_hub(f"a description of {repo} without its commit")
    return Repository(
        repo=repo,
        commit=commit,
        files=files,
        gated=bool(info.gated),
        licence=_licence(info.card_data),
        revision=revision,
    )


def _file(sibling: Any) -> RemoteFile:
    size = sibling.size if sibling.lfs is None else sibling.lfs.size
    if size is None:
        raise not_the_hub(f"a description of {sibling.rfilename} without its size")
    sha256 = None if sibling.lfs is None else sibling.lfs.sha256
    if not HASH.fullmatch(sha256 or sibling.blob_id):  # it becomes a file name in the cache
        raise not_the_hub(f"a description of {sibling.rfilename} without its hash")
    return RemoteFile(name=sibling.rfilename, size=size, sha256=sha256, git_id=sibling.blob_id)


def _licence(card: Any) -> str | None:
    """Reads the licence from a model card. A card with `license: other` names it in `license_name`."""
    licence = card and (card.get("license_name") or card.get("license"))
    return ", ".join(licence) if isinstance(licence, list) else licence
