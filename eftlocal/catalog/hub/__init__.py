"""Downloads models from the Hugging Face Hub into the cache that all programs with the Hub's client share.

`repository` lists what a repository has at one pinned commit. `read_range` reads a part of a remote file, such as the
header of a GGUF. `download` fetches and verifies one file, and resumes where it stopped. `cached`, `cached_files`,
`verify` and `remove` do not need a network. Each failure is a HubError of one line and a hint. Only this package
imports huggingface_hub.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from eftlocal.catalog.hub.cache import CachedFile, cached, cached_files, free_bytes, unfinished_bytes
from eftlocal.catalog.hub.parts import part_names
from eftlocal.catalog.hub.settings import cache_folder, endpoint, token_source

if TYPE_CHECKING:
    from eftlocal.catalog.hub.client import reachable, token_problem
    from eftlocal.catalog.hub.listing import RemoteFile, Repository, repository
    from eftlocal.catalog.hub.ranges import read_range
    from eftlocal.catalog.hub.transfer import download, part_bytes
    from eftlocal.catalog.hub.upkeep import remove, verify

_HOMES: Final = {
    "client": ("reachable", "token_problem"),
    "listing": ("RemoteFile", "Repository", "repository"),
    "ranges": ("read_range",),
    "transfer": ("download", "part_bytes"),
    "upkeep": ("remove", "verify"),
}

__all__ = [
    "CachedFile",
    "RemoteFile",
    "Repository",
    "cache_folder",
    "cached",
    "cached_files",
    "download",
    "endpoint",
    "free_bytes",
    "part_bytes",
    "part_names",
    "reachable",
    "read_range",
    "remove",
    "repository",
    "token_problem",
    "token_source",
    "unfinished_bytes",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Imports what needs the Hub's client when it is first used. Looking into the cache does not need the client."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
