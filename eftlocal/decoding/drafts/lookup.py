"""Prompt look-up (Saxena 2023): guesses that what followed the text's last tokens at an earlier place comes again."""

from collections.abc import Iterable, Sequence

__all__ = ["PromptLookup"]

SHORTEST = 3  # at least this many tokens must match
LOOKED_AT = 8  # how many earlier places are compared; the latest ones


class PromptLookup:
    """A text that grows, and the earlier place in it that matches its end best."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._after: dict[tuple[int, ...], list[int]] = {}  # SHORTEST tokens -> the positions after them
        self._at = 0  # the position after the match: the token there is the next guess
        self.matched = 0  # length of the match in tokens; 0 if there is none
        for place in range(SHORTEST, len(tokens)):
            self._after.setdefault(tuple(tokens[place - SHORTEST : place]), []).append(place)
        self._find()

    def following(self, n: int) -> list[int]:
        """The next `n` tokens if the repetition continues; empty if there is no match."""
        if not self.matched:
            return []
        period = len(self._tokens) - self._at
        return [self._tokens[self._at + i % period] for i in range(n)]

    def extend(self, tokens: Iterable[int]) -> list[tuple[int, bool]]:
        """Append tokens. Returns (length of the match before the token, whether the guess was right) for each of them.

        Tokens without a match before them are left out.
        """
        told = []
        for token in tokens:
            goes_on = self.matched > 0 and self._tokens[self._at] == token
            if self.matched:
                told.append((self.matched, goes_on))
            if len(self._tokens) >= SHORTEST:
                self._after.setdefault(tuple(self._tokens[-SHORTEST:]), []).append(len(self._tokens))
            self._tokens.append(token)
            if goes_on:
                self._at += 1
                self.matched += 1
            else:
                self._find()
        return told

    def _find(self) -> None:
        """Find the longest match with the text's end; among equal ones, the latest."""
        self.matched = 0
        for place in reversed(self._after.get(tuple(self._tokens[-SHORTEST:]), [])[-LOOKED_AT:]):
            matched = self._match(place)
            if matched > self.matched:
                self._at, self.matched = place, matched

    def _match(self, place: int) -> int:
        """How many tokens before `place` equal those at the text's end."""
        tokens, n = self._tokens, SHORTEST
        while n < place and tokens[place - 1 - n] == tokens[-1 - n]:
            n += 1
        return n
