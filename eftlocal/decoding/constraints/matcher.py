"""The tokens that may follow in an answer under a constraint.

If only one text can follow, llguidance allows only the tokens that the tokenizer makes of that text: the model was
trained on those.
"""

from collections.abc import Callable, Sequence

import llguidance
import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.decoding.constraints.constraint import LIMITS, REMEMBERED, Constraint, compiled
from eftlocal.decoding.constraints.refusals import DEAD_END, name_of, refused
from eftlocal.decoding.constraints.vocabulary import Vocabulary
from eftlocal.errors import SettingError

__all__ = ["Grammars", "Matcher"]


class Grammars:
    """The constraints that are compiled for one vocabulary. Arguments as `Vocabulary`."""

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int], tokenize: Callable[[str], list[int]]) -> None:
        self._tokenizer = Vocabulary(pieces, ends, tokenize).tokenizer
        self._compiled: dict[Constraint, llguidance.LLMatcher] = {}

    def matcher(self, constraint: Constraint) -> "Matcher":
        """A matcher for one answer. Raises SettingError if the constraint is too complex."""
        if constraint not in self._compiled:
            made = llguidance.LLMatcher(self._tokenizer, compiled(constraint), log_level=0, limits=LIMITS)
            if made.is_error():
                raise refused(constraint.kind, constraint.text, made.get_error())
            while len(self._compiled) >= REMEMBERED:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[constraint] = made
        return Matcher(constraint, self._compiled[constraint], self._tokenizer)


class Matcher:
    """Tells which tokens may follow in one answer.

    Each method takes all tokens of the answer so far. The matcher first rolls back or reads on to exactly these.
    """

    def __init__(self, constraint: Constraint, start: llguidance.LLMatcher, tokenizer: llguidance.LLTokenizer) -> None:
        self._constraint = constraint
        self._start = start  # it never reads a token; copies of it do
        self._tokenizer = tokenizer
        self._matcher = start.deep_copy()
        self._fed: list[int] = []
        self._mask = np.zeros((tokenizer.vocab_size + 31) // 32, np.uint32)  # one bit for each token

    def allowed(self, tokens: list[int]) -> NDArray[np.bool_]:
        """(n_real,) which tokens may follow. An end is allowed if the answer is complete or nothing else can follow.

        Raises SettingError if the constraint is too complex, and if no token can follow a text that is not complete.
        """
        self._at(tokens)
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        return bits[: self._tokenizer.vocab_size].view(np.bool_)

    def forced(self, tokens: list[int]) -> list[int]:
        """The next tokens that have no alternative; empty if there is a choice."""
        self._at(tokens)
        return [] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    def ended(self, tokens: list[int]) -> bool:
        """Whether the answer is complete and no token can follow. Raises as `allowed`."""
        self._at(tokens)
        self._check()
        return self._matcher.is_stopped()

    def fitting(self, tokens: list[int], guesses: list[int]) -> int:
        """How many of the first guesses the constraint allows."""
        self._at(tokens)
        return 0 if self._matcher.is_stopped() else self._matcher.validate_tokens(guesses)

    def complete(self, text: str) -> bool:
        """Whether a text is a complete answer, not only the beginning of one."""
        matcher = self._start.deep_copy()
        tokens = self._tokenizer.greedy_tokenize(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def _at(self, tokens: list[int]) -> None:
        kept = common_prefix(self._fed, tokens)
        if kept < len(self._fed) and not self._matcher.rollback(len(self._fed) - kept):
            self._matcher, kept = self._start.deep_copy(), 0  # no rollback after an error
        del self._fed[kept:]
        if new := tokens[kept:]:
            self._fed += new
            self._matcher.consume_tokens(new)

    def _check(self) -> None:
        error = self._matcher.get_error()
        if DEAD_END in error:
            after = f"after {len(self._fed)} tokens of the answer, " if self._fed else ""
            name = name_of(self._constraint.kind)
            raise SettingError(
                f"The {name} cannot be satisfied: {after}no token of the models can follow, and the answer is not "
                "complete."
            )
        if error:
            raise refused(self._constraint.kind, self._constraint.text, f"after {len(self._fed)} tokens: {error}")
