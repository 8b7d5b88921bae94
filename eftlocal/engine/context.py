"""What the engine needs of a member: something that holds tokens of sequences and gives logits of their positions.

`runtime/llama/context.py` is a KV cache of llama.cpp in this process, `runtime/child/context.py` in a child process,
`runtime/remote/context.py` a model on a server.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from eftlocal.arithmetic.arrays import Logits
from eftlocal.runtime.feed import Feed

__all__ = ["MemberContext"]


class MemberContext(Protocol):
    """A member's sequences. It counts what it holds for certain; calls come one at a time.

    n_fed     tokens that were fed since the start
    n_batch   the most tokens that one call computes at once
    max_rows  the most rows of logits of one call
    rewinds   whether a sequence can be cut anywhere
    """

    n_fed: int

    @property
    def n_batch(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def rewinds(self) -> bool: ...

    def held(self, sequence: int) -> int:
        """How many tokens of the sequence are held for certain."""
        ...

    def rewind(self, sequence: int, n: int) -> int:
        """Keep the first `n` tokens. Returns how many are kept."""
        ...

    def fork(self, source: int, target: int, n: int) -> int:
        """Copy the first `n` tokens of `source` to `target`. Returns how many `target` then holds."""
        ...

    def expect(self, sequence: int, prompt: Sequence[int]) -> None:
        """All tokens that come for a sequence, before it is fed the first part of them; none: no more come.

        A server can read them meanwhile. Nothing is held by this.
        """
        ...

    def feed(self, feeds: Sequence[Feed]) -> Logits:
        """Tokens that continue each sequence. Returns the logits asked for, (rows, n_vocab), in the order of `feeds`.

        Raises DecodeError, and Stopped at Ctrl-C; all sequences stay usable.
        """
        ...

    def more(self, sequence: int, tokens: Sequence[int], known: int) -> Logits | None:
        """The row after `tokens`, (n_vocab,), with more tokens known than `known`; None where there are no more.

        A row of a model on this machine is always whole.
        """
        ...

    def set_threads(self, n: int) -> None:
        """The number of CPU threads for the following calls."""
        ...

    def saved(self) -> Mapping[int, Any]:
        """A copy of each sequence that holds tokens, for `restore` of another context of this model."""
        ...

    def restore(self, saved: Mapping[int, Any]) -> None: ...

    def close(self) -> None: ...
