"""A model that runs on a server: its address, and what a user may say of it in a models.toml."""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args
from urllib.parse import SplitResult, urlsplit

from eftlocal.catalog import hosts
from eftlocal.catalog.tables import Table, nearest
from eftlocal.errors import CatalogError

__all__ = ["SERVER_KEYS", "Dialect", "Server", "is_address", "read_server", "server_at"]

Dialect = Literal["llama-server", "vllm", "sglang"]

SERVER_KEYS: Final = ("url", "engine", "api_key_env", "top", "insecure", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A model behind HTTP.

    url          where the engine listens, without a path of its API: http://127.0.0.1:8080
    engine       which engine it is; None: found out by asking it
    api_key_env  the environment variable that holds the key; the key itself is in no file
    top          how many of the likeliest tokens are asked for at each position; None: what suits the engine
    insecure     whether prompts may travel to another machine without encryption
    model        the model's name on a server that has several; None: the one it has
    """

    url: str
    engine: Dialect | None = None
    api_key_env: str | None = None
    top: int | None = None
    insecure: bool = False
    model: str | None = None

    def __str__(self) -> str:
        return self.url

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, so that prompts do not leave it."""
        return hosts.is_here(self.host)

    @property
    def is_encrypted(self) -> bool:
        return self.url.startswith("https:")


def is_address(text: str) -> bool:
    """Whether a text that names a model is the address of a server: http://HOST:PORT, without the path of a page."""
    return re.fullmatch(r"https?://[^/\s]+(/|/v1/?)?", text) is not None


def server_at(address: str) -> Server:
    """The server at an address that was typed. Raises CatalogError."""
    try:
        server = Server(url=_url(address))
    except ValueError as error:
        raise CatalogError(f"{_shown(address)}: {error}") from None
    if not server.is_here and not server.is_encrypted:
        raise CatalogError(f"{server.url} is another machine, and http does not encrypt what is sent", _INSECURE)
    return server


def read_server(table: Table) -> Server:
    """Reads `url` and what belongs to it from the table of a model. Raises CatalogError."""
    try:
        url = _url(table.name("url"))
    except ValueError as error:
        raise table.error("url", str(error)) from None
    wanted = table.text("engine")
    engine = next((known for known in get_args(Dialect) if known == wanted), None)
    if wanted is not None and engine is None:
        raise table.error("engine", f'unknown engine "{wanted}"{nearest(wanted, get_args(Dialect))}')
    key = table.text("api_key_env")
    if key is not None and not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
        hint = "Put the key into an environment variable, and write the variable's name here."
        raise table.error("api_key_env", "must be the name of an environment variable, and not the key", hint)
    server = Server(
        url=url,
        engine=engine,
        api_key_env=key,
        top=table.integer("top", least=1),
        insecure=table.get("insecure", bool, "true or false") or False,
        model=table.text("model"),
    )
    if not (server.is_here or server.is_encrypted or server.insecure):
        raise table.error("url", "is another machine, and http does not encrypt what is sent", _INSECURE)
    return server


_INSECURE: Final = (
    "Use https, or a tunnel (ssh -L 8080:127.0.0.1:8080 HOST); `insecure = true` in models.toml allows it."
)


def _url(text: str) -> str:
    """The address without a path. ValueError, which says what is wrong, without a password that may be in it."""
    try:
        parts: SplitResult = urlsplit(text.strip())
        port = parts.port
        (parts.hostname or "").encode("idna")  # an empty or a long label is no name
    except ValueError:
        raise ValueError("is not the address of a server, as http://127.0.0.1:8080 is") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not the address of a server, as http://127.0.0.1:8080 is")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a name or a password in it; put a key into an environment variable, and name that")
    if parts.query or parts.fragment or parts.path.rstrip("/") not in ("", "/v1"):
        raise ValueError("has a path; give the address of the server alone, as http://127.0.0.1:8080")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}"


def _shown(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", address)
