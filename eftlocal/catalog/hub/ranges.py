"""Range requests: reads a range of bytes of a file on the Hub, over plain HTTPS. The Hub's client cannot do this.

The requests go through the client's session, so its proxies and its offline switch apply. The token is sent only to the
Hub. The Hub redirects to its CDN, and the session drops the token at a redirect to another host.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import httpx2
from huggingface_hub import hf_raise_for_status

from eftlocal.catalog.hub.client import token
from eftlocal.catalog.hub.failures import not_the_hub, telling
from eftlocal.catalog.hub.listing import RemoteFile, Repository
from eftlocal.catalog.hub.settings import LIBRARY, endpoint, timeout
from eftlocal.catalog.hub.surroundings import session

__all__ = ["byte_range", "read_range"]

MAGIC: Final = b"GGUF"  # the first bytes of a GGUF file


def read_range(repository: Repository, file: str, start: int, stop: int) -> bytes:
    """Returns the bytes [start, stop) of a file without downloading the rest; fewer at its end. Raises HubError."""
    remote = repository.file(file)
    with telling(repository.repo, repository.revision):
        return b"".join(byte_range(repository, remote, start, min(stop, remote.size)))


def byte_range(repository: Repository, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    """Yields the bytes [start, stop) of a file as they arrive.

    Each call asks the Hub again, because the CDN's addresses are signed and expire. A mirror that refuses the range is
    asked for the whole file. Raises HubError when the answer is not that file. Exceptions of the Hub's client pass
    through.
    """
    with _answer(repository, file, {"Range": f"bytes={start}-{stop - 1}"}) as response:
        if response.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            yield from _pieces(response, file, start, stop)
            return
    with _answer(repository, file, {}) as response:
        yield from _pieces(response, file, start, stop)


def _answer(
    repository: Repository, file: RemoteFile, headers: dict[str, str]
) -> AbstractContextManager[httpx2.Response]:
    headers |= {"User-Agent": LIBRARY, "Accept-Encoding": "identity"}
    if secret := token():
        headers["Authorization"] = f"Bearer {secret}"
    url = f"{endpoint()}/{repository.repo}/resolve/{repository.commit}/{quote(file.name)}"
    return session().stream("GET", url, headers=headers, timeout=timeout(), follow_redirects=True)


def _pieces(response: httpx2.Response, file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    """Yields the bytes [start, stop) of the file from an answer that has them, and perhaps others before or after."""
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
    raise httpx2.RemoteProtocolError(f"the answer ended {stop - position} bytes early", request=response.request)


def _first_byte(response: httpx2.Response, file: RemoteFile, start: int) -> int:
    """Returns the position in the file at which the answer begins.

    This is 0 when the server ignores the range and sends the whole file. Raises HubError for another answer than the
    file or the range.
    """
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise not_the_hub(f"a web page instead of {file.name}")
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        sent = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", sent)
        if found is None or int(found[1]) != start or found[2] not in ("*", str(file.size)):
            raise not_the_hub(f"another part of {file.name}: {sent or 'no range'}, not from byte {start} on")
        return start
    length = response.headers.get("Content-Length", str(file.size))
    if length != str(file.size) and "Content-Encoding" not in response.headers:
        raise not_the_hub(f"{length} bytes for {file.name}, which has {file.size} bytes")
    return 0


def _must_begin(chunk: bytes, position: int, file: str) -> None:
    expected = MAGIC[position : position + len(chunk)]
    if chunk[: len(expected)] != expected:
        raise not_the_hub(f"something other than a GGUF file for {file}")
