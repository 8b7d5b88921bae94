"""The service: what all endpoints share. It admits requests, and knows the models and the owner of the emulators."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from eftlocal.apps.serve.errors import Refused, as_refused, busy
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Dialled, Known, dialled
from eftlocal.apps.serve.owner import Owner
from eftlocal.emulation.emulator import Emulator
from eftlocal.errors import EftError

__all__ = ["Facts", "Service"]

RETRY: Final = 1  # seconds after which a client may try again when the queue is full


@dataclass(frozen=True, slots=True)
class Facts:
    """What responses tell of an emulator that was loaded."""

    fingerprint: str
    n_ctx: int


@dataclass(slots=True, kw_only=True)
class Service:
    """What the endpoints share. It belongs to the event loop's thread; only `facts` is written by the owner's.

    queue    how many requests may wait beside those that run
    started  when the server started, in seconds since 1970
    facts    emulator -> what responses tell of it
    tell     prints a line in the server's log
    """

    owner: Owner
    known: Known
    metrics: Metrics
    queue: int
    tell: Callable[[str], None]
    facts: dict[str, Facts] = field(default_factory=dict)
    started: int = field(default_factory=lambda: int(time.time()))
    stopping: bool = False

    @property
    def ready(self) -> bool:
        """Whether the first emulator is loaded."""
        return self.owner.ready.done()

    def must_be_ready(self) -> None:
        """Raises Refused while the server loads its first model, and when it stops."""
        if self.stopping:
            raise busy("The server is stopping.", "stopping", 5)
        if not self.ready:
            raise busy("The server is loading its model.", "loading", 2)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request while it runs. Raises Refused if too many wait already."""
        self.must_be_ready()
        if self.metrics.open >= self.owner.ready.result().parallel + self.queue:
            raise busy("Too many requests are waiting. Try again later.", "queue_full", RETRY)
        self.metrics.open += 1
        try:
            yield
        finally:
            self.metrics.open -= 1

    def dialled(self, model: str | None) -> Dialled:
        """The emulator and the dials of a model id. Raises Refused."""
        return dialled(model, self.known)

    async def ask(self, model: str, question: Callable[[Emulator], Any]) -> Any:
        """Call `question` with an emulator, in the owner's thread. Raises Refused."""
        with self.admitted():
            try:
                return await asyncio.wrap_future(self.owner.ask(model, question))
            except EftError as error:
                raise as_refused(error, "prompt") from None

    def told(self, error: EftError, where: str, n_answer: int | None) -> Refused:
        """What the client is told of an error. What it is not told goes to the server's log."""
        refused = as_refused(error, where, n_answer)
        if refused.status == 500 or refused.code == "base_away":
            self.tell(f"{type(error).__name__}: {error}".replace("\n", " "))
        return refused
