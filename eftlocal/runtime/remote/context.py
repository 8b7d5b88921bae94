"""The context of a member on a server: token lists are kept here, and the server's own prefix cache does the rest."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from eftlocal.arithmetic.arrays import Logits
from eftlocal.errors import DecodeError
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.remote.ahead import Ahead
from eftlocal.runtime.remote.engines import Asked, Row, mass, no_row
from eftlocal.runtime.remote.link import Link

__all__ = ["TOP", "WHOLE", "RemoteContext"]


TOP: Final = 1000  # tokens that are asked for at each position, if the user says nothing else
WHOLE: Final = 4096  # a vocabulary of at most so many tokens is always asked for as a whole
MORE: Final = 8  # so many times as many tokens are asked for where too few are known
UNBOUNDED: Final = 1 << 30


class RemoteContext:
    """Holds sequences as lists of tokens, and asks a server for the rows that are wanted.

    Rows are log-probabilities. Of a row that is not whole, only the likeliest tokens are known: the others are -inf
    (arithmetic/partial.py says what follows). Tokens without rows are sent with the next that have some.
    """

    n_batch = max_rows = UNBOUNDED
    rewinds = True

    def __init__(self, link: Link, *, n_vocab: int, n_real: int, n_ctx: int, n_seq: int = 1) -> None:
        """n_vocab: the width of the rows, as the vocabulary on this machine has it; the first n_real are no padding."""
        self.link = link
        self.n_vocab, self.n_real, self.n_ctx, self.n_fed = n_vocab, n_real, n_ctx, 0
        most = UNBOUNDED if link.facts.most is None else link.facts.most
        wanted = link.server.top or (n_vocab if n_vocab <= WHOLE else TOP)
        self.top = min(wanted, most)
        self._whole = min(max(n_vocab, link.facts.n_vocab or 0), most)
        self._tokens: list[list[int]] = [[] for _ in range(n_seq)]
        self._ahead: dict[int, Ahead] = {}  # sequence -> its prompt, which the server reads already

    def held(self, sequence: int) -> int:
        return len(self._tokens[sequence])

    def rewind(self, sequence: int, n: int) -> int:
        del self._tokens[sequence][n:]
        return len(self._tokens[sequence])

    def fork(self, source: int, target: int, n: int) -> int:
        self._tokens[target] = self._tokens[source][:n]
        return len(self._tokens[target])

    def expect(self, sequence: int, prompt: Sequence[int]) -> None:
        """The server begins to read the prompt now, if it computes so many sequences at a time."""
        before = self._ahead.get(sequence)
        if before is not None and prompt and before.begins(prompt):
            return
        self._drop(sequence)
        known = all(0 <= token < self.n_vocab for token in prompt)  # `feed` says it of one that is not
        if known and 1 < len(prompt) <= self.n_ctx and sequence < self.link.facts.parallel:
            self._ahead[sequence] = Ahead(self.link, sequence, prompt)

    def feed(self, feeds: Sequence[Feed]) -> Logits:
        asked: list[Asked] = []
        for sequence, tokens, rows, whole in feeds:
            if self.held(sequence) + len(tokens) > self.n_ctx:
                n = self.held(sequence) + len(tokens)
                raise DecodeError(f"{self.link.server.url}: {n} tokens do not fit in a context of {self.n_ctx}")
            if whole and self._whole < self.n_vocab:
                raise DecodeError(
                    f"{self.link.server.url} gives at most {self._whole:,} tokens of a row, and all are needed here.",
                    "Start vLLM with --max-logprobs -1.",
                )
            if (bad := next((t for t in tokens if not 0 <= t < self.n_vocab), None)) is not None:
                # an id that it does not know ends SGLang's process
                raise DecodeError(f"{self.link.server.url}: token {bad} is not in a vocabulary of {self.n_vocab}")
            known = [*self._tokens[sequence], *tokens]
            if rows:
                for place, ahead in list(self._ahead.items()):  # the engine may have moved the sequence
                    if ahead.begins(known):
                        ahead.wait()
                        self._drop(place)
                self._drop(sequence)
                first = len(known) - rows + 1
                asked.append(Asked(sequence, known[:first], known[first:], self._whole if whole else self.top))
        answers = self.link.rows(asked) if asked else []
        found = [
            self._useful(one, i, row) for one, rows in zip(asked, answers, strict=True) for i, row in enumerate(rows)
        ]
        z = self._array(found)
        for sequence, tokens, _, _ in feeds:
            self._tokens[sequence] += tokens
            self.n_fed += len(tokens)
        return z

    def more(self, sequence: int, tokens: Sequence[int], known: int) -> Logits | None:
        """The row after `tokens`, (n_vocab,), with more tokens known than `known`; None where there are no more."""
        if known >= min(self._whole, self.link.facts.n_vocab or self._whole):
            return None
        row = self._longer(Asked(sequence, tokens, (), max(known, self.top)), known)
        return None if row is None else self._array([row])[0]

    def _useful(self, asked: Asked, i: int, row: Row) -> Row:
        """Row `i` of what was asked for, or a longer one if all its tokens are padding."""
        if self._n_known(row):
            return row
        before = [*asked.tokens, *asked.forced[:i]]
        return self._longer(Asked(asked.sequence, before, (), asked.top), 0) or row

    def _longer(self, asked: Asked, known: int) -> Row | None:
        """The row with more than `known` tokens that are no padding; None if the server gives no more."""
        top = asked.top
        while top < self._whole:
            top = min(top * MORE, self._whole)
            row = self.link.rows([asked._replace(top=top)])[0][0]
            if self._n_known(row) > known:
                return row
        return None

    def _n_known(self, row: Row) -> int:
        return int(np.count_nonzero(row.ids < self.n_real))

    def _array(self, rows: Sequence[Row]) -> Logits:
        out = np.full((len(rows), self.n_vocab), -np.inf, np.float32)
        for z, row in zip(out, rows, strict=True):
            # The k likeliest of n tokens have at least k / n. Logits have less, where all are far below 0.
            if mass(row.logprobs) < len(row.ids) / max(self.n_vocab, self.link.facts.n_vocab or 0) / 2:
                raise no_row(self.link.server.url)
            inside = row.ids < self.n_vocab  # the server's may have more padding
            z[row.ids[inside]] = row.logprobs[inside]
        return out

    def saved(self) -> Mapping[int, list[int]]:
        return {i: list(tokens) for i, tokens in enumerate(self._tokens) if tokens}

    def restore(self, saved: Mapping[int, list[int]]) -> None:
        for sequence, tokens in saved.items():
            if sequence < len(self._tokens) and len(tokens) <= self.n_ctx:
                self._tokens[sequence] = list(tokens)

    def set_threads(self, n: int) -> None:
        """Nothing: the server has its own."""

    def close(self) -> None:
        """Drop what is read ahead. The link belongs to who made it."""
        for sequence in list(self._ahead):
            self._drop(sequence)

    def _drop(self, sequence: int) -> None:
        if (ahead := self._ahead.pop(sequence, None)) is not None:
            ahead.drop()
