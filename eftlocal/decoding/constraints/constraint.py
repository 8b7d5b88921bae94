"""Constraints on an answer's text: read, checked, and compiled for llguidance, whose library does the work."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, Literal, Self

import llguidance

from eftlocal.decoding.constraints import gbnf
from eftlocal.decoding.constraints import llguidance as notation
from eftlocal.decoding.constraints import schema as schemas
from eftlocal.decoding.constraints.refusals import DEAD_END, name_of, refused, too_deep
from eftlocal.decoding.constraints.vocabulary import Vocabulary
from eftlocal.errors import SettingError

__all__ = ["LIMITS", "REMEMBERED", "Constraint", "compiled"]

LIMITS: Final = llguidance.LLParserLimits(verbose_errors=False)
KINDS: Final = ("json_schema", "grammar", "regex", "choice")
REMEMBERED: Final = 16  # how many compiled constraints are kept


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
            grammar = compiled(self)
        except RecursionError:
            raise too_deep(self.kind) from None
        except SettingError:
            raise
        except ValueError as error:  # from llguidance
            raise _refused(self, str(error)) from None
        problem = llguidance.LLMatcher.validate_grammar(grammar, limits=LIMITS)
        if problem:
            raise _refused(self, problem)
        _check_start(self, grammar)

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
        raise too_deep("json_schema") from None
    except (TypeError, ValueError) as error:
        raise SettingError(f"The JSON schema is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise SettingError(f"The JSON schema is {text[:40]}; it must be an object.")
    plain: dict[str, Any] = json.loads(text)
    return plain


@lru_cache(REMEMBERED)
def compiled(constraint: Constraint) -> str:
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


def _check_start(constraint: Constraint, grammar: str) -> None:
    """Raise SettingError if no text can begin as the constraint says."""
    start = llguidance.LLMatcher(_bytes_as_tokens(), grammar, log_level=0, limits=LIMITS)
    if not start.is_error():  # too complex: `Grammars.matcher` tells
        start.compute_bitmask()
        if DEAD_END in start.get_error():
            raise SettingError(f"The {name_of(constraint.kind)} cannot be used: nothing can satisfy it.")


@cache
def _bytes_as_tokens() -> llguidance.LLTokenizer:
    """A tokenizer whose tokens are the 256 bytes and an end: enough to see whether any text fits."""
    return Vocabulary([*(bytes([byte]) for byte in range(256)), b""], [256], lambda text: list(text.encode())).tokenizer


def _refused(constraint: Constraint, error: str) -> SettingError:
    """Why a constraint cannot be used. A pattern of a schema is told as a regex by itself is, with its place."""
    if constraint.kind == "json_schema":
        for path, pattern in schemas.patterns(json.loads(constraint.text)):
            try:
                Constraint.regex(pattern)
            except SettingError as wrong:
                if "nothing can satisfy" not in wrong.message:
                    inner = wrong.message.partition("cannot be used: ")[2] or "it is empty"
                    where = f"the pattern{path and f' at {path}'}"
                    return SettingError(f"The JSON schema cannot be used: {where}: {inner}", wrong.hint)
    return refused(constraint.kind, constraint.text, error)
