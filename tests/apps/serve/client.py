"""A small HTTP client that shows what a server really sends, and can leave at any moment."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Response:
    """A response whose body has not been read yet."""

    def __init__(self, reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader

    async def parts(self) -> AsyncIterator[bytes]:
        """The parts of the body as they come."""
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            yield await self._reader.readexactly(int(self.headers.get("content-length", "0")))
            return
        while size := int(await self._reader.readline(), 16):
            yield await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([part async for part in self.parts()])

    async def events(self) -> AsyncIterator[Any]:
        """The values of a stream's events; None for a comment. Ends after [DONE]."""
        rest = b""
        async for part in self.parts():
            *lines, rest = (rest + part).split(b"\n\n")
            for line in lines:
                if line == b"data: [DONE]":
                    return
                yield json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else None


@asynccontextmanager
async def asked(
    port: int, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Response]:
    """Ask, and yield the response when its head has come. At the end, the connection is cut."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(data)), "Connection": "close", **(headers or {})}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in given.items())])
        writer.write(head.encode() + b"\r\n" + data)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        found = dict[str, str]()
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(":")
            found[name.lower()] = value.strip()
        yield Response(reader, status, found)
    finally:
        writer.close()


async def ask(
    port: int, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Ask, and return the complete response."""
    async with asked(port, method, path, body, headers) as response:
        return Answer(response.status, response.headers, await response.body())


async def post(port: int, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Post a JSON value, or bytes as they are."""
    return await ask(port, "POST", path, body, headers)


def chat(question: str, **fields: object) -> dict[str, object]:
    """The body of a request for a chat completion."""
    return {"model": "demo", "messages": [{"role": "user", "content": question}], **fields}
