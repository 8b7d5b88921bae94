"""Streaming: tokens -> text that may be shown, cut at UTF-8 characters and before stop strings."""

import codecs
from collections import deque
from collections.abc import Callable, Sequence

from eftlocal.errors import SettingError

__all__ = ["TextStream"]


class TextStream:
    """The text of one answer, token by token.

    `push` gives what may be shown now: whole characters (bytes that are no UTF-8 become U+FFFD), and nothing that is or
    could still become a part of a stop string. Of several stop strings the one that begins earliest in the text ends
    it. So the text is the same however it was split into tokens, and with the stops "abcd" and "bc", "abc" waits for
    what follows.

    piece: a token's bytes. stops: an empty one raises SettingError.
    """

    def __init__(self, piece: Callable[[int], bytes], stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise SettingError("A stop string is empty; it must have at least one character.")
        self._piece = piece
        self._stops = sorted(stops, key=len)  # of two that begin at one place, the one that is complete first
        self._rest = b""  # the beginning of a character
        self._shown: list[str] = []
        self._held = ""  # decoded, but a stop string could begin with it
        self._n_pushed = 0
        self._n_shown = 0  # characters
        self._n_decoded = 0  # characters, shown and held
        self._ends: deque[tuple[int, int]] = deque()  # (tokens, characters) at token ends that are not shown yet
        self._kept = 0
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stopped

    @property
    def text(self) -> str:
        """All text shown so far."""
        return "".join(self._shown)

    @property
    def kept(self) -> int:
        """How many leading tokens lie wholly in `text`: their bytes, decoded, are a prefix of it."""
        return self._kept

    def push(self, token: int) -> str:
        """The text that may be shown now; "" for every token after a stop."""
        if self._stopped is not None:
            return ""
        self._n_pushed += 1
        new = self._decode(self._piece(token), final=False)
        if not self._rest:  # the token ends where a character does
            self._ends.append((self._n_pushed, self._n_decoded))
        return self._show(self._held + new, ended=False)

    def finish(self) -> str:
        """What was held back, when no token follows; an incomplete character becomes U+FFFD.

        A stop string may be found only here, where a longer one could still have begun before it.
        """
        if self._stopped is not None:
            return ""
        new = self._decode(b"", final=True)
        self._ends.append((self._n_pushed, self._n_decoded))
        return self._show(self._held + new, ended=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        """The characters that are whole now."""
        # codecs' incremental decoder is four calls of Python about this one, and after a decode, which empties the
        # processor's caches, every piece of code costs ten times what it costs in a loop.
        data = self._rest + data
        new, used = codecs.utf_8_decode(data, "replace", final)
        self._rest = data[used:]
        self._n_decoded += len(new)
        return new

    def _show(self, pending: str, *, ended: bool) -> str:
        """Split pending text (what was held and what is new) into what may be shown and what is held."""
        cut = len(pending) if ended or not self._stops else self._tail(pending)
        begin, stop = len(pending) + 1, None
        for candidate in self._stops:
            if 0 <= (at := pending.find(candidate)) < begin:
                begin, stop = at, candidate
        if begin <= cut:  # no other stop string can begin before it
            self._stopped, cut = stop, begin
        shown, self._held = pending[:cut], pending[cut:]
        self._shown.append(shown)
        self._n_shown += len(shown)
        while self._ends and self._ends[0][1] <= self._n_shown:
            self._kept = self._ends.popleft()[0]
        return shown

    def _tail(self, pending: str) -> int:
        """Where the longest tail begins that more text could make a stop string."""
        longest = len(self._stops[-1]) - 1
        for at in range(max(0, len(pending) - longest), len(pending)):
            tail = pending[at:]
            if any(stop.startswith(tail) for stop in self._stops):
                return at
        return len(pending)
