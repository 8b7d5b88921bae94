"""Loads the chat's emulator in a thread, so that the prompt is there at once."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from eftlocal.apps.chat.session import Origin
from eftlocal.apps.common import size
from eftlocal.catalog import models as catalog
from eftlocal.catalog.files import parts
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import CatalogError, EftError

__all__ = ["Elsewhere", "Guided", "Load", "Loader"]

Load = Callable[[str | None], Emulator]
Elsewhere = Callable[[Origin], tuple[catalog.Catalog, Load]]  # what to load from, for a session held elsewhere

Guided = Callable[[catalog.Catalog, str | None], Load]  # loads from the catalogue with this negative text, or with none


class Loader:
    """The chat's emulator: it is loading in a thread, is loaded, or has failed to load.

    load   loads the emulator of that name (None: the catalogue's default)
    name   the emulator to load first
    cat    the catalogue, for names and sizes
    origin     the options of the command line that made the catalogue
    elsewhere  gives the catalogue of another origin, and what loads from it
    guided     gives what loads with another negative text
    """

    def __init__(
        self,
        load: Load,
        name: str | None,
        cat: catalog.Catalog,
        origin: Origin | None = None,
        elsewhere: Elsewhere | None = None,
        guided: Guided | None = None,
    ) -> None:
        self._guided = guided
        self.origin: Origin = origin or {}
        self._elsewhere = elsewhere
        self._load = load
        self._catalog = cat
        self.name = name
        self.what = ""  # the models and their sizes, for the status line
        self._found: Emulator | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._started = 0.0

    def start(self) -> None:
        """Start the thread that loads the emulator."""
        self._done.clear()
        self._found = self._error = None
        self._started = time.monotonic()
        self.what = self._describe()
        threading.Thread(target=self._run, name="eftlocal-load", daemon=True).start()

    def _run(self) -> None:
        try:
            self._found = self._load(self.name)
        except BaseException as error:  # raised again in the thread that asks for the emulator
            self._error = error
        self._done.set()

    @property
    def loading(self) -> bool:
        """Whether the thread is still loading."""
        return not self._done.is_set()

    @property
    def error(self) -> BaseException | None:
        """The error that loading failed with, or None."""
        return self._error

    @property
    def seconds(self) -> float:
        """Seconds since loading began."""
        return time.monotonic() - self._started

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until loading has ended, but at most `seconds`. Returns whether it has ended."""
        return self._done.wait(seconds)

    @property
    def emulator(self) -> Emulator:
        """The emulator; waits until it is loaded. Raises the error that loading failed with."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def switch(self, name: str, origin: Origin | None = None) -> None:
        """Free this emulator and begin to load another, which may be defined elsewhere (None: in this catalogue).

        Raises CatalogError if there is no emulator of that name on this machine; then this one is kept.
        """
        cat, load = self._catalog, self._load
        if origin is not None and origin != self.origin and self._elsewhere is not None:
            cat, load = self._elsewhere(origin)
        cat.must_be_here(cat.emulator(name))
        self._catalog, self._load = cat, load
        self.origin = self.origin if origin is None else origin
        self.close()
        self.name = name
        self.start()

    def guide(self, negative: str | None) -> None:
        """Free this emulator and begin to load it with guidance away from a system text (None: without guidance)."""
        assert self._guided is not None
        self._load = self._guided(self._catalog, negative)
        rest = {name: value for name, value in self.origin.items() if name != "negative"}
        if negative is None:
            rest.pop("guidance", None)
        self.origin = rest if negative is None else {**rest, "negative": negative}
        self.close()
        self.start()

    def close(self) -> None:
        """Free the emulator if it is loaded."""
        if not self.loading and self._found is not None:
            self._found.close()
            self._found = None

    @property
    def entry(self) -> catalog.Emulator | None:
        """The emulator's entry in the catalogue; None if there is none."""
        try:
            return self._catalog.emulator(self.name)
        except CatalogError:
            return None

    def names(self) -> Mapping[str, str]:
        """The catalogue's emulators that are on this machine, with their descriptions."""
        return {e.name: e.description for e in self._catalog.emulators.values() if self._catalog.is_local(e)}

    def far(self) -> int:
        """The number of the catalogue's emulators that are not on this machine."""
        return len(self._catalog.emulators) - len(self.names())

    def mistakes(self) -> Sequence[str]:
        """The mistakes in the models.toml files, which may be why an emulator is missing."""
        return self._catalog.lines()

    # --- sizes --------------------------------------------------------------------------------------------------------

    def sizes(self) -> Mapping[str, int]:
        """Bytes of each of the emulator's models, by name; 0 for one whose file is missing."""
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
