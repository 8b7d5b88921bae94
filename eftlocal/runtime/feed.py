"""What a member is given to decode, wherever it runs: here, in a child process or on a server."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Feed"]


class Feed(NamedTuple):
    """Tokens that continue one sequence. Logits are returned for the last `rows` of them.

    `whole`: of a member on a server, rows must be of the whole vocabulary.
    """

    sequence: int
    tokens: Sequence[int]
    rows: int
    whole: bool = False
