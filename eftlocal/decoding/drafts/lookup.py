"""Where a text repeats itself: what followed its last tokens when they stood there before."""

from collections.abc import Iterable, Sequence

__all__ = ["PromptLookup"]

SHORTEST = 3  # tokens that must be the same
LOOKED_AT = 8  # places where the last tokens stood before, at most: the latest ones


class PromptLookup:
    """A text that grows, and the place in it that its end repeats: of those looked at, that with the longest match."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._after: dict[tuple[int, ...], list[int]] = {}  # the last SHORTEST tokens -> the places behind them
        self._at = 0  # what comes next stood there before
        self.matched = 0  # how many tokens before it are those at the text's end; 0: no repetition
        for place in range(SHORTEST, len(tokens)):
            self._after.setdefault(tuple(tokens[place - SHORTEST : place]), []).append(place)
        self._find()

    def following(self, n: int) -> list[int]:
        """The next `n` tokens, if the text goes on repeating itself; none where it does not."""
        if not self.matched:
            return []
        period = len(self._tokens) - self._at
        return [self._tokens[self._at + i % period] for i in range(n)]

    def extend(self, tokens: Iterable[int]) -> list[tuple[int, bool]]:
        """More of the text. How long the match was before each of the tokens, and whether it went on; where there was
        none, nothing is told.
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
        """The place of the longest match with the text's end; of several, the latest."""
        self.matched = 0
        for place in reversed(self._after.get(tuple(self._tokens[-SHORTEST:]), [])[-LOOKED_AT:]):
            matched = self._match(place)
            if matched > self.matched:
                self._at, self.matched = place, matched

    def _match(self, place: int) -> int:
        tokens, n = self._tokens, SHORTEST
        while n < place and tokens[place - 1 - n] == tokens[-1 - n]:
            n += 1
        return n
