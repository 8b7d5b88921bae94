"""How long a process that holds a model may take for an answer. Nothing waits for ever, and nothing is given up early.

A call may take `FIRST_S` where nothing was computed before, since weights may come from a slow disk or over a network.
Later it may take `PATIENCE_S` and 20 times as long as the longest call before it did, and more for more tokens. A load
may take `LOAD_S` without a tensor that arrives: one of 1 GB takes 400 s over a network of 20 Mbit/s.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["FIRST_S", "LOAD_S", "PATIENCE_S", "PROBE_S", "SLOWER", "Patience"]

PATIENCE_S: Final = 60.0
FIRST_S: Final = 600.0
LOAD_S: Final = 600.0
SLOWER: Final = 20  # a call may take so many times as long as the longest one before
PROBE_S: Final = 5.0  # for a worker to say who it is


@dataclass(slots=True)
class Patience:
    """What the calls so far took: `longest_s` the longest of them, `most` the most tokens of one."""

    longest_s: float = 0.0
    most: int = 0

    def limit(self, tokens: int) -> float:
        """The seconds that a call which computes so many tokens may take; 0 tokens for what takes no time."""
        if not tokens:
            return PATIENCE_S
        if not self.most:
            return FIRST_S + tokens
        return PATIENCE_S + SLOWER * self.longest_s * max(1.0, tokens / self.most)

    def learn(self, tokens: int, seconds: float) -> None:
        """Count a call that has ended well."""
        self.longest_s = max(self.longest_s, seconds)
        self.most = max(self.most, tokens)
