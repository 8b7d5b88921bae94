"""A fault made on purpose: a call of llama_decode that fails, before or after llama.cpp did its work."""

from itertools import count
from typing import Any

import llama_cpp
import pytest


def fail_decode(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException, after: bool) -> None:
    """Makes the `call`-th llama_decode, counted over all members, raise `error`; `after`: after the real decode."""
    calls = count(1)
    real = llama_cpp.llama_decode

    def decode(*args: Any) -> int:
        mine = next(calls)  # members decode in threads
        if mine == call and not after:
            raise error
        code = int(real(*args))
        if mine == call:
            raise error
        return code

    monkeypatch.setattr(llama_cpp, "llama_decode", decode)
