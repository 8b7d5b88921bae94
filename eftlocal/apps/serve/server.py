"""`eftlocal serve`: opens the port, starts the owner's thread and uvicorn, and ends both when it is asked to."""

import asyncio
import hashlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import uvicorn

from eftlocal.apps.common import not_opened
from eftlocal.apps.serve.app import App
from eftlocal.apps.serve.desk import Desk
from eftlocal.apps.serve.guard import Access
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Known, Shelf
from eftlocal.apps.serve.owner import Owner
from eftlocal.apps.serve.service import Facts, Service
from eftlocal.emulation.emulator import Emulator, Raw
from eftlocal.errors import EftError
from eftlocal.runtime.remote.troubles import Trouble, told
from eftlocal.text import printable

__all__ = ["Options", "serve", "system_fingerprint"]

GRACE: Final = 3.0  # seconds that running answers get after Ctrl-C
LAST: Final = 2.0  # seconds more for their responses to be sent
KEEP_ALIVE: Final = 75  # seconds that an idle connection stays open


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to serve.

    host, port  where to listen; port 0 takes a free one
    key         the key that requests must bring; None is none
    origins     origins of web pages that may ask, besides those of this machine
    parallel    answers at a time; None is as many as suit this machine
    queue       how many requests may wait
    models_max  how many emulators may be in memory
    verbose     log what is asked often, too
    debug       log tracebacks
    """

    host: str
    port: int
    key: str | None
    origins: tuple[str, ...] = ()
    parallel: int | None = None
    queue: int = 64
    models_max: int = 1
    verbose: bool = False
    debug: bool = False


def serve(load: Callable[[str], Emulator], first: str, others: Mapping[str, tuple[str, ...]], options: Options) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns the exit code: 0 for a server that was asked to end.

    load    loads an emulator by name
    first   the emulator to load at the start
    others  further emulators that requests may name -> their roles; used if models_max is above 1

    Raises EftError if the port cannot be opened, SettingError for a missing key, and what `load` raises at the start.
    """
    access = Access.of(options.host, options.key, options.origins)
    listening = _listen(options.host, options.port)
    metrics = Metrics()
    service: Service

    def make(name: str) -> Desk:
        emulator = load(name)
        parallel = emulator.reserve(options.parallel)
        for _ in emulator.stream(Raw(" "), max_tokens=1):  # makes the KV caches now, not at the first request
            pass
        service.facts[name] = Facts(system_fingerprint(emulator), emulator.context)
        service.known = Known(service.known.default, {**service.known.roles, name: emulator.roles})
        return Desk(emulator, parallel, metrics)

    owner = Owner(Shelf(make, options.models_max), first, metrics, _tell)
    roles = {first: (), **(others if options.models_max > 1 else {})}
    service = Service(owner=owner, known=Known(first, roles), metrics=metrics, queue=options.queue, tell=_tell)
    app = App(service, access, verbose=options.verbose, debug=options.debug)
    server = _Server(app, service)
    owner.ready.add_done_callback(lambda ready: server.begun(ready.exception(), listening, options))
    owner.ended.add_done_callback(lambda ended: server.over(ended.exception()))
    owner.start()
    with told(_of_trouble):
        server.run(sockets=[listening])
    owner.stop()
    owner.join(LAST)
    if server.failed is not None:
        raise server.failed
    if owner.is_alive():  # it is in llama.cpp's code, for a while; nothing is lost by ending now
        sys.stderr.flush()
        os._exit(0)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises EftError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
    except OSError as error:
        raise EftError(f"--host {host} cannot be used: {error.strerror}.", "Give an address of this machine.") from None
    try:
        if sys.platform != "win32":  # there, it would let two servers share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise not_opened(host, port, error) from None
    return listening


class _Server(uvicorn.Server):
    """uvicorn's server with our signals: the first one lets running answers end, the second ends the process."""

    def __init__(self, app: App, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=round(GRACE + LAST),
                backlog=512,
            )
        )
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # we log ourselves
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failed: BaseException | None = None

    def begun(self, error: BaseException | None, listening: socket.socket, options: Options) -> None:
        """The first emulator is loaded, or failed to load."""
        if error is not None:
            self.failed = error
            self.should_exit = True
            return
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"http://{host}:{listening.getsockname()[1]}/v1"
        desk = self._service.owner.ready.result()
        name = printable(desk.emulator.name)
        print(
            f"eftlocal: {name} answers at {url}, {desk.parallel} at a time. Ctrl-C ends it.",
            file=sys.stderr,
            flush=True,
        )

    def over(self, fault: BaseException | None) -> None:
        """The owner's thread has ended: nobody would be answered any more. `fault` is our own that ended it, if any."""
        if fault is not None:
            told = f"The thread that decodes has ended: {type(fault).__name__}: {fault}"
            self.failed = EftError(told, "--debug shows where it was.")
            self.failed.__cause__ = fault
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM while the server runs."""
        try:
            before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: a test ends the server itself
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.should_exit:
            os._exit(128 + number)
        if number == signal.SIGINT and sys.stderr.isatty():
            print(file=sys.stderr)  # after the ^C that terminals show
        self.stop()

    def stop(self) -> None:
        """Accept nothing more, give what runs a moment, then end."""
        if self.should_exit:
            return
        self._service.stopping = True
        self.should_exit = True
        if (loop := self._loop) is not None and self._service.metrics.open:
            _tell(f"stopping; requests that run: {self._service.metrics.open}; they have {GRACE:.0f} seconds")
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.call_later, GRACE, self._service.owner.stop)


def system_fingerprint(emulator: Emulator) -> str:
    """A short text that changes with the models, their views and the program: equal ones answer alike."""
    from importlib.metadata import version

    parts = [version("eftlocal"), version("llama-cpp-python"), emulator.kv_type, emulator.vocabulary]
    for spec, view in zip(emulator.members.specs, emulator.members.views, strict=True):
        if spec.remote is None:
            parts += [spec.header.path.name, str(spec.header.path.stat().st_size)]
        else:
            parts += [spec.remote.link.server.url, str(spec.remote.link.facts)]
        parts += [view.template, str(spec.lora)]
    parts += [f"{name}={beta}" for name, beta in emulator.betas.items()]
    parts += [f"{name}+{bias.as_json()}" for name, bias in emulator.biases.items()]
    return "fp_" + hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:12]


def _of_trouble(trouble: Trouble) -> None:
    if line := printable(str(trouble)):
        _tell(line)


def _tell(line: str) -> None:
    """Print a line of the log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", file=sys.stderr, flush=True)
