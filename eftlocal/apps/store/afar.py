"""Looks at models that are not downloaded yet: their repositories on the Hub, and their headers by range requests."""

from pathlib import Path

from eftlocal.apps.store.survey import held
from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.emulation.files import Found, on_this_machine
from eftlocal.errors import HubError
from eftlocal.runtime.gguf_remote import check_remote

__all__ = ["Afar"]

OFFERED = 2  # smaller quantizations that are suggested, at most


class Afar:
    """One look at the Hub. Each repository is asked for once, so that all answers are about one commit of it."""

    def __init__(self) -> None:
        self._repositories: dict[tuple[str, str | None], hub.Repository] = {}

    def repository(self, file: HubFile) -> hub.Repository:
        """The repository of `file`, at the commit that was the newest at the first request. Raises HubError."""
        key = (file.repo, file.revision)
        if key not in self._repositories:
            self._repositories[key] = hub.repository(*key)
        return self._repositories[key]

    def parts(self, file: HubFile) -> tuple[hub.RemoteFile, ...]:
        """All parts of `file`. Raises HubError if it is missing, or is not the file that its entry expects."""
        parts = self.repository(file).parts(file.file)
        if file.sha256 is not None and len(parts) == 1 and parts[0].sha256 not in (None, file.sha256):
            problem = f"{file}: its sha256 on the Hub is {parts[0].sha256}, but models.toml expects {file.sha256}"
            raise HubError(
                problem, "its publisher replaced it: correct the entry's sha256, or give the revision of the old file"
            )
        return parts

    def smaller(self, file: HubFile, by: int) -> tuple[str, ...]:
        """The names of other quantizations of `file`: the largest that are at least `by` bytes smaller than it."""
        repository = self.repository(file)
        most = sum(part.size for part in repository.parts(file.file)) - by
        names = [other.name for other in repository.models]
        firsts = [name for name in names if name == hub.part_names(name)[0]]
        sized = [(sum(part.size for part in repository.parts(name)), name) for name in firsts]
        return tuple(name for size, name in sorted(sized, reverse=True) if size <= most)[:OFFERED]

    def find(self, model: catalog.Model) -> Found:
        """The model's header, from its file on this machine or else from the Hub.

        Raises HubError, and what `on_this_machine` raises.
        """
        if all(held(file).path for file in model.files) or not isinstance(model.file, HubFile):
            return on_this_machine(model)
        header = check_remote(self.repository(model.file), model.file.file)
        return Found(header, (Path(str(model.lora.file)), model.lora.scale) if model.lora else None)
