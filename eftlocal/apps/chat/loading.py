"""An emulator that loads beside the prompt: what is loading and how large, when it is there, what went wrong."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from eftlocal.catalog import models as catalog
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import CatalogError, EftError

__all__ = ["Load", "Loader", "available_memory"]

Load = Callable[[str | None], Emulator]
GIB = 1 << 30


class Loader:
    """The emulator of this chat: loading in a thread, loaded, or failed.

    load: makes an emulator by its name (None: the catalogue's default). models: the models.toml beside the usual ones.
    """

    def __init__(self, load: Load, name: str | None, models: Path | None = None) -> None:
        self._load = load
        self._models = models
        self.name = name
        self.what = ""
        self._found: Emulator | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._started = 0.0

    def start(self) -> None:
        """Begin to load, in a thread of its own."""
        self._done.clear()
        self._found = self._error = None
        self._started = time.monotonic()
        self.what = self._describe()
        threading.Thread(target=self._run, name="eftlocal-load", daemon=True).start()

    def _run(self) -> None:
        try:
            self._found = self._load(self.name)
        except BaseException as error:  # told by whoever waits
            self._error = error
        self._done.set()

    @property
    def loading(self) -> bool:
        """Whether the thread is still at it."""
        return not self._done.is_set()

    @property
    def error(self) -> BaseException | None:
        """What loading failed with."""
        return self._error

    @property
    def seconds(self) -> float:
        """Since loading began."""
        return time.monotonic() - self._started

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until loading has ended, or for `seconds`; whether it has."""
        return self._done.wait(seconds)

    @property
    def emulator(self) -> Emulator:
        """The emulator; waits for it. Raises what loading failed with."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def switch(self, name: str) -> None:
        """Free this emulator and begin to load another. Raises CatalogError, before anything is freed, for no name."""
        catalog.load(self._models).emulator(name)
        self.close()
        self.name = name
        self.start()

    def close(self) -> None:
        """Free the emulator, once it is there."""
        if not self.loading and self._found is not None:
            self._found.close()
            self._found = None

    def names(self) -> Mapping[str, str]:
        """The catalogue's emulators with their descriptions."""
        return {e.name: e.description for e in catalog.load(self._models).emulators.values()}

    # --- how large ----------------------------------------------------------------------------------------------------

    def sizes(self) -> Mapping[str, int]:
        """Bytes of the files that the emulator is made of, by the models' names; what is not there counts as 0."""
        try:
            cat = catalog.load(self._models)
            return {name: _size(cat.model(name)) for name in cat.emulator(self.name).models}
        except EftError:
            return {}

    def too_large(self) -> str | None:
        """A warning where the models' files are larger than the memory that is free; None where they are not."""
        need, free = sum(self.sizes().values()), available_memory()
        if free is None or need <= free:
            return None
        return (
            f"these models take {need / GIB:.1f} GiB, and {free / GIB:.1f} GiB of memory are free:"
            " expect it to be slow, or to fail; a smaller quantization may fit"
        )

    def _describe(self) -> str:
        return ", ".join(f"{name} {_bytes(size)}" if size else name for name, size in self.sizes().items())


def _size(model: catalog.Model) -> int:
    try:
        return catalog.local_path(model).stat().st_size
    except (CatalogError, OSError):
        return 0


def _bytes(size: int) -> str:
    return f"{size / GIB:.1f} GB" if size >= GIB else f"{size / (1 << 20):.0f} MB"


def available_memory() -> int | None:
    """Bytes of memory that new processes can have without swapping; None where the system does not say (Linux does)."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None
