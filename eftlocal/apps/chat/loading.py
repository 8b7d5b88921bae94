"""An emulator that loads beside the prompt: what is loading and how large, when it is there, what went wrong."""

import threading
import time
from collections.abc import Callable, Mapping

from eftlocal.apps.common import size
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import parts
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import CatalogError, EftError

__all__ = ["Load", "Loader"]

Load = Callable[[str | None], Emulator]


class Loader:
    """The emulator of this chat: loading in a thread, loaded, or failed.

    load: makes an emulator of the catalogue by its name (None: the default).
    """

    def __init__(self, load: Load, name: str | None, cat: catalog.Catalog) -> None:
        self._load = load
        self._catalog = cat
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
        self._catalog.emulator(name)
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
        return {e.name: e.description for e in self._catalog.emulators.values()}

    # --- how large ----------------------------------------------------------------------------------------------------

    def sizes(self) -> Mapping[str, int]:
        """Bytes of the files that the emulator is made of, by the models' names; what is not there counts as 0."""
        try:
            return {name: _bytes(self._catalog.model(name)) for name in self._catalog.emulator(self.name).models}
        except EftError:
            return {}

    def _describe(self) -> str:
        return ", ".join(f"{name} {size(n)}" if n else name for name, n in self.sizes().items())


def _bytes(model: catalog.Model) -> int:
    try:
        return sum(part.stat().st_size for part in parts(catalog.local_path(model)))
    except (CatalogError, OSError):
        return 0
