"""Reads the JSON bodies of requests: bounded in size and depth, and strict."""

import asyncio
import json
import math
from typing import Final

from starlette.requests import Request

from eftlocal.apps.serve.errors import Refused, invalid

__all__ = ["MAX_BODY", "read"]

MAX_BODY: Final = 16 << 20  # bytes; a context of a million tokens is about 5 MB of text
MAX_DEPTH: Final = 100  # lists and objects inside each other
PATIENCE: Final = 60.0  # seconds for a body to arrive


async def read(request: Request) -> dict[str, object]:
    """The JSON object in the request's body. Raises Refused, and ClientDisconnect if the client leaves."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > MAX_BODY:
        raise _too_large()
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise Refused(415, f"A body with the content encoding {encoding[:20]!r} cannot be read; send it plain.")
    try:
        async with asyncio.timeout(PATIENCE):
            data = await _bytes(request)
    except TimeoutError:
        raise Refused(408, f"The body did not arrive within {PATIENCE:.0f} seconds.") from None
    try:
        text = data.decode(json.detect_encoding(data))  # strictly: json.loads lets halves of surrogate pairs pass
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # also bytes that are no text, and numbers
        raise invalid(f"The body is not JSON: {str(error)[:200]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise invalid("The body is not a JSON object.", code="invalid_json")
    _check_depth(value)
    return value if "\\u" not in text else {key: _unicode(each) for key, each in value.items()}


async def _bytes(request: Request) -> bytes:
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> Refused:
    return Refused(413, f"The body is larger than {MAX_BODY >> 20} MB.", code="body_too_large")


def _too_deep() -> Refused:
    return invalid(f"The body has more than {MAX_DEPTH} lists and objects inside each other.", code="invalid_json")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 40:
        raise ValueError("a number is too large")
    return int(text)


def _check_depth(value: object) -> None:
    level, depth = [value], 0
    while level := [
        each
        for one in level
        if isinstance(one, dict | list)
        for each in (one.values() if isinstance(one, dict) else one)
        if isinstance(each, dict | list)
    ]:
        depth += 1
        if depth >= MAX_DEPTH:
            raise _too_deep()


def _unicode(value: object) -> object:
    """The value with U+FFFD for each half of a surrogate pair: clients that cut an emoji in two send such halves."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_unicode(each) for each in value]
    if isinstance(value, dict):
        return {_unicode(key): _unicode(each) for key, each in value.items()}
    return value
