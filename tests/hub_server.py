"""A Hub for tests: a local HTTP server that answers as huggingface.co does. Tests can set faults.

The paths, headers, redirects and errors are those that huggingface_hub 2.4 reads (file_download.py, utils/_http.py).
Large (LFS) files come from a "CDN" on another host and port. Each CDN address is valid for one request, so a client
that does not ask the Hub again each time fails.
"""

import hashlib
import itertools
import json
import os
import random
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

__all__ = ["Faults", "HubServer", "Request", "connect", "environment", "model", "serving"]

BLOCK = 1 << 14  # bytes sent at a time
PAGE = b"<!DOCTYPE html><html><body>Welcome to the hotel's network. Please log in.</body></html>"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a client sent, and the host it went to."""

    host: Literal["hub", "cdn"]
    method: str
    path: str
    headers: Mapping[str, str]  # the names are in lower case


@dataclass(slots=True)
class Faults:
    """What goes wrong from now on. Each fault is off by default.

    cuts           the next answers with a file's bytes break off, each after this many bytes
    rate           a file is sent at this many bytes per second
    hang           an answer with a file stops after its headers, until the server closes
    status         a request for a file is answered with this status
    status_of_api  a request to the API is answered with this status
    page           a web page is sent in place of the API's answer ("api") or of a file ("file"); "untold" sends it in
                   place of a file and without a content type or length
    ignore_range   the whole file is sent when a range of it was requested
    refuse_range   a request for a range is answered with 416
    content_range  a partial answer has this Content-Range header
    wrong_byte     the file's byte at this position is sent with a wrong value
    echo           an error's message repeats the token that came with the request
    """

    cuts: list[int] = field(default_factory=list)
    rate: float | None = None
    hang: bool = False
    status: int | None = None
    status_of_api: int | None = None
    page: Literal["api", "file", "untold"] | None = None
    ignore_range: bool = False
    refuse_range: bool = False
    content_range: str | None = None
    wrong_byte: int | None = None
    echo: bool = False


@dataclass(slots=True)
class _Repository:
    commits: dict[str, dict[str, Path]]
    refs: dict[str, str]
    gated: bool
    licence: str
    in_git: frozenset[str]  # the files kept in git itself, not in LFS


class HubServer:
    """The Hub and its CDN. A test adds repositories, sets `faults`, and reads `requests` and `served`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = Faults()
        self.requests: list[Request] = []
        self.served = 0  # how many bytes of files were sent
        self.tokens: set[str] = set()  # the tokens that give access to gated repositories
        self.repositories: dict[str, _Repository] = {}
        self.signatures: set[str] = set()
        self.counter = itertools.count(1)
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.hub = self._server("hub")
        self.cdn = self._server("cdn")

    def _server(self, host: Literal["hub", "cdn"]) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            server_hub, role = hub, host

        server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.hub.server_port}"

    @property
    def cdn_url(self) -> str:
        """The CDN's address. It is the same machine under another name, so clients take it for another host."""
        return f"http://localhost:{self.cdn.server_port}"

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes | Path],
        *,
        refs: tuple[str, ...] = ("main",),
        gated: bool = False,
        licence: str = "apache-2.0",
        in_git: tuple[str, ...] = (),
    ) -> str:
        """Adds a commit with exactly these files to a repository and returns its id.

        `refs` are the branches and tags that point to it. `in_git` are the files kept in git itself, not in LFS.
        """
        paths = {
            name: content if isinstance(content, Path) else self._stored(content) for name, content in files.items()
        }
        commit = hashlib.sha1(f"{repo} {next(self.counter)}".encode()).hexdigest()
        known = self.repositories.setdefault(repo, _Repository({}, {}, gated, licence, frozenset(in_git)))
        known.commits[commit] = paths
        known.refs |= dict.fromkeys(refs, commit)
        return commit

    def _stored(self, content: bytes) -> Path:
        path = self.folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        return path

    def asked(self, host: Literal["hub", "cdn"], method: str = "GET") -> list[Request]:
        """Returns the requests to one of the hosts, in the order they came."""
        return [request for request in self.requests if (request.host, request.method) == (host, method)]

    def close(self) -> None:
        self.closing.set()
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()


@contextmanager
def serving(folder: Path) -> Iterator[HubServer]:
    server = HubServer(folder)
    try:
        yield server
    finally:
        server.close()


def model(size: int, seed: int = 0) -> bytes:
    """Returns `size` random bytes that begin like a GGUF file."""
    return b"GGUF" + random.Random(seed).randbytes(size - 4)


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """Returns environment variables for a process that uses only this Hub and keeps its files in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return kept | {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "NO_PROXY": "*"}


@contextmanager
def connect(server: HubServer, home: Path) -> Iterator[None]:
    """Makes this process use only this Hub. Patches huggingface_hub, which read the environment when imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_PROXY", "*")
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
        settings |= {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_DISABLE_XET": True}
        settings |= {"HF_TOKEN_PATH": str(home / "token"), "HF_STORED_TOKENS_PATH": str(home / "stored_tokens")}
        settings |= {"HF_HUB_DOWNLOAD_TIMEOUT": 5, "HF_HUB_DISABLE_IMPLICIT_TOKEN": False}
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        close_session()  # an open session would keep the old proxy settings
        yield
        close_session()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def server_close(self) -> None:
        """Also ends the connections that clients keep open for their next request."""
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing: tests break connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    role: Literal["hub", "cdn"]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are sent separately; Nagle's algorithm would delay the body

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing to stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.role, self.command, self.path, headers)
        url = urlsplit(self.path)
        with self.server_hub.lock:
            self.server_hub.requests.append(request)
        if self.role == "cdn":
            self._from_the_cdn(url.path, parse_qs(url.query))
        elif url.path.startswith("/api/models"):
            self._from_the_api(url.path.removeprefix("/api/models").lstrip("/"))
        else:
            self._resolve(url.path.lstrip("/"))

    # --- the Hub ---

    def _from_the_api(self, path: str) -> None:
        faults = self.server_hub.faults
        if faults.page == "api":
            return self._answer(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
        if faults.status_of_api is not None:
            return self._error(faults.status_of_api, None, "trouble")
        if not path:
            return self._json(200, [])
        repo, _, revision = path.partition("/revision/")
        found = self._commit(repo, unquote(revision) or "main")
        if found is None:
            return None
        known, commit = found
        siblings = []
        for name, file in known.commits[commit].items():
            size, sha256, git_id = _facts(file)
            lfs = {"sha256": sha256, "size": size, "pointerSize": 134}
            sibling = {"rfilename": name, "blobId": git_id, "size": size}
            siblings.append(sibling if name in known.in_git else sibling | {"lfs": lfs})
        info = {"_id": "0" * 24, "id": repo, "modelId": repo, "sha": commit, "private": False, "disabled": False}
        info |= {"gated": "manual" if known.gated else False, "tags": ["gguf"], "downloads": 0, "likes": 0}
        return self._json(200, info | {"cardData": {"license": known.licence}, "siblings": siblings})

    def _commit(self, repo: str, revision: str) -> tuple[_Repository, str] | None:
        """Returns the repository and the commit that the revision points to; None after answering with an error."""
        known = self.server_hub.repositories.get(repo)
        if known is None:  # the Hub answers the same way for a private repository when no one is logged in
            self._error(401, None, "Invalid username or password.")
            return None
        commit = known.refs.get(revision, revision)
        if commit not in known.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return known, commit

    def _resolve(self, path: str) -> None:
        hub, faults = self.server_hub, self.server_hub.faults
        repo, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        found = self._commit(repo, unquote(revision))
        if found is None:
            return None
        known, commit = found
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if known.gated and token not in hub.tokens:
            message = f"Access to model {repo} is restricted."
            return self._error(403 if token else 401, "GatedRepo", message)
        file = known.commits[commit].get(unquote(name))
        if file is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        if faults.status is not None:
            return self._error(faults.status, None, "trouble")
        if faults.page is not None and faults.page != "api":
            told = {"Content-Type": "text/html"}
            return self._answer(200, PAGE, told if faults.page == "file" else {"Connection": "close"})
        size, sha256, git_id = _facts(file)
        if name in known.in_git:
            return self._file(file, {"X-Repo-Commit": commit, "ETag": f'"{git_id}"'})
        signature = str(next(hub.counter))
        hub.signatures.add(signature)
        location = f"{hub.cdn_url}/{sha256}?at={file}&signature={signature}"
        headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)}
        return self._answer(302, b"Found. Redirecting", headers | {"Location": location})

    # --- its CDN ---

    def _from_the_cdn(self, path: str, query: Mapping[str, list[str]]) -> None:
        signature = query.get("signature", [""])[0]
        with self.server_hub.lock:
            good = signature in self.server_hub.signatures
            self.server_hub.signatures.discard(signature)
        if not good:
            return self._answer(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
        return self._file(Path(query["at"][0]), {"ETag": f'"{path.lstrip("/")}"'})

    def _file(self, file: Path, headers: Mapping[str, str]) -> None:
        faults = self.server_hub.faults
        size = file.stat().st_size
        start, stop, status = 0, size, 200
        asked = self.headers.get("Range")
        if asked is not None and faults.refuse_range:
            return self._answer(416, b"", {})
        if asked is not None and not faults.ignore_range:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last) + 1, size) if last else size, 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", faults.content_range or f"bytes {start}-{stop - 1}/{size}")
        common = {
            "Content-Length": str(stop - start),
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        for name, value in (common | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if faults.hang:
            self.server_hub.closing.wait()
        return self._send(file, start, stop, faults)

    def _send(self, file: Path, start: int, stop: int, faults: Faults) -> None:
        with self.server_hub.lock:
            cut = faults.cuts.pop(0) if faults.cuts else None
        end = stop if cut is None else min(start + cut, stop)
        with file.open("rb") as content:
            content.seek(start)
            while start < end:
                block = bytearray(content.read(min(BLOCK, end - start)))
                if faults.wrong_byte is not None and start <= faults.wrong_byte < start + len(block):
                    block[faults.wrong_byte - start] ^= 1
                self.wfile.write(block)
                start += len(block)
                with self.server_hub.lock:
                    self.server_hub.served += len(block)
                if faults.rate is not None:
                    self.server_hub.closing.wait(len(block) / faults.rate)
        self.close_connection = end < stop

    # --- answers ---

    def _json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"} | dict(headers or {}))

    def _error(self, status: int, code: str | None, message: str) -> None:
        if self.server_hub.faults.echo:
            message = f"{message} {self.headers.get('Authorization', '')}"
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._json(status, {"error": message}, headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)  # sending "Connection: close" makes the server close it after this answer
        if "Connection" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


_known: dict[Path, tuple[int, str, str]] = {}


def _facts(file: Path) -> tuple[int, str, str]:
    """Returns a file's size, sha256 and git blob id. Each file is hashed only once."""
    if file not in _known:
        content = file.read_bytes()
        git_id = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        _known[file] = (len(content), hashlib.sha256(content).hexdigest(), git_id)
    return _known[file]
