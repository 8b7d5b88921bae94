"""Shows one answer while it decodes: its thoughts apart from what it says."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TextIO, get_args

from rich.console import Console
from rich.style import Style
from rich.text import Text

from eftlocal.apps.chat.live import Live, Pace
from eftlocal.apps.chat.markdown import MarkdownStream, PlainStream
from eftlocal.apps.chat.rows import Row, clean
from eftlocal.decoding.thinking import Part, Splitter

__all__ = ["MODES", "Answer", "Mode", "Piped", "Shown", "Source"]

Mode = Literal["show", "fold", "hide"]  # thoughts stay, leave one line, or leave nothing
MODES: tuple[Mode, ...] = get_args(Mode)
DIM = Style(dim=True)
ROWS = 8  # of thoughts that are folded later, at most
TAIL = 2000  # characters of thoughts that fill these rows for certain, for most terminals


class Source(Protocol):
    """What is known of an answer beside its text."""

    def splitter(self) -> Splitter:
        """Tells its thoughts from what it says."""

    @property
    def n_tokens(self) -> int:
        """How many tokens it has so far."""


class Answer(Protocol):
    """Shows one answer while it decodes."""

    def write(self, delta: str) -> None:
        """Show more text."""

    def tell(self, line: str) -> None:
        """Show a line about the wait for the next text, until it comes; "" takes it away. Any thread may call this."""

    def end(self) -> None:
        """Show the rest; later output starts on a new row."""


class Piped:
    """Writes an answer as it comes, for a reader that is not a terminal. Thoughts are left out, unless `mode` is show.

    note  tells a remark to the user, beside the answer
    """

    def __init__(self, out: TextIO, source: Source, mode: Mode, note: Callable[[str], None]) -> None:
        self._out, self._mode, self._note = out, mode, note
        self._thoughts = _Thoughts(source)

    def write(self, delta: str) -> None:
        """As Answer.write."""
        self._show(self._thoughts.split(delta))

    def tell(self, line: str) -> None:
        """As Answer.tell, but what was told stays."""
        if line:
            self._note(line)

    def end(self) -> None:
        """As Answer.end."""
        self._show(self._thoughts.rest())
        if not self._thoughts.closed:
            self._close()
        self._out.write("\n")
        self._out.flush()

    def _show(self, parts: tuple[str, str]) -> None:
        thoughts, said = parts
        if self._mode == "show":
            self._out.write(thoughts)
        if said and not self._thoughts.closed:
            self._close()
        self._out.write(said)
        self._out.flush()

    def _close(self) -> None:
        self._thoughts.close()
        if self._thoughts.text and self._mode == "show":
            self._out.write("\n\n")
        elif self._thoughts.text and self._mode == "fold":
            self._out.flush()
            self._note(self._thoughts.summary)


class Shown:
    """Lays an answer out into rows and draws them. Thoughts are dimmed; `mode` says what stays of them."""

    def __init__(
        self, live: Live, stream: PlainStream | MarkdownStream, source: Source, mode: Mode, console: Console
    ) -> None:
        self._live, self._stream, self._mode, self._console = live, stream, mode, console
        self._thoughts, self._rows = _Thoughts(source), PlainStream()
        self._pending = self._thinking = ""  # not drawn yet: what it says, and thoughts
        self._pace = Pace()
        self._lock = threading.Lock()  # a member's thread may tell of its server
        self._open: Sequence[Row] = ()  # rows that are drawn again
        self._draw([], [(("…", DIM),)])

    def write(self, delta: str) -> None:
        """As Answer.write."""
        with self._lock:
            self._take(self._thoughts.split(delta))
            if self._pace.due():
                if self._thoughts.closed or not self._thoughts.text:
                    self._draw(*self._stream.push(self._pending))
                    self._pending = ""
                else:
                    self._think()
                self._pace.drawn()

    def tell(self, line: str) -> None:
        """As Answer.tell."""
        with self._lock:
            self._live.draw([], [*self._open, ((clean(line), DIM),)] if line else self._open)

    def end(self) -> None:
        """As Answer.end."""
        with self._lock:
            self._take(self._thoughts.rest())
            if not self._thoughts.closed:
                self._close()
            finished, _ = self._stream.push(self._pending)
            self._pending = ""
            self._draw([*finished, *self._stream.finish()], [])

    def _draw(self, finished: Sequence[Row], live: Sequence[Row]) -> None:
        self._open = live
        self._live.draw(finished, live)

    def _take(self, parts: tuple[str, str]) -> None:
        thoughts, said = parts
        self._thinking += thoughts
        if said and not self._thoughts.closed:
            self._close()
        self._pending += said

    def _think(self) -> None:
        """Draw the thoughts that came, or the last of them."""
        if self._mode == "show":
            finished, live = self._rows.push(self._thinking)
            self._draw(_dim(finished), _dim(live))
        else:
            columns, lines = self._live.size
            head: Row = ((f"thinking … {self._thoughts.seconds:.0f} s", DIM),)
            rows: list[Row] = []
            if self._mode == "fold":
                text = Text(clean(self._thoughts.text[-TAIL:]))
                rows = [((line.plain.rstrip(), DIM),) for line in text.wrap(self._console, max(20, columns - 1))]
            self._draw([], [head, *rows[-max(1, min(ROWS, lines // 3)) :]])
        self._thinking = ""

    def _close(self) -> None:
        """Leave of the thoughts what stays."""
        self._thoughts.close()
        if not self._thoughts.text:
            return
        if self._mode == "show":
            finished, live = self._rows.push(self._thinking)
            self._draw([*_dim(finished), *_dim(live), ()], [])
        elif self._mode == "fold":
            self._draw([((f"({self._thoughts.summary}; /think shows it)", DIM),)], [])


class _Thoughts:
    """The thoughts of one answer: their text, and how long they took in seconds and tokens."""

    def __init__(self, source: Source) -> None:
        self._source, self._splitter = source, source.splitter()
        self._began: float | None = None
        self._taken: tuple[float, int] | None = None
        self.text = ""

    @property
    def closed(self) -> bool:
        """Whether no more of them come."""
        return self._taken is not None

    @property
    def seconds(self) -> float:
        """How long they have taken so far."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    @property
    def summary(self) -> str:
        """A line about thoughts that are closed."""
        assert self._taken is not None
        return f"thought for {self._taken[0]:.0f} s, {self._taken[1]} tokens"

    def split(self, delta: str) -> tuple[str, str]:
        """The thoughts and the words of the answer that come with this delta."""
        return self._told(self._splitter.push(delta))

    def rest(self) -> tuple[str, str]:
        """Those that were held back, at the answer's end."""
        return self._told(self._splitter.finish())

    def close(self) -> None:
        """No more of them come; take their time."""
        self._taken = (self.seconds, self._source.n_tokens)

    def _told(self, parts: list[Part]) -> tuple[str, str]:
        thoughts = "".join(part.text for part in parts if part.thinking)
        if thoughts and self._began is None:
            self._began = time.monotonic()
        self.text += thoughts
        return thoughts, "".join(part.text for part in parts if not part.thinking)


def _dim(rows: list[Row]) -> list[Row]:
    return [tuple((text, DIM) for text, _ in row) for row in rows]
