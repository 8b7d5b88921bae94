"""What is asked of the engine and where it answers: slots for sequences, requests for rows of logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from eftlocal.arithmetic.combine import Logits, Rows
from eftlocal.arithmetic.prefix import common_prefix

__all__ = ["Known", "Request", "Slot", "rows_of", "with_known"]


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one sequence in every member's cache: what each should hold, and what it was fed."""

    index: int
    prompts: dict[int, list[int]] = field(default_factory=dict)  # by member: its own rendering of the conversation
    tokens: list[int] = field(default_factory=list)  # what all members have in common after their prompts
    free: bool = True
    fed: dict[int, list[int]] = field(default_factory=dict)  # by member: what its cache was given, in order
    valid: dict[int, int] = field(default_factory=dict)  # by member: how much of that is known to be what it should be

    def truncate(self, n: int) -> None:
        """Keep the first `n` common tokens; the caches follow at the next forward."""
        del self.tokens[n:]
        for member, prompt in self.prompts.items():
            self.valid[member] = min(self.valid[member], len(prompt) + n)

    def begin(self, prompts: Mapping[int, list[int]]) -> None:
        """Another sequence, which the caches may hold the beginning of."""
        self.prompts, self.tokens = dict(prompts), []
        self.valid.update({m: common_prefix(self.fed.get(m, []), prompt) for m, prompt in prompts.items()})

    def regain(self, member: int) -> None:
        """Tokens that were dropped are there again: what the member was fed of them counts again."""
        self.valid[member] = common_prefix(self.fed[member], self.prompts[member] + self.tokens)

    def missing(self, member: int, start: int) -> list[int]:
        """What a cache lacks that holds `start` tokens."""
        prompt = self.prompts[member]
        return self.tokens[start - len(prompt) :] if start >= len(prompt) else prompt[start:] + self.tokens

    def length(self, member: int) -> int:
        """Tokens that the member's cache should hold."""
        return len(self.prompts[member]) + len(self.tokens)


class Known(NamedTuple):
    """Logits that the caller has of one member already: for the first `n` of the positions it will ask for.

    `logits`: (rows or more, n_real or more) float32; forward writes the rows that lack into it.
    """

    member: int
    logits: Logits
    n: int


class Request(NamedTuple):
    """Logits wanted for the last `rows` positions of a slot, from these members.

    With 0 rows the slot only goes on towards its first row: at most `most` tokens are fed, and never the last, whose
    logits will be wanted.
    """

    slot: Slot
    rows: int
    members: Sequence[int]
    known: Known | None = None
    most: int = 0

    def lacking(self, member: int) -> int:
        """How many of the rows have to be computed for `member`: the last ones."""
        return self.rows - (self.known.n if self.known is not None and self.known.member == member else 0)


def rows_of(member: int, requests: Sequence[Request], starts: Sequence[int]) -> Rows:
    """Which of all requests' rows are a member's; `starts`: the first row of each request."""
    if all(member in request.members for request in requests):
        return slice(None)
    mine = [np.arange(start, start + r.rows) for start, r in zip(starts, requests, strict=False) if member in r.members]
    return np.concatenate(mine)


def with_known(member: int, requests: Sequence[Request], computed: Logits) -> Logits:
    """A member's rows of all requests, (rows, at least n_real): those just computed, and those that were known."""
    mine = [request for request in requests if member in request.members]
    if all(request.lacking(member) == request.rows for request in mine):
        return computed
    parts, start = [], 0
    for request in mine:
        lacking = request.lacking(member)
        part = computed[start : start + lacking]
        start += lacking
        if request.known is not None and request.known.member == member:
            buffer = request.known.logits
            buffer[request.known.n : request.rows] = part[:, : buffer.shape[1]]
            part = buffer[: request.rows]
        parts.append(part)
    width = min(part.shape[1] for part in parts)
    return parts[0] if len(parts) == 1 else np.concatenate([part[:, :width] for part in parts])
