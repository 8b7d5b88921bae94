"""The downloads of `eftlocal pull`: shows what they are and whether they fit, asks, downloads, shows the progress."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from eftlocal.apps.common import INTERRUPTED, agreed, can_ask, console, size
from eftlocal.apps.store.afar import Afar
from eftlocal.apps.store.cells import cell, cut
from eftlocal.apps.store.memory import Memory, memory
from eftlocal.apps.store.survey import held
from eftlocal.catalog import hub
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import HubFile
from eftlocal.emulation.assembling import assemble
from eftlocal.emulation.files import unasked
from eftlocal.errors import HubError
from eftlocal.interrupt import raising
from eftlocal.text import one_line, printable

__all__ = ["fetch"]

MARGIN: Final = 100_000_000  # bytes of disk that must stay free
NUMBERS: Final = 37  # columns that bytes, speed and time take on the terminal, with their gaps
NARROWEST, WIDEST = 10, 40  # columns of a progress bar


@dataclass(frozen=True, slots=True)
class Item:
    """One file to download. `have` is the number of its bytes that are here already, after an interrupted download."""

    repository: hub.Repository
    part: hub.RemoteFile
    have: int

    @property
    def missing(self) -> int:
        return self.part.size - self.have


def fetch(
    cat: catalog.Catalog,
    wanted: catalog.Emulator | catalog.Model,
    missing: Sequence[HubFile],
    here: Sequence[HubFile],
    *,
    yes: bool,
    dry_run: bool,
    xet: bool,
) -> int:
    """Show what will be downloaded and whether it fits in memory, ask, and download it. Returns the exit code.

    wanted   the emulator or model that needs the files
    missing  the files to download
    here     the files of `wanted` that are on this machine already

    Raises HubError, and the errors of reading the models' headers and comparing their vocabularies.
    """
    afar = Afar()
    items = [_item(afar, file, part) for file in missing for part in afar.parts(file)]
    fits = None
    if isinstance(wanted, catalog.Emulator):
        fits = memory(wanted, assemble(cat, wanted, find=afar.find, reach=unasked))
    else:
        afar.find(wanted)  # check its header before the whole file is downloaded
    _show(wanted.name, here, items, fits)
    if isinstance(wanted, catalog.Emulator) and fits is not None and not fits.fits:
        base = cat.model(wanted.base).file
        if not isinstance(base, catalog.Server):
            _offer_smaller(afar, base, fits.lacking)
    _must_have_room(items)
    if dry_run:
        return 0
    question = f"Download {size(sum(item.missing for item in items))}?"
    if not yes and can_ask() and not agreed(question, default=fits is None or fits.fits):
        return 1
    try:
        with raising():
            _download(items, xet)
    except KeyboardInterrupt:
        then = "starts again" if xet else "continues from here"
        print(f"eftlocal: interrupted; the same command {then}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _item(afar: Afar, file: HubFile, part: hub.RemoteFile) -> Item:
    repository = afar.repository(file)
    here = hub.cached(repository.repo, part.name, repository.commit) is not None
    return Item(repository, part, part.size if here else hub.part_bytes(repository, part.name))


# --- the plan ---------------------------------------------------------------------------------------------------------


def _show(title: str, here: Sequence[HubFile], items: Sequence[Item], fits: Memory | None) -> None:
    out = console(stderr=True)
    table = Table("file", *(Column(name, no_wrap=True) for name in ("size", "")), box=None, pad_edge=False)
    for file in here:
        n = held(file).size
        table.add_row(cell(str(file)), size(n) if n is not None else "", "here")
    for item in items:
        state = "" if not item.have else "here" if not item.missing else f"{size(item.have)} of it here"
        licence = f"gated, {item.repository.licence}" if item.repository.gated else item.repository.licence or ""
        name = cell(f"hf:{item.repository.repo}/{item.part.name}")
        table.add_row(name, size(item.part.size), state or one_line(licence))
    out.print(f"{one_line(title)}:")
    out.print(table)
    folder = hub.cache_folder()
    needed = size(sum(item.missing for item in items))
    out.print(printable(f"{needed} to download into {folder} ({size(hub.free_bytes(folder))} free)"))
    if fits is not None:
        out.print(printable(fits.line))
        for line in fits.advice:
            out.print(printable(f"  {line}"))


def _offer_smaller(afar: Afar, base: catalog.File, lacking: int) -> None:
    """Suggest quantizations of the base that would fit. The base is mostly by far the largest model."""
    if isinstance(base, HubFile) and (names := afar.smaller(base, lacking)):
        said = f"  it would fit with this base from the same repository: {' or '.join(names)}"
        console(stderr=True).print(printable(said))


def _must_have_room(items: Iterable[Item]) -> None:
    folder, needed = hub.cache_folder(), sum(item.missing for item in items)
    if needed and needed + MARGIN > (free := hub.free_bytes(folder)):
        problem = f"The download needs {size(needed)}, but only {size(free)} are free in {folder}."
        raise HubError(problem, "Free some space, or set the variable HF_HOME to a folder on another disk.")


# --- the downloads ----------------------------------------------------------------------------------------------------


def _download(items: Sequence[Item], xet: bool) -> None:
    with _bars(items) as bars:
        for item, bar in zip(items, bars, strict=True):
            bar.start()
            hub.download(item.repository, item.part.name, progress=bar.at, xet=xet)
            bar.end()


class _Line:
    """The progress of one file when the output is not a terminal: a line at its start and one at its end."""

    def __init__(self, item: Item) -> None:
        self._item = item

    def start(self) -> None:
        print(printable(f"{self._item.part.name}: {size(self._item.missing)} to download"), file=sys.stderr)

    def at(self, n: int) -> None:
        pass

    def end(self) -> None:
        print(printable(f"{self._item.part.name}: downloaded and checked"), file=sys.stderr)


class _Bar:
    """The progress bar of one file on a terminal. It also moves the bar for all files."""

    def __init__(self, progress: Progress, total: TaskID | None, item: Item) -> None:
        self._progress, self._total, self._at = progress, total, item.have
        self._task = progress.add_task(item.part.name, total=item.part.size, completed=item.have, start=False)

    def start(self) -> None:
        self._progress.start_task(self._task)

    def at(self, n: int) -> None:
        if n <= self._at:  # bytes that were here already are being hashed
            return
        self._progress.update(self._task, completed=n)
        if self._total is not None:
            self._progress.advance(self._total, n - self._at)
        self._at = n

    def end(self) -> None:
        pass


class _Name(ProgressColumn):
    """The column with the file's name, cut if the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return cut(task.description)


@contextmanager
def _bars(items: Sequence[Item]) -> Iterator[Sequence[_Bar | _Line]]:
    out = console(stderr=True)
    if not out.is_terminal or out.is_dumb_terminal:
        yield [_Line(item) for item in items]
        return
    out.width -= 2  # room for the ^C that a terminal writes behind the bars, so that it does not wrap
    numbers = [Column(no_wrap=True) for _ in range(3)]
    room = out.width - NUMBERS - max(len(item.part.name) for item in items)
    columns = (
        _Name(),
        BarColumn(min(max(room, NARROWEST), WIDEST)),
        DownloadColumn(table_column=numbers[0]),
        TransferSpeedColumn(table_column=numbers[1]),
        TimeRemainingColumn(table_column=numbers[2]),
    )
    with Progress(*columns, console=out) as progress:
        total = None
        if len(items) > 1:
            everything = sum(item.part.size for item in items)
            total = progress.add_task("all", total=everything, completed=sum(item.have for item in items))
        yield [_Bar(progress, total, item) for item in items]
