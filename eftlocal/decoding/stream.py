"""Streaming: turns tokens into text that may be shown, cut at UTF-8 characters and before stop strings."""

import codecs
from collections import deque
from collections.abc import Callable, Sequence

from eftlocal.errors import SettingError

__all__ = ["TextStream"]


class TextStream:
    """The text of one answer, which grows token by token.

    `push` returns the text that may be shown now. This is whole characters only; bytes that are not UTF-8 become
    U+FFFD. Text that is, or could still become, part of a stop string is held back. Among several stop strings, the one
    that begins earliest in the text ends it. So the split into tokens never changes the text. With the stop strings
    "abcd" and "bc", "abc" is held back until the next text decides which of them ends it.

    piece  token id -> the token's bytes (llama.cpp's llama_token_to_piece)
    stops  the stop strings; an empty one raises SettingError
    """

    def __init__(self, piece: Callable[[int], bytes], stops: Sequence[str] = ()) -> None:
        if "" in stops:
            raise SettingError("A stop string is empty; it must have at least one character.")
        self._piece = piece
        self._stops = sorted(stops, key=len)  # of two that begin at one place, the shorter wins
        self._rest = b""  # bytes of a character that is not complete yet
        self._shown: list[str] = []
        self._held = ""  # decoded but held back: a stop string could begin here
        self._n_pushed = 0
        self._n_shown = 0  # characters
        self._n_decoded = 0  # characters, shown and held back
        self._ends: deque[tuple[int, int]] = deque()  # (tokens, characters) at each token end that is not shown yet
        self._kept = self._n_kept = 0  # tokens that lie completely in the shown text, and their characters
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text; None if none did."""
        return self._stopped

    @property
    def text(self) -> str:
        """All text that was returned so far."""
        return "".join(self._shown)

    @property
    def kept(self) -> int:
        """How many leading tokens lie completely in `text`: their decoded bytes are a prefix of it."""
        return self._kept

    @property
    def whole(self) -> bool:
        """Whether those tokens are all of `text`: a stop string can end it within a token."""
        return self._n_kept == self._n_shown

    def push(self, token: int) -> str:
        """Add a token. Returns the text that may be shown now; always "" after a stop string."""
        if self._stopped is not None:
            return ""
        self._n_pushed += 1
        new = self._decode(self._piece(token), final=False)
        if not self._rest:  # a character ends where this token ends
            self._ends.append((self._n_pushed, self._n_decoded))
        return self._show(self._held + new, ended=False)

    def finish(self, *, cut: bool = False) -> str:
        """End the text. Returns what was held back.

        An incomplete character at the end becomes U+FFFD. Where the text was `cut`, it is left out, and so are its
        tokens from `kept`. This may find a stop string that had to wait: a longer one could still have begun before it.
        """
        if self._stopped is not None:
            return ""
        new = ""
        if cut and self._rest:
            self._rest = b""
        else:
            new = self._decode(b"", final=True)
            self._ends.append((self._n_pushed, self._n_decoded))
        return self._show(self._held + new, ended=True)

    def _decode(self, data: bytes, *, final: bool) -> str:
        """The characters that are complete now."""
        # codecs' incremental decoder wraps this call in four Python calls. A decode empties the processor's caches,
        # and after it any code costs ten times what it costs in a loop.
        data = self._rest + data
        new, used = codecs.utf_8_decode(data, "replace", final)
        self._rest = data[used:]
        self._n_decoded += len(new)
        return new

    def _show(self, pending: str, *, ended: bool) -> str:
        """Split the pending text (held back before, or new): return what may be shown, and hold back the rest."""
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
            self._kept, self._n_kept = self._ends.popleft()
        return shown

    def _tail(self, pending: str) -> int:
        """Where the part begins that must be held back: the longest tail of `pending` that begins a stop string."""
        longest = len(self._stops[-1]) - 1
        for at in range(max(0, len(pending) - longest), len(pending)):
            tail = pending[at:]
            if any(stop.startswith(tail) for stop in self._stops):
                return at
        return len(pending)
