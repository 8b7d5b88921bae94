"""Checks the catalogue against the Hub: `python -m tools.check_catalogue [NAME ...] [--json]`. It needs a network.

It checks each emulator, or only those that are named, and downloads no model; headers come by range requests, some
megabytes each. The questions are:
- Is each file on the Hub, with all its parts, and with the size, sha256 and licence gate of its entry?
- Do the models share one vocabulary, token for token?
- Can each view render a conversation?
- Was each member trained for the context?
It prints one line for each finding, and then a table. The exit code is 1 if anything is wrong.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.models import HubFile
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.files import Found, on_this_machine
from eftlocal.errors import EftError, HubError, ModelFileError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.gguf_remote import check_remote, remote_header
from eftlocal.runtime.views import Message

ROUND: Final = 100_000  # bytes; a size that is a multiple of this counts as rounded, as in listings
ROUNDING: Final = 0.01  # a rounded size may be wrong by this fraction

CONVERSATION: Final = (
    *(Message("system", "You help."), Message("user", "Hello!")),
    *(Message("assistant", "Hello, what is it?"), Message("user", "Nothing.")),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake in an entry (`wrong`), or something to add to it."""

    wrong: bool
    about: str  # [models.NAME] or [emulators.NAME]
    text: str

    def __str__(self) -> str:
        return f"{'wrong' if self.wrong else 'add'}: {self.about} {self.text}"


@dataclass(slots=True)
class Checked:
    """What the Hub says about a file, and the file's header. A value is None if the Hub does not have it."""

    repo: str
    file: str
    commit: str | None = None
    size: int | None = None
    sha256: str | None = None
    gated: bool | None = None
    licence: str | None = None
    header: Header | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """One emulator: its files, what its members share, and all findings."""

    name: str
    files: list[Checked]
    tokens: int | None = None  # token ids of the shared vocabulary
    context: int | None = None  # tokens
    findings: list[Finding] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        return any(finding.wrong for finding in self.findings)


# --- files ------------------------------------------------------------------------------------------------------------


class Look:
    """Reads the Hub. Each repository and each file is read only once, even if several emulators use it."""

    def __init__(self) -> None:
        self._repositories: dict[tuple[str, str | None], hub.Repository | HubError] = {}
        self._checked: dict[tuple[HubFile, bool], Checked] = {}

    def files(self, model: catalog.Model) -> list[Checked]:
        """The model's files on the Hub: its weights, and its adapter if it has one."""
        found = [self._file(f"[models.{model.name}]", model.file, lora=False)]
        if model.lora is not None:
            found.append(self._file(f"[models.{model.name}.lora]", model.lora.file, lora=True))
        return [checked for checked in found if checked is not None]

    def find(self, model: catalog.Model) -> Found:
        """The headers that `files` has read, for `assemble`. A model that is not from the Hub is read locally."""
        if not isinstance(model.file, HubFile):
            return on_this_machine(model)
        header = self.files(model)[0].header
        assert header is not None  # a file without a header is wrong, and then nothing is compared
        return Found(header, (Path(str(model.lora.file)), model.lora.scale) if model.lora else None)

    def _file(self, about: str, file: catalog.File, lora: bool) -> Checked | None:
        if not isinstance(file, HubFile):
            return None
        if (file, lora) not in self._checked:
            self._checked[file, lora] = checked = Checked(file.repo, file.file)
            try:
                repository = self._repository(file)
                checked.findings += _differences(about, file, repository, checked)
                checked.header = _adapter(repository, file.file) if lora else check_remote(repository, file.file)
            except EftError as error:
                checked.findings.append(Finding(True, about, error.message))
        return self._checked[file, lora]

    def _repository(self, file: HubFile) -> hub.Repository:
        key = (file.repo, file.revision)
        if key not in self._repositories:
            try:
                self._repositories[key] = hub.repository(*key)
            except HubError as error:
                self._repositories[key] = error
        found = self._repositories[key]
        if isinstance(found, HubError):
            raise found
        return found


def _differences(about: str, file: HubFile, repository: hub.Repository, checked: Checked) -> Iterator[Finding]:
    """Yields how the file on the Hub differs from its entry; fills `checked`. HubError if a part is missing."""
    parts = repository.parts(file.file)
    checked.commit, checked.gated, checked.licence = repository.commit, repository.gated, repository.licence
    checked.size, checked.sha256 = sum(part.size for part in parts), parts[0].sha256 if len(parts) == 1 else None
    if repository.gated != file.gated:
        yield Finding(True, about, f"gated is {str(repository.gated).lower()} on the Hub")
    if file.sha256 not in (None, checked.sha256):
        yield Finding(True, about, f"sha256 is {checked.sha256} on the Hub, not {file.sha256}")
    said = file.size or 0
    exact = said % ROUND != 0
    if said and abs(checked.size - said) > (0 if exact else ROUNDING * checked.size):
        yield Finding(True, about, f"size is {checked.size:_} on the Hub, not {said:_}")
    missing = {
        "revision": f'"{repository.commit}"' if file.revision is None else None,
        "sha256": f'"{checked.sha256}"' if file.sha256 is None and checked.sha256 else None,
        "size": f"{checked.size:_}" if not exact and checked.size != said else None,
    }
    if found := ", ".join(f"{key} = {value}" for key, value in missing.items() if value):
        yield Finding(False, about, found)


def _adapter(repository: hub.Repository, file: str) -> Header:
    """The header of a LoRA adapter. Raises HubError and ModelFileError."""
    path = Path(repository.repo) / file
    size = repository.file(file).size
    header = remote_header(lambda start, stop: hub.read_range(repository, file, start, stop), size, path)
    if (kind := header.text("adapter.type")) != "lora":
        raise ModelFileError(f'{path}: is not a LoRA adapter: adapter.type is "{kind}"')
    return header


# --- emulators --------------------------------------------------------------------------------------------------------


def check(cat: catalog.Catalog, emulator: catalog.Emulator, look: Look) -> Report:
    """Check one emulator."""
    models = [cat.model(name) for name in emulator.models]
    files = {(checked.repo, checked.file): checked for model in models for checked in look.files(model)}
    report = Report(emulator.name, list(files.values()))
    report.findings += dict.fromkeys(finding for checked in report.files for finding in checked.findings)
    if report.wrong:
        return report  # files that cannot be read cannot be compared
    about = f"[emulators.{emulator.name}]"
    report.findings += (Finding(True, about, text) for text in _adapters_that_do_not_fit(models, look))
    try:
        members = assemble(cat, emulator, find=look.find)
        report.tokens, report.context = members.n_real, members.context(emulator.context)
        for view in members.views:
            view.text(CONVERSATION)
    except EftError as error:
        report.findings.append(Finding(True, about, error.message))
    return report


def _adapters_that_do_not_fit(models: Sequence[catalog.Model], look: Look) -> Iterator[str]:
    for model in models:
        architectures = [checked.header.architecture for checked in look.files(model) if checked.header]
        if len(set(architectures)) > 1:
            yield f"{model.name}: the adapter is for {architectures[1]}, the model is {architectures[0]}"


# --- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings and the table, or one JSON object. Returns the exit code: 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_catalogue", description="Check models.toml against the Hub."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="emulators (default: all that need the Hub)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(arguments)
    try:
        cat = catalog.load()
        names = asked.names or [name for name, emulator in cat.emulators.items() if _on_the_hub(cat, emulator)]
        emulators = [cat.emulator(name) for name in names]
        if (problem := hub.reachable()) is not None:
            raise HubError(problem)
    except EftError as error:
        print(error, file=sys.stderr)
        return 1
    look, reports, told = Look(), list[Report](), set[Finding]()
    for emulator in emulators:
        reports.append(check(cat, emulator, look))
        for finding in reports[-1].findings:
            if not asked.json and finding not in told:
                print(finding, flush=True)
            told.add(finding)
    if asked.json:
        print(json.dumps(_json(reports), indent=2))
    else:
        Console().print(_table(reports))
    return int(any(report.wrong for report in reports))


def _on_the_hub(cat: catalog.Catalog, emulator: catalog.Emulator) -> bool:
    return any(isinstance(file, HubFile) for name in emulator.models for file in cat.model(name).files)


def _table(reports: Sequence[Report]) -> Table:
    table = Table("emulator", "files", "download", "licence", "gated", "tokens", "context", "", box=None)
    for report in reports:
        sizes = [checked.size for checked in report.files]
        licences = dict.fromkeys(checked.licence or "?" for checked in report.files)
        table.add_row(
            report.name,
            str(len(sizes)),
            "?" if None in sizes else f"{sum(size or 0 for size in sizes) / 1e9:.1f} GB",
            ", ".join(licences),
            "yes" if any(checked.gated for checked in report.files) else "no",
            f"{report.tokens:,}" if report.tokens else "?",
            f"{report.context:,}" if report.context else "?",
            "wrong" if report.wrong else "right",
        )
    return table


def _json(reports: Sequence[Report]) -> dict[str, object]:
    return {
        "ok": not any(report.wrong for report in reports),
        "emulators": [
            {
                "name": report.name,
                "ok": not report.wrong,
                "tokens": report.tokens,
                "context": report.context,
                "files": [
                    {
                        key: getattr(checked, key)
                        for key in ("repo", "file", "commit", "size", "sha256", "gated", "licence")
                    }
                    for checked in report.files
                ],
                "findings": [asdict(finding) for finding in report.findings],
            }
            for report in reports
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
