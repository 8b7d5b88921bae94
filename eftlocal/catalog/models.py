"""The catalogue: all models and emulators that the models.toml files define.

`load` reads the packaged models.toml, then the user's, then the one that was asked for. An entry in a later file
replaces the entry of that name in an earlier file. A mistake in an entry is kept in the catalogue: it breaks that entry
alone, and is raised when the entry is asked for. Each is a CatalogError that names the file, the table and the key,
with the nearest right name. `load` does not check whether the models' own files exist; `local_path` does.
"""

import os
from pathlib import Path

import platformdirs

from eftlocal.catalog.catalog import TRIO, Catalog, Mistake, local_lora, local_path
from eftlocal.catalog.entries import Bias, Emulator, Lora, Model, Reward, View
from eftlocal.catalog.files import File, HubFile, local
from eftlocal.catalog.merge import merged
from eftlocal.catalog.reading import parse_view
from eftlocal.catalog.server import Server
from eftlocal.catalog.tables import document
from eftlocal.errors import CatalogError

__all__ = [
    "TRIO",
    "Bias",
    "Catalog",
    "Emulator",
    "File",
    "HubFile",
    "Lora",
    "Mistake",
    "Model",
    "Reward",
    "Server",
    "View",
    "load",
    "local",
    "local_lora",
    "local_path",
    "packaged",
    "parse_view",
    "users_file",
]


def packaged(name: str) -> Path:
    """Returns the path of a data file that ships with eftlocal, such as "models.toml".

    In a wheel it is inside the package, in a checkout beside it. Raises CatalogError when it is missing.
    """
    package = Path(__file__).parents[1]
    for folder in (package, package.parent):
        if (folder / name).exists():
            return folder / name
    raise CatalogError(f"{package / name}: a file that ships with eftlocal is missing", "install eftlocal again")


def users_file() -> Path:
    """Returns the path of the user's own models.toml, which may not exist."""
    return platformdirs.user_config_path("eftlocal") / "models.toml"


def load(extra: Path | None = None) -> Catalog:
    """Reads the packaged models.toml, then the user's, then `extra`, or else the file that EFTLOCAL_MODELS names.

    A user's file that cannot be read becomes a mistake of the catalogue. Raises CatalogError when the packaged file or
    the one that was asked for cannot be read or defines nothing.
    """
    unread: list[Mistake] = []
    shipped, users = packaged("models.toml"), users_file()
    documents = [(shipped, document(shipped))]
    if _may_be_there(users):
        try:
            documents.append((users, document(users)))
        except CatalogError as error:
            unread.append(Mistake(kind="file", name="", file=users, error=error))
    named = os.environ.get("EFTLOCAL_MODELS")
    asked = extra or (Path(named) if named else None)
    if asked is not None:
        try:
            documents.append((asked, document(asked)))
        except CatalogError as error:
            if extra is not None:
                raise
            raise CatalogError(f"EFTLOCAL_MODELS: {error.message}", error.hint) from error
        if not documents[-1][1]:
            raise CatalogError(f"{asked}: defines nothing", "it needs [models.NAME] and [emulators.NAME] tables")
    return merged(documents, unread)


def _may_be_there(file: Path) -> bool:
    """False when the file does not exist. True when that cannot be found out: reading it then raises the error."""
    try:
        return file.exists()
    except OSError:
        return True
