"""Constraints on an answer's text, and the tokens that may follow under them.

The library llguidance does the work; only this module imports it. If only one text can follow, llguidance allows only
the tokens that the tokenizer makes of that text: the model was trained on those.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, Self

import llguidance
import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.prefix import common_prefix
from eftlocal.decoding.constraints import gbnf
from eftlocal.decoding.constraints import llguidance as notation
from eftlocal.decoding.constraints import schema as schemas
from eftlocal.errors import SettingError

__all__ = ["Constraint", "Grammars", "Matcher"]

LIMITS = llguidance.LLParserLimits(verbose_errors=False)
DEAD_END = "NoExtensionBias"  # llguidance's error if no token can follow and the text is not complete
KINDS = ("json_schema", "grammar", "regex", "choice")
REMEMBERED = 16  # how many compiled constraints are kept


@dataclass(frozen=True, slots=True)
class Constraint:
    """A restriction on an answer's text. Make it with one of the four class methods; they raise SettingError.

    An answer that ends by itself ("stop") is valid. An answer that is cut ("length", "context", "cancelled", or a stop
    string) may be only the beginning of a valid one; `Reply.complete` tells which. A model may write very long strings,
    lists and fractions where the constraint allows it; maxLength, maxItems and multipleOf in the schema limit them.
    """

    kind: Literal["json_schema", "grammar", "regex", "choice"]
    text: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not isinstance(self.text, str):
            raise SettingError(
                f"The constraint is ({self.kind!r}, {self.text!r}); it must be one of {', '.join(KINDS)}, and a text."
            )
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise _refused(self, f"character {error.start} is half of a surrogate pair") from None
        try:
            compiled = _compiled(self)
        except RecursionError:
            raise _too_deep(self.kind) from None
        except SettingError:
            raise
        except ValueError as error:  # from llguidance
            raise _refused(self, str(error)) from None
        problem = llguidance.LLMatcher.validate_grammar(compiled, limits=LIMITS)
        if problem:
            raise _refused(self, problem)
        _check_start(self, compiled)

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Self:
        """The answer is JSON, valid under a JSON Schema (draft 2020-12), given as JSON text or as Python values.

        Properties come in the schema's order. Keywords and formats that cannot be enforced (uniqueItems, not, ...) and
        keywords that JSON Schema does not have raise SettingError, unless the schema has
        `"x-guidance": {"lenient": true}`; then they are ignored. OpenAPI's `nullable` allows null. Numbers from 2^53 on
        are exact or raise SettingError. Dates are those of the calendar; times have no leap seconds.

        A schema in the form that OpenAI's API takes (`{"name": ..., "schema": {...}}`, also inside `"json_schema"` and
        `"response_format"`) is taken out of it.
        """
        value = schemas.unwrapped(_schema(schema))
        return cls("json_schema", json.dumps(value, ensure_ascii=False))

    @classmethod
    def grammar(cls, text: str) -> Self:
        """The answer matches the rule `root` of a context-free grammar in llama.cpp's notation (GBNF)."""
        return cls("grammar", text)

    @classmethod
    def regex(cls, pattern: str) -> Self:
        """The answer matches a regular expression from start to end (Rust's syntax, without look-around)."""
        if not pattern:
            raise SettingError("The regex is empty; it must have at least one character.")
        if isinstance(pattern, str) and schemas.ends_in_escape(pattern):
            raise SettingError("The regex cannot be used: it ends in a backslash.", r"Write \\ for a backslash.")
        return cls("regex", pattern)

    @classmethod
    def choice(cls, choices: Sequence[str]) -> Self:
        """The answer is one of these texts."""
        if isinstance(choices, str):
            raise SettingError(f"The choices are the text {choices[:40]!r}; they must be a list of texts.")
        choices = list(choices or ())
        if wrong := [each for each in choices if not isinstance(each, str)]:
            raise SettingError(f"A choice is {wrong[0]!r}; it must be a text.")
        if not choices or "" in choices:
            raise SettingError("A choice is empty; give one or more texts, each with at least one character.")
        return cls("choice", json.dumps(choices, ensure_ascii=False))


def _schema(schema: Mapping[str, Any] | str) -> dict[str, Any]:
    """A JSON schema as plain JSON values. Raises SettingError."""
    try:
        value = json.loads(schema) if isinstance(schema, str) else dict(schema)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise _too_deep("json_schema") from None
    except (TypeError, ValueError) as error:
        raise SettingError(f"The JSON schema is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise SettingError(f"The JSON schema is {text[:40]}; it must be an object.")
    plain: dict[str, Any] = json.loads(text)
    return plain


@lru_cache(REMEMBERED)
def _compiled(constraint: Constraint) -> str:
    """The constraint as a grammar in llguidance's own JSON format."""
    text, matcher = constraint.text, llguidance.LLMatcher
    if constraint.kind == "json_schema":
        # Allow only the white space that models mostly write: one blank after a colon or a comma. Unlimited white
        # space would let an answer go on for ever.
        return matcher.grammar_from_json_schema(
            json.dumps(schemas.enforceable(_schema(text)), ensure_ascii=False),
            defaults={"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"},
        )
    if constraint.kind == "grammar":
        return matcher.grammar_from_lark(notation.written(gbnf.productive(gbnf.read(text))))
    if constraint.kind == "regex":
        return matcher.grammar_from_regex(text)
    return matcher.grammar_from_lark(notation.choice(json.loads(text)))


def _name(kind: str) -> str:
    return {"json_schema": "JSON schema", "choice": "list of choices"}.get(kind, kind)


def _too_deep(kind: str) -> SettingError:
    return SettingError(f"The {_name(kind)} cannot be used: it is nested too deeply.")


def _check_start(constraint: Constraint, compiled: str) -> None:
    """Raise SettingError if no text can begin as the constraint says."""
    start = llguidance.LLMatcher(_bytes_as_tokens(), compiled, log_level=0, limits=LIMITS)
    if not start.is_error():  # too complex: `Grammars.matcher` tells
        start.compute_bitmask()
        if DEAD_END in start.get_error():
            raise SettingError(f"The {_name(constraint.kind)} cannot be used: nothing can satisfy it.")


def _refused(constraint: Constraint, error: str) -> SettingError:
    """The error of llguidance in our words, with the user's text and the place in it instead of llguidance's form."""
    found = error.replace("<non-verbose/>", "").partition("\n   1 | ")[0].strip()
    reason = found.rpartition("\nerror: ")[2] + "."  # before it, the regex with a mark
    hint = None
    if constraint.kind == "json_schema":
        reason, hint = _told(constraint, reason)
    elif "lookarounds not supported" in reason:
        reason = rf"look-around (\b, and ^ or $ inside the regex) is not supported: {constraint.text}"
    elif mark := re.search(r"parse error:\n    .*\n    ( *)\^", found):
        reason = f"{reason[:-1]}: {_marked(constraint.text, len(mark[1]))}"
    return SettingError(f"The {_name(constraint.kind)} cannot be used: {reason}", hint)


def _marked(pattern: str, place: int) -> str:
    """The regex with a mark at a place in llguidance's form of it, which writes / as \\/ and a line end as \\n."""
    escaped = re.compile(r"\\.|/|\n", re.DOTALL)
    at = 0
    while at < len(pattern) and place > 0:
        found = escaped.match(pattern, at)
        size = 1 if found is None else 2
        if place < size:
            break
        place -= size
        at += 1 if found is None else len(found[0])
    return f"character {at + 1}: {pattern[:at]}<here>{pattern[at:]}"


def _told(constraint: Constraint, reason: str) -> tuple[str, str | None]:
    """What llguidance says about a JSON schema, in our words, and a hint."""
    for path, pattern in schemas.patterns(json.loads(constraint.text)):
        try:
            Constraint.regex(pattern)
        except SettingError as error:
            if "nothing can satisfy" not in error.message:
                inner = error.message.partition("cannot be used: ")[2] or "it is empty"
                return f"the pattern{path and f' at {path}'}: {inner}", error.hint
    if "oneOf constraints" in reason:
        return (
            'the alternatives of a "oneOf" may overlap, and "exactly one" cannot be enforced.',
            f'Use "anyOf" instead, or {schemas.LENIENT}',
        )
    if "Failed to generate regex for" in reason:
        return "a number has a bound that is too large to be enforced exactly.", "Use bounds within 2^53."
    if "Regex is empty" in reason:
        return "nothing can satisfy it: no text matches its pattern, format and length together.", None
    if "only supported when all keys listed" in reason:
        return (
            '"minProperties" and "maxProperties" cannot be enforced beside properties that are not required.',
            f'List the properties in "required", or {schemas.LENIENT}',
        )
    if "recursion limit" in reason:
        return "it is nested too deeply.", None
    return reason.replace("Unsatisfiable schema: ", "nothing can satisfy it: "), None


@cache
def _bytes_as_tokens() -> llguidance.LLTokenizer:
    """A tokenizer whose tokens are the 256 bytes and an end: enough to see whether any text fits."""
    return Grammars([*(bytes([byte]) for byte in range(256)), b""], [256], lambda text: list(text.encode())).tokenizer


class Grammars:
    """An emulator's vocabulary in the form that llguidance needs, and the constraints compiled for it.

    pieces    each token's bytes; a token without bytes can only end an answer
    ends      the end-of-generation tokens; SettingError if there are none
    tokenize  the members' tokenizer
    """

    def __init__(self, pieces: Sequence[bytes], ends: Sequence[int], tokenize: Callable[[str], list[int]]) -> None:
        if not ends:
            raise SettingError("The models' vocabulary has no token that ends an answer. A constraint needs one.")
        self._pieces = pieces
        self._tokenize = tokenize
        # LLTokenizer reads these attributes of a tokenizer, and calls it.
        self.is_tokenizer_wrapper = True
        self.tokens = pieces
        self.special_token_ids = [i for i, piece in enumerate(pieces) if not piece]
        self.eos_token_id, self.bos_token_id = ends[0], None
        self.tokenizer = llguidance.LLTokenizer(self, eos_token=list(ends))  # type: ignore[arg-type]  # duck-typed
        self._compiled: dict[Constraint, llguidance.LLMatcher] = {}

    def __call__(self, text: str) -> list[int]:
        """Tokenizes a text that must follow. llguidance calls this; an exception here would make it panic."""
        tokens = self._tokenize(text)
        if self._bytes(tokens) == text.encode():
            return tokens
        # SentencePiece adds a blank at the start. So tokenize after a line end, and cut the line end off.
        tokens = self._tokenize(f"\n{text}")
        for i in range(len(tokens)):
            if self._bytes(tokens[i:]) == text.encode():
                return tokens[i:]
        return self.tokenizer.greedy_tokenize(text)

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._pieces[token] if token < len(self._pieces) else b"" for token in tokens)

    def matcher(self, constraint: Constraint) -> "Matcher":
        """A matcher for one answer. Raises SettingError if the constraint is too complex."""
        if constraint not in self._compiled:
            made = llguidance.LLMatcher(self.tokenizer, _compiled(constraint), log_level=0, limits=LIMITS)
            if made.is_error():
                raise _refused(constraint, made.get_error())
            while len(self._compiled) >= REMEMBERED:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[constraint] = made
        return Matcher(constraint, self._compiled[constraint], self.tokenizer)


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
            name = _name(self._constraint.kind)
            raise SettingError(
                f"The {name} cannot be satisfied: {after}no token of the models can follow, and the answer is not "
                "complete."
            )
        if error:
            raise _refused(self._constraint, f"after {len(self._fed)} tokens: {error}")
