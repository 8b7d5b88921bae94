"""Where a worker of llama.cpp's RPC listens: host and port, as users write them."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from eftlocal.catalog import hosts
from eftlocal.catalog.tables import Table, kind_of
from eftlocal.errors import CatalogError

__all__ = ["PORT", "UNPROTECTED", "Endpoint", "endpoint", "endpoints", "read_endpoints"]

PORT: Final = 50052  # of llama.cpp's rpc-server
MOST: Final = 16  # GGML_RPC_MAX_SERVERS of llama.cpp
UNPROTECTED: Final = (
    "llama.cpp's RPC has no password and no encryption: its authors say never to run it on an open network"
)
_TUNNEL: Final = (
    f"Use a tunnel (ssh -N -L {PORT}:127.0.0.1:{PORT} HOST) and name 127.0.0.1:{PORT}; "
    "`insecure = true` in models.toml, or --insecure, allows it."
)
_EXAMPLE: Final = f"Write host:port, as 127.0.0.1:{PORT} is; without a port it is {PORT}."
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A worker's address. llama.cpp's RPC knows IPv4 alone, so `host` is an IPv4 address or a name."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether it is this machine by itself, or what a tunnel of this machine leads to."""
        return hosts.is_here(self.host)

    def device(self, i: int) -> str:
        """The name of its i-th device in a plan: the address, with a number after the first."""
        return f"{self}#{i}" if i else str(self)


def endpoint(text: str) -> Endpoint:
    """Reads `host:port` or `host`. Raises CatalogError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        host, port = port, str(PORT)
    if "[" in text or text.count(":") > 1:
        if "://" in text:
            raise CatalogError(f'"{text}" is a web address, and not that of a worker', _EXAMPLE)
        hint = "Write an IPv4 address or a name. An ssh tunnel from 127.0.0.1 can lead to an IPv6 address."
        raise CatalogError(f'"{text}" is an IPv6 address, and llama.cpp\'s RPC knows IPv4 alone', hint)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        raise CatalogError(f'"{text}" is not the address of a worker: "{port}" is not a port', _EXAMPLE)
    if not re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*\.?", host, re.ASCII) or len(host) > 253 or not _is_number(host):
        raise CatalogError(f'"{text}" is not the address of a worker: "{host}" is not a host', _EXAMPLE)
    return Endpoint(host, int(port))


def _is_number(host: str) -> bool:
    """False for what looks like an IPv4 address and is none, as 127.0.0.300."""
    if not re.fullmatch(r"[\d.]+", host, re.ASCII):
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def endpoints(texts: Iterable[str], *, insecure: bool = False) -> tuple[Endpoint, ...]:
    """Reads addresses, each text perhaps several that commas separate. Raises CatalogError.

    `insecure` allows addresses of other machines.
    """
    parts = [part for text in texts for part in text.split(",")]
    found = [endpoint(part) for part in parts]
    if double := next((one for one in found if found.count(one) > 1), None):
        raise CatalogError(f"the worker {double} is named twice", "Name each worker once.")
    if len(found) > MOST:
        raise CatalogError(f"{len(found)} workers are named; llama.cpp can use at most {MOST}")
    if not insecure and (far := next((one for one in found if not one.is_here), None)):
        raise CatalogError(f"{far} is another machine, and {UNPROTECTED}", _TUNNEL)
    return tuple(found)


def read_endpoints(table: Table, *, insecure: bool) -> tuple[Endpoint, ...]:
    """Reads `rpc` of a model. Raises CatalogError."""
    if "rpc" not in table.values:
        return ()
    if isinstance(single := table.values["rpc"], str):
        texts = [single]
    else:
        texts = []
        for i, value in enumerate(table.array("rpc")):
            if not isinstance(value, str):
                raise table.error(f"rpc[{i}]", f'must be a string as "127.0.0.1:{PORT}" is, not {kind_of(value)}')
            texts.append(value)
    if not texts:
        raise table.error("rpc", "is empty", f'Name a worker, as rpc = ["127.0.0.1:{PORT}"], or leave it out.')
    try:
        return endpoints(texts, insecure=insecure)
    except CatalogError as error:
        raise table.error("rpc", error.message, error.hint) from None
