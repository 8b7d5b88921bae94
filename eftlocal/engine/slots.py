"""Slots, which hold sequences, and requests, which ask for logits of their positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from eftlocal.arithmetic.arrays import Logits, Rows
from eftlocal.arithmetic.prefix import common_prefix

__all__ = ["Known", "Request", "Slot", "rows_of", "with_known"]


@dataclass(slots=True, eq=False)
class Slot:
    """A place for one sequence in every member's KV cache: what each cache should hold, and what it was fed."""

    index: int
    prompts: dict[int, list[int]] = field(default_factory=dict)  # member -> token ids of its rendering
    tokens: list[int] = field(default_factory=list)  # the tokens after the prompts, the same for all members
    free: bool = True
    fed: dict[int, list[int]] = field(default_factory=dict)  # member -> the tokens that its cache was fed, in order
    valid: dict[int, int] = field(default_factory=dict)  # member -> how many of them, from the start, are right

    def truncate(self, n: int) -> None:
        """Keep the first `n` tokens after the prompts. The caches are rewound at the next `forward`."""
        del self.tokens[n:]
        for member, prompt in self.prompts.items():
            self.valid[member] = min(self.valid[member], len(prompt) + n)

    def begin(self, prompts: Mapping[int, list[int]]) -> None:
        """Start another sequence. What the caches hold of its beginning is kept."""
        self.prompts, self.tokens = dict(prompts), []
        self.valid.update({m: common_prefix(self.fed.get(m, []), prompt) for m, prompt in prompts.items()})

    def regain(self, member: int) -> None:
        """Count as right what a cache still holds of tokens that were dropped and appended again."""
        self.valid[member] = common_prefix(self.fed[member], self.prompts[member] + self.tokens)

    def tokens_after(self, member: int, start: int) -> list[int]:
        """The tokens that the member's cache should hold, without the first `start` of them."""
        prompt = self.prompts[member]
        return self.tokens[start - len(prompt) :] if start >= len(prompt) else prompt[start:] + self.tokens

    def length(self, member: int) -> int:
        """How many tokens the member's cache should hold."""
        return len(self.prompts[member]) + len(self.tokens)


class Known(NamedTuple):
    """Logits of one member that the caller has already: for the first `n` positions of a request.

    `logits` is (rows or more, n_real or more), float32. `forward` writes the missing rows into it.
    """

    member: int
    logits: Logits
    n: int


class Request(NamedTuple):
    """Asks these members for the logits of the last `rows` positions of a slot.

    With `most`, it feeds a chunk of a prompt (chunked prefill): at most so many tokens, and never the last one of the
    prompt, because its logits are needed later. `rows` is then 0, or `most` for the logits of all of these tokens.

    `whole`: rows of members on a server must be of the whole vocabulary.
    """

    slot: Slot
    rows: int
    members: Sequence[int]
    known: Known | None = None
    most: int = 0
    whole: bool = False

    def unknown(self, member: int) -> int:
        """How many rows `member` has to compute; they are the last ones."""
        return self.rows - (self.known.n if self.known is not None and self.known.member == member else 0)


def rows_of(member: int, requests: Sequence[Request], starts: Sequence[int]) -> Rows:
    """The rows of a member among the rows of all requests. `starts` has the first row of each request."""
    if all(member in request.members for request in requests):
        return slice(None)
    mine = [np.arange(start, start + r.rows) for start, r in zip(starts, requests, strict=False) if member in r.members]
    return np.concatenate(mine)


def with_known(member: int, requests: Sequence[Request], computed: Logits) -> Logits:
    """A member's logits for all requests, (rows, at least n_real): computed ones, and those that were known."""
    mine = [request for request in requests if member in request.members]
    if all(request.unknown(member) == request.rows for request in mine):
        return computed
    parts, start = [], 0
    for request in mine:
        unknown = request.unknown(member)
        part = computed[start : start + unknown]
        start += unknown
        if request.known is not None and request.known.member == member:
            buffer = request.known.logits
            buffer[request.known.n : request.rows] = part[:, : buffer.shape[1]]
            part = buffer[: request.rows]
        parts.append(part)
    width = min(part.shape[1] for part in parts)
    return parts[0] if len(parts) == 1 else np.concatenate([part[:, :width] for part in parts])
