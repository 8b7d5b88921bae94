"""A range of a file's bytes from the Hub, over plain HTTPS: what the Hub's client has no function for.

The requests go through the client's own session, so that its proxies and its offline switch hold. The token goes to
the Hub alone: the session drops it at a redirect to another host, which is how the Hub hands over to its CDN.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import httpx2
from huggingface_hub import get_session, hf_raise_for_status

from eftlocal.catalog.hub.client import token
from eftlocal.catalog.hub.failures import not_the_hub, telling
from eftlocal.catalog.hub.listing import RemoteFile, Repository
from eftlocal.catalog.hub.settings import LIBRARY, endpoint, timeout

__all__ = ["byte_range", "read_range"]

MAGIC: Final = b"GGUF"  # how a GGUF file begins


def read_range(repository: Repository, file: str, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of a file, cut at its end, without downloading the rest. Raises HubError."""
    remote = repository.file(file)
    with telling(repository.repo, repository.revision):
        return b"".join(byte_range(repository, remote, start, min(stop, remote.size)))


def byte_range(repository: Repository, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    """The bytes [start, stop) of a file, as they come.

    The Hub is asked anew each time, since the CDN's addresses are signed and run out. Raises HubError where another
    thing than that file comes back, and what the Hub's client raises.
    """
    headers = {"User-Agent": LIBRARY, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    if secret := token():
        headers["Authorization"] = f"Bearer {secret}"
    url = f"{endpoint()}/{repository.repo}/resolve/{repository.commit}/{quote(file.name)}"
    with get_session().stream("GET", url, headers=headers, timeout=timeout(), follow_redirects=True) as response:
        hf_raise_for_status(response)
        position = _first_byte(response, file, start)
        for chunk in response.iter_bytes():
            if file.name.endswith(".gguf") and position < len(MAGIC):
                _must_begin(chunk, position, file.name)
            piece = chunk[max(start - position, 0) : max(stop - position, 0)]
            position += len(chunk)
            if piece:
                yield piece
            if position >= stop:
                return
        raise httpx2.RemoteProtocolError(f"it ended {stop - position} bytes early", request=response.request)


def _first_byte(response: httpx2.Response, file: RemoteFile, start: int) -> int:
    """Which byte of the file the answer begins with: a server may ignore the range and send all, from 0."""
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise not_the_hub(f"a web page instead of {file.name}")
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        sent = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", sent)
        if found is None or int(found[1]) != start or found[2] not in ("*", str(file.size)):
            raise not_the_hub(f"another part of {file.name} than from byte {start} on ({sent or 'no range'})")
        return start
    length = response.headers.get("Content-Length", str(file.size))
    if length != str(file.size) and "Content-Encoding" not in response.headers:
        raise not_the_hub(f"{length} bytes for {file.name}, which has {file.size}")
    return 0


def _must_begin(chunk: bytes, position: int, file: str) -> None:
    expected = MAGIC[position : position + len(chunk)]
    if chunk[: len(expected)] != expected:
        raise not_the_hub(f"something else than a GGUF file for {file}")
