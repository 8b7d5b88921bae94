"""Constrained output: which tokens may follow, so that an answer is what a schema, grammar, regex or choice says.

llguidance decides it; nothing else imports it. Where only one text can follow, it allows that text's own tokenization
alone: the tokens a model was trained on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import llguidance
import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.decoding.constraints import gbnf
from eftlocal.decoding.constraints import llguidance as notation
from eftlocal.errors import SettingError

__all__ = ["Constraint", "Grammars", "Matcher"]

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
REMEMBERED = 16  # constraints that are kept compiled


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer has to be as a whole; made by one of the four functions, which raise SettingError.

    It holds for every token: an answer that ends by itself ("stop") is valid. One that is cut ("length", "context",
    "cancelled", or a stop string) may be a beginning only: `Reply.complete` tells. Strings, lists and fractions are as
    long as the constraint lets them be: a schema says maxLength, maxItems and multipleOf where a model may ramble.
    """

    kind: Literal["json_schema", "grammar", "regex", "choice"]
    text: str

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise _refused(self, f"character {error.start} is half of a surrogate pair") from None
        problem = llguidance.LLMatcher.validate_grammar(_compiled(self), limits=LIMITS)
        if problem:
            raise _refused(self, problem)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Self:
        """JSON that is valid under a JSON Schema (draft 2020-12), given as JSON text or as Python values.

        Properties come in the schema's order. What cannot be enforced (uniqueItems, not, ...) is an error, unless
        the schema says `"x-guidance": {"lenient": true}`.
        """
        try:
            value = json.loads(schema) if isinstance(schema, str) else dict(schema)
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SettingError(f"The JSON schema is no JSON: {error}.") from None
        if not isinstance(value, dict):
            raise SettingError(f"The JSON schema is {text[:40]}; it must be an object.")
        return cls("json_schema", text)

    @classmethod
    def grammar(cls, text: str) -> Self:
        """Text of a context-free grammar in llama.cpp's notation (GBNF); it starts with the rule `root`."""
        return cls("grammar", text)

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """Text that a regular expression matches from end to end (Rust's syntax, without look-around)."""
        if not pattern:
            raise SettingError("The regex is empty.")
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Self:
        """One of these texts."""
        if isinstance(choices, str) or not choices or "" in choices:
            raise SettingError("A choice is empty; give one text or more, each of one character at least.")
        return cls("choice", json.dumps(list(choices), ensure_ascii=False))


@lru_cache(REMEMBERED)
def _compiled(constraint: Constraint) -> str:
    """The constraint as llguidance takes it."""
    text, matcher = constraint.text, llguidance.LLMatcher
    if constraint.kind == "json_schema":
        # Of white space what models like to write, a blank after a colon or a comma: no more, lest one never ends.
        return matcher.grammar_from_json_schema(
            text, defaults={"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
        )
    if constraint.kind == "grammar":
        return matcher.grammar_from_lark(notation.written(gbnf.read(text)))
    if constraint.kind == "regex":
        return matcher.grammar_from_regex(text)
    return matcher.grammar_from_lark(notation.choice(json.loads(text)))


def _refused(constraint: Constraint, error: str) -> SettingError:
    name = {"json_schema": "JSON schema", "choice": "list of choices"}.get(constraint.kind, constraint.kind)
    reason = error.replace("<non-verbose/>", "").partition("\n   1 | ")[0]  # behind it stands what was made of the text
    reason = reason.rpartition("\nerror: ")[2].strip()  # after a picture of where in the regex
    lenient = 'With "x-guidance": {"lenient": true} in the schema it is ignored, and answers may not obey it.'
    return SettingError(f"The {name} cannot be used: {reason}.", lenient if "Unimplemented" in reason else None)


class Grammars:
    """An emulator's vocabulary as llguidance wants it, and the constraints that were compiled for it.

    pieces: each token's bytes; those that stand for no text can only end an answer. ends: the end-of-generation
    tokens. tokenize: the members' own tokenizer.
    """

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int], tokenize: Callable[[str], list[int]]) -> None:
        if not ends:
            raise SettingError("The members' vocabulary has no token that ends an answer, which a constraint needs.")
        self._pieces = pieces
        self._tokenize = tokenize
        # What LLTokenizer asks of a tokenizer, besides being called.
        self.is_tokenizer_wrapper = True
        self.tokens = pieces
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.eos_token_id, self.bos_token_id = ends[0], None
        self._tokenizer = llguidance.LLTokenizer(self, eos_token=list(ends))  # type: ignore[arg-type]  # duck-typed
        self._compiled: dict[Constraint, llguidance.LLMatcher] = {}

    def __call__(self, text: str) -> list[int]:
        """The tokens of a forced text; an exception here would be a panic in llguidance."""
        tokens = self._tokenize(text)
        if self._bytes(tokens) == text.encode():
            return tokens
        # SentencePiece puts a blank first: tokenize behind a line end, and cut there.
        tokens = self._tokenize(f"\n{text}")
        for i in range(len(tokens)):
            if self._bytes(tokens[i:]) == text.encode():
                return tokens[i:]
        return self._tokenizer.greedy_tokenize(text)

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._pieces[token] if token < len(self._pieces) else b"" for token in tokens)

    def matcher(self, constraint: Constraint) -> "Matcher":
        """A matcher for one answer. Raises SettingError where the constraint is too complex."""
        if constraint not in self._compiled:
            made = llguidance.LLMatcher(self._tokenizer, _compiled(constraint), log_level=0, limits=LIMITS)
            if made.is_error():
                raise _refused(constraint, made.get_error())
            while len(self._compiled) >= REMEMBERED:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[constraint] = made
        return Matcher(constraint, self._compiled[constraint], self._tokenizer)


class Matcher:
    """What may follow in one answer. Every question names the answer's tokens: it is rolled back or fed to them."""

    def __init__(self, constraint: Constraint, start: llguidance.LLMatcher, tokenizer: llguidance.LLTokenizer) -> None:
        self._constraint = constraint
        self._start = start  # never fed: what others are copied from
        self._tokenizer = tokenizer
        self._matcher = start.deep_copy()
        self._fed: list[int] = []
        self._mask = np.zeros((tokenizer.vocab_size + 31) // 32, np.uint32)  # a bit for each token

    def allowed(self, tokens: list[int]) -> NDArray[np.bool_]:
        """(n_real,) which tokens may follow: an end where the answer is complete, or where nothing else can follow.

        Raises SettingError where the constraint is too complex.
        """
        self._at(tokens)
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        return bits[: self._tokenizer.vocab_size].view(np.bool_)

    def forced(self, tokens: list[int]) -> list[int]:
        """The tokens that have to follow, as far as there is no choice."""
        self._at(tokens)
        return [] if self._matcher.is_stopped() else self._matcher.compute_ff_tokens()

    def ended(self, tokens: list[int]) -> bool:
        """Whether nothing can follow."""
        self._at(tokens)
        self._check()
        return self._matcher.is_stopped()

    def fitting(self, tokens: list[int], guesses: list[int]) -> int:
        """How many of the guesses the constraint lets follow."""
        self._at(tokens)
        return 0 if self._matcher.is_stopped() else self._matcher.validate_tokens(guesses)

    def complete(self, text: str) -> bool:
        """Whether a text is a whole answer, not only the beginning of one."""
        matcher = self._start.deep_copy()
        tokens = self._tokenizer.greedy_tokenize(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    def _at(self, tokens: list[int]) -> None:
        kept = common_prefix(self._fed, tokens)
        if kept < len(self._fed) and not self._matcher.rollback(len(self._fed) - kept):
            self._matcher, kept = self._start.deep_copy(), 0  # after an error nothing can be taken back
        del self._fed[kept:]
        if new := tokens[kept:]:
            self._fed += new
            self._matcher.consume_tokens(new)

    def _check(self) -> None:
        error = self._matcher.get_error()
        if error and "NoExtensionBias" not in error:  # which is: no token of this vocabulary can follow
            raise _refused(self._constraint, f"after {len(self._fed)} tokens: {error}")
