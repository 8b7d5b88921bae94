"""Who may ask: the Host header against DNS rebinding, origins of web pages (CORS), and the key."""

import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from eftlocal.apps.serve.errors import Refused
from eftlocal.catalog.hosts import is_here
from eftlocal.errors import SettingError

__all__ = ["Access"]

METHODS = "GET, POST, OPTIONS"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server.

    host     what it listens on
    key      the key that each request must bring; None asks for none
    origins  origins of web pages that may ask, besides those of this machine; "*" is each
    """

    host: str
    key: str | None
    origins: tuple[str, ...]

    @classmethod
    def of(cls, host: str, key: str | None, origins: Sequence[str]) -> "Access":
        """Check and take the rules. Raises SettingError."""
        if key is not None and not key.strip():
            raise SettingError("The API key is empty.", "Give a key, or leave --api-key and EFTLOCAL_API_KEY out.")
        if key is None and not is_here(host):
            raise SettingError(
                f"--host {host} opens the server to other machines, and no key was given.",
                "Set EFTLOCAL_API_KEY (or --api-key) to a secret that its clients send.",
            )
        for origin in origins:
            parts = _split(origin)
            if origin != "*" and (parts is None or not parts.scheme or parts.path not in ("", "/")):
                raise SettingError(f"--cors {origin} is not an origin.", "Write it as https://example.org, or *.")
        return cls(host, None if key is None else key.strip(), tuple(origin.rstrip("/").lower() for origin in origins))

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Refused for a request that may not be answered; `headers` have names in lower case."""
        self._check_host(headers.get("host", ""))
        origin = headers.get("origin")
        if origin is not None and not self.allows(origin):
            raise Refused(
                403,
                "Web pages of this origin may not use this server. Start it with --cors ORIGIN to allow one.",
                kind="permission_error",
                code="origin_not_allowed",
            )

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raises Refused if a key is needed and the request does not bring it."""
        if self.key is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are bytes; they come as Latin-1. A key of the command line may have bytes that are no text.
        wanted = self.key.encode("utf-8", "surrogateescape")
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), wanted)
        if not right or scheme.lower() != "bearer":
            raise Refused(
                401,
                "The API key is missing or wrong. Send it as `Authorization: Bearer KEY`.",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def allows(self, origin: str) -> bool:
        """Whether web pages of this origin may ask."""
        origin = origin.lower()
        if "*" in self.origins or origin in self.origins:
            return True
        parts = _split(origin)
        return parts is not None and parts.scheme in ("http", "https") and is_here(parts.hostname or "")

    def cors(self, origin: str | None) -> dict[str, str]:
        """The headers that let a page of an allowed origin read the response."""
        if origin is None or not self.allows(origin):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers that answer a browser's question before a request."""
        wanted = headers.get("access-control-request-headers", "")
        return {
            **self.cors(headers.get("origin")),
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": wanted if wanted.isprintable() else "",
            "Access-Control-Allow-Private-Network": "true",
            "Access-Control-Max-Age": "600",
        }

    def _check_host(self, header: str) -> None:
        """A page whose name suddenly points to this machine sends that name: it is none of this server's."""
        name = _hostname(header)
        if name == _hostname(self.host) or is_here(name):
            return
        if not is_here(self.host) and (_is_address(name) or name in _names() or name in self._origin_hosts()):
            return
        raise Refused(
            403,
            "The Host header does not name this server. Use its address, such as 127.0.0.1.",
            kind="permission_error",
            code="host_not_allowed",
        )

    def _origin_hosts(self) -> set[str]:
        return {parts.hostname or "" for origin in self.origins if (parts := _split(origin)) is not None}


def _split(origin: str) -> SplitResult | None:
    """The parts of an origin; None for what is no URL, such as `http://[`."""
    try:
        return urlsplit(origin)
    except ValueError:
        return None


def _hostname(header: str) -> str:
    """The name in a Host header, in lower case and without a port."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    if header.count(":") > 1:
        return header
    return header.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _names() -> set[str]:
    """The names of this machine; Docker's name for it, too."""
    name = socket.gethostname().lower()
    return {name, f"{name}.local", name.partition(".")[0], "host.docker.internal"}
