"""Where a model's file is: a path on this machine, or a file of a Hub repository; and how a user names either."""

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eftlocal.catalog.tables import expanded
from eftlocal.errors import CatalogError

__all__ = ["HUB", "NAMING", "REPO", "REVISION", "File", "HubFile", "local", "named", "parts", "typed"]

REPO: Final = r"[\w.-]+/[\w.-]+"
REVISION: Final = r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*"  # names a file in the cache: none of its parts begins with a dot
HUB: Final = "hf:"
BESIDE: Final = "relative paths start at the models.toml's folder"
NAMING: Final = "a model is named by its name, as hf:owner/repo/file.gguf, or by the path of a .gguf file"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A GGUF file (or the first part of a split one) of a Hub repository.

    revision  a commit, branch or tag; None: main
    sha256    of the file, where its entry knows it
    size      bytes, as the entry says, for lists made without a network; the Hub's own word decides
    gated     whether the repository asks for a login and a licence, as the entry says
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
    """The file that `hf:owner/repo/file.gguf[@revision]` or a path (from `folder`) names; None for a mere name.

    Raises CatalogError for an `hf:` that is none, and for a web address.
    """
    if page := re.fullmatch(rf"https?://[^/]+/({REPO})(?:/(?:blob|resolve)/[^/]+)?(/[^?]+)?.*", text, re.ASCII):
        raise CatalogError(f"{text} is a web page", f"name it {HUB}{page[1]}{page[2] or '/FILE.gguf'}")
    if text.startswith(HUB):
        found = re.fullmatch(rf"({REPO})/([^@]+\.gguf)(?:@({REVISION}))?", text.removeprefix(HUB), re.ASCII)
        if found is None or ".." in found[2].split("/"):
            raise CatalogError(f'"{text}" names no file of a repository', "as in hf:owner/repo/Model-Q4_K_M.gguf")
        return HubFile(repo=found[1], file=found[2], revision=found[3])
    if _is_path(text):
        return folder / expanded(Path(text))
    return None


def parts(first: Path) -> list[Path]:
    """Every file of a model whose first part is `first`; one that is not split is its own one part."""
    from eftlocal.catalog.hub.parts import part_names

    return [first.with_name(name) for name in part_names(first.name)]


def local(file: File, where: str, pull: str, elsewhere: str = BESIDE) -> Path:
    """The file on this machine, whole; a CatalogError where it is missing, or not downloaded yet.

    For errors: `where` names who names it, `pull` is what `eftlocal pull` must be told, `elsewhere` what to do about a
    path to nothing.
    """
    if isinstance(file, HubFile):
        from eftlocal.catalog import hub  # loads the Hub's client, which no local model needs

        if (found := hub.cached(file.repo, file.file, file.revision)) is None:
            hint = f"`eftlocal pull {pull}` downloads it"
            raise CatalogError(f"{where}: {file.file} of {file.repo} is not downloaded yet", hint)
        return found
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CatalogError(f"{where}: {file} does not exist", elsewhere) from error
    except (OSError, ValueError) as error:  # not allowed, or no path at all
        raise CatalogError(f"{where}: {str(file)!r} cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        raise CatalogError(f"{where}: {file} is a folder, not a GGUF file")
    return file


def typed(name: str) -> str:
    """What to do where nothing is at a path that somebody typed: perhaps a file of the Hub was meant."""
    if re.fullmatch(rf"{REPO}/.+\.gguf", name, re.ASCII) and not name.startswith("."):
        return f"a file of the Hub is named {HUB}{name}"
    return NAMING


def _is_path(text: str) -> bool:
    return text.endswith(".gguf") or "/" in text or "\\" in text
