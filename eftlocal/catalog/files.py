"""Where a model's file is: a path on this machine, or a file in a Hub repository. Users can name it either way."""

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eftlocal.catalog.tables import expanded
from eftlocal.errors import CatalogError
from eftlocal.text import path_of

__all__ = ["HUB", "NAMING", "REPO", "REVISION", "File", "HubFile", "local", "named", "parts", "typed"]

REPO: Final = r"[\w.-]+/[\w.-]+"
REVISION: Final = r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*"  # no part begins with a dot: it becomes a file name in the cache
HUB: Final = "hf:"
BESIDE: Final = "a relative path starts at the folder of its models.toml"
NAMING: Final = "give a model's name, hf:owner/repo/file.gguf, or the path of a .gguf file"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A GGUF file in a Hub repository. Of a split model, it is the first shard.

    revision  a commit, branch or tag; None: main
    sha256    the file's sha256, or None when its entry does not give one
    size      bytes, as the entry says, for lists made without a network; a download uses the Hub's value
    gated     whether the repository needs a login and an accepted licence, as the entry says
    """

    repo: str
    file: str
    revision: str | None = None
    sha256: str | None = None
    size: int | None = field(default=None, compare=False)
    gated: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{HUB}{self.repo}/{self.file}{f'@{self.revision}' if self.revision else ''}"


File = Path | HubFile


def named(text: str, folder: Path) -> File | None:
    """Returns the file that `hf:owner/repo/file.gguf[@revision]` or a path names; None when `text` is only a name.

    A relative path starts at `folder`. Raises CatalogError for a malformed `hf:` name and for a web address.
    """
    if page := re.fullmatch(rf"https?://[^/]+/({REPO})(?:/(?:blob|resolve)/[^/]+)?(/[^?]+)?.*", text, re.ASCII):
        raise CatalogError(f"{text} is a web address", f"write it as {HUB}{page[1]}{page[2] or '/FILE.gguf'}")
    if text.startswith(HUB):
        found = re.fullmatch(rf"({REPO})/([^@]+\.gguf)(?:@({REVISION}))?", text.removeprefix(HUB), re.ASCII)
        if found is None or ".." in found[2].split("/"):
            hint = "write it as hf:owner/repo/Model-Q4_K_M.gguf, with @REVISION at the end if you need one"
            raise CatalogError(f'"{text}" does not name a .gguf file in a repository', hint)
        return HubFile(repo=found[1], file=found[2], revision=found[3])
    if _is_path(text):
        return folder / expanded(path_of(text))
    return None


def parts(first: Path) -> list[Path]:
    """Returns the paths of all shards of a model, given its first; only `first` when the model is not split."""
    from eftlocal.catalog.hub.parts import part_names

    return [first.with_name(name) for name in part_names(first.name)]


def local(file: File, where: str, pull: str, elsewhere: str = BESIDE) -> Path:
    """Returns the path of the file on this machine. Raises CatalogError when it is missing or not downloaded yet.

    The other arguments are for the error: `where` says what names the file, `pull` is the argument for
    `eftlocal pull`, and `elsewhere` is the hint when a path does not exist.
    """
    if isinstance(file, HubFile):
        from eftlocal.catalog import hub  # it loads huggingface_hub, which a local model does not need

        if (found := hub.cached(file.repo, file.file, file.revision)) is None:
            hint = f"`eftlocal pull {pull}` downloads it"
            raise CatalogError(f"{where}: {file.file} of {file.repo} is not downloaded yet", hint)
        return found
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CatalogError(f"{where}: {file} does not exist", elsewhere) from error
    except (OSError, ValueError) as error:  # without permission, or not a path at all
        raise CatalogError(f"{where}: {str(file)!r} cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        raise CatalogError(f"{where}: {file} is a folder, not a GGUF file")
    return file


def typed(name: str) -> str:
    """Returns the hint for a typed path that does not exist: perhaps a file of the Hub was meant."""
    if re.fullmatch(rf"{REPO}/.+\.gguf", name, re.ASCII) and not name.startswith("."):
        return f"if it is a file on the Hub, write {HUB}{name}"
    return NAMING


def _is_path(text: str) -> bool:
    return text.endswith(".gguf") or "/" in text or "\\" in text
