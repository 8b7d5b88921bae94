"""What goes wrong with a request, in one line: a server that refuses it, or that does not answer now."""

import json
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from eftlocal.catalog.server import Server
from eftlocal.errors import RemoteError

__all__ = ["NO_ENGINE", "BusyError", "RefusedError", "key_of", "refused", "unreachable"]

NO_ENGINE: Final = "Is an engine listening there: llama-server, vLLM or SGLang?"
SHOWN: Final = 200  # characters of what a server says


class RefusedError(RemoteError):
    """The server understood the request and refuses it: an answer of 4xx. `status` and `text` are its own."""

    def __init__(self, message: str, hint: str | None = None, *, status: int, text: str) -> None:
        super().__init__(message, hint)
        self.status, self.text = status, text


class BusyError(RemoteError):
    """The server does not answer now, and may later. `wait`: seconds that it asks to wait before the next try."""

    def __init__(self, message: str, hint: str | None = None, *, wait: float | None = None) -> None:
        super().__init__(message, hint)
        self.wait = wait


def refused(server: Server, status: int, headers: Mapping[str, str], data: bytes) -> RemoteError:
    """The error that an answer other than 200 stands for."""
    found = {name.lower(): value for name, value in headers.items()}
    said, url = _said(data, key_of(server)), server.url
    shown = f": {said}" if said else ""
    if status in (401, 403):
        name = server.api_key_env
        hint = "Name the environment variable that holds the key: api_key_env in models.toml."
        if name is not None:
            hint = f"The key is taken from {name}, which is set: is it the right one? api_key_env names it."
        return RemoteError(f"{url} wants a key (HTTP {status}).", hint)  # whichever engine it is
    if status == 429 or status >= 500:
        what = "is asked too often" if status == 429 else "failed"
        loading = "It may be loading its model: try again in a moment." if status == 503 else None
        return BusyError(f"{url} {what} (HTTP {status}{shown}).", loading, wait=_wait(found.get("retry-after", "")))
    if 300 <= status < 400:
        return RemoteError(
            f"{url} answers with another address (HTTP {status}{_address(found.get('location', ''))}).",
            "Give that address as the url.",
        )
    missing = NO_ENGINE if status in (404, 405) else None
    return RefusedError(f"{url} refused the request (HTTP {status}{shown}).", missing, status=status, text=said)


def unreachable(server: Server, error: OSError) -> RemoteError:
    """The error of a connection that cannot be made, or that broke."""
    url = server.url
    if isinstance(error, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)):
        return BusyError(f"{url} closed the connection.")
    if isinstance(error, ssl.SSLError):
        hint = "Does the server speak https? An http:// address is not encrypted."
        why = error.reason or str(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            why, hint = f"its certificate is not trusted ({error.verify_message})", "SSL_CERT_FILE names more to trust."
        return RemoteError(f"{url}: no encrypted connection: {why}.", hint)
    if isinstance(error, TimeoutError):
        return BusyError(f"{url} has not answered in time.", "Is the server busy, or stopped?")
    return BusyError(f"{url} cannot be reached: {error.strerror or error}.", "Is the server running there?")


def key_of(server: Server) -> str | None:
    """The key from the environment. Raises RemoteError where the variable is empty, or is no header's value."""
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise RemoteError(
            f"{server.api_key_env} is not set; {server.url} gets its key from it.", "Set it, or leave out api_key_env."
        )
    if not (key.isascii() and key.isprintable()):
        raise RemoteError(f"{server.api_key_env} holds what cannot be a key: other characters than ASCII.")
    return key


def _said(data: bytes, key: str | None) -> str:
    """What an engine says of an error, in one line: llama-server and vLLM put it at different places.

    Some repeat the key that they were sent.
    """
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        if isinstance(found, str):
            return " ".join((found if key is None else found.replace(key, "...")).split())[:SHOWN]
    return ""


def _wait(text: str) -> float | None:
    """The seconds of a Retry-After, which gives them, or a date."""
    with suppress(ValueError, OverflowError):
        if text.strip()[:1].isdecimal():
            return float(text)
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _address(location: str) -> str:
    """Where a redirect leads to, without a query, which may hold a secret."""
    with suppress(ValueError):
        parts = urlsplit(location)
        if parts.hostname:
            return f": {parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"[:SHOWN]
    return ""
