"""Log-probabilities as clients read them: the objects of chats, and the lists of completions."""

import math
from collections.abc import Sequence
from typing import Final

from eftlocal.apps.serve.mailbox import Entry

__all__ = ["chat_entries", "completion_entries", "token_text"]

LEAST: Final = -9999.0  # stands for minus infinity, which JSON does not have


def token_text(data: bytes) -> str:
    """The text that stands for a token. Bytes that are no text by themselves are shown as OpenAI shows them."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _number(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LEAST


def chat_entries(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """The entries of `choices[].logprobs.content`."""
    return [
        {
            **_object(entry.data, entry.logprob or 0.0),
            "top_logprobs": [_object(other.data, other.logprob) for other in entry.top],
        }
        for entry in entries
    ]


def _object(data: bytes, logprob: float) -> dict[str, object]:
    return {"token": data.decode("utf-8", "replace"), "logprob": _number(logprob), "bytes": list(data)}


def completion_entries(entries: Sequence[Entry], offset: int = 0) -> dict[str, object]:
    """The object `choices[].logprobs` of a completion. `offset`: the characters before the first entry's token; below 0
    for a token that the text does not show.

    The chosen token is always among the top ones, with the same number as in `token_logprobs`. Of two tokens with one
    text, the second is shown by its id.
    """
    tops: list[dict[str, float] | None] = []
    offsets = list[int]()
    for entry in entries:
        offsets.append(max(0, offset))
        offset += len(entry.data.decode("utf-8", "ignore"))
        if entry.logprob is None:
            tops.append(None)
            continue
        top = {token_text(entry.data): _number(entry.logprob)}
        for other in entry.top:
            if other.id != entry.id:
                text = token_text(other.data)
                top[f"token_id:{other.id}" if text in top else text] = _number(other.logprob)
        tops.append(top)
    return {
        "tokens": [token_text(entry.data) for entry in entries],
        "token_logprobs": [None if entry.logprob is None else _number(entry.logprob) for entry in entries],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
