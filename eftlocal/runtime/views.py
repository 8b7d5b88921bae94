"""Views: how a conversation becomes tokens for one member, by a sandboxed Jinja template.

Every view is a template; `transcript` and `raw` are two that ship here. What a user typed is never parsed for control
tokens, and an answer that the emulator generated keeps the very token ids it was made of.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import NamedTuple, NoReturn, Protocol

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eftlocal.errors import ViewError

ROLES = ("system", "user", "assistant")

RAW = "{% for message in messages %}{{ message.content }}{% endfor %}"
TRANSCRIPT = (
    "{% for message in messages %}"
    "{% if message.role != 'system' %}{{ message.role | capitalize }}:\n{% endif %}{{ message.content }}\n\n"
    "{% endfor %}Assistant:\n"
)
TRANSCRIPT_STOPS = ("\n\nUser:", "\n\nAssistant:")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `tokens`: the ids that an answer was generated as; their text is a prefix of `content`."""

    role: str
    content: str
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ViewError(f"A message has the role {self.role!r}.", f"Roles are {', '.join(ROLES)}.")


class Tokenizer(Protocol):
    """What a view needs of a model: its tokens, not its weights."""

    @property
    def bos(self) -> int | None: ...
    @property
    def add_bos(self) -> bool: ...
    @property
    def controls(self) -> Mapping[str, int]: ...
    @property
    def adds_space(self) -> bool: ...
    def strips(self, token: int) -> tuple[bool, bool]: ...
    def tokenize(self, text: str) -> list[int]: ...
    def piece(self, token: int) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A template and what it is rendered with, for one member.

    `variables` are the template's own (bos_token, eos_token, the emulator's template_args); `system`, where given,
    stands in for the conversation's system text for this member alone.
    """

    template: str
    variables: Mapping[str, object]
    stops: tuple[str, ...] = ()
    system: str | None = None

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The tokens of the conversation, up to where the next answer starts.

        A last message of the assistant's is left open: generation continues it. Raises ViewError when the template
        is broken or refuses the conversation, or when nothing at all would be left to start from.
        """
        opened: list[int] = []
        if messages and messages[-1].role == "assistant":
            *messages, last = messages
            opened = _opened(tokenizer, last)
        messages = self._with_system(messages)
        marks = _marks([self.template, *(m.content for m in messages)])
        tokens = _tokens(tokenizer, self._marked(tokenizer, messages, marks), messages, marks) + opened
        if tokenizer.add_bos and tokens[:1] != [tokenizer.bos]:  # the template may have written it already
            tokens.insert(0, _id(tokenizer.bos))
        if not tokens and tokenizer.bos is not None:
            tokens = [tokenizer.bos]
        if not tokens:
            raise ViewError("The prompt is empty.", "Give at least one character.")
        return tokens

    def text(self, messages: Sequence[Message]) -> str:
        """The conversation as this view writes it, for people to read. Raises ViewError."""
        messages = self._with_system(messages)
        return self._render(messages, [m.content for m in messages])

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system is None:
            return messages
        return [Message("system", self.system), *(m for m in messages if m.role != "system")]

    def _marked(self, tokenizer: Tokenizer, messages: Sequence[Message], marks: "_Marks") -> str:
        """The rendering, with typed control tokens broken up and generated answers bracketed.

        Only where the brackets leave the rendering as it is: a template that trims or compares answers sees them plain.
        """
        controls = _pattern(tuple(tokenizer.controls))
        texts = [marks.broken(m.content, controls) for m in messages]
        plain = self._render(messages, texts)
        answers = [bool(m.tokens) for m in messages]
        untrimmed = [bool(m.tokens) and m.content == m.content.strip() for m in messages]
        for chosen in (answers, untrimmed):
            bracketed = [marks.bracketed(t) if c else t for t, c in zip(texts, chosen, strict=True)]
            if any(chosen) and marks.unbracketed(rendered := self._render(messages, bracketed)) == plain:
                return rendered
        return plain

    def _render(self, messages: Sequence[Message], texts: Sequence[str]) -> str:
        given = [{"role": m.role, "content": text} for m, text in zip(messages, texts, strict=True)]
        try:
            return _compiled(self.template).render(messages=given, add_generation_prompt=True, **self.variables)
        except _RefusalError as refusal:
            raise ViewError(
                f"The chat template refuses this conversation: {_line(refusal)}", "Another view may take it."
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise ViewError(f"The chat template is broken at line {error.lineno}: {error.message}") from error
        except _TEMPLATE_ERRORS as error:
            raise ViewError(f"The chat template fails on this conversation: {_line(error)}") from error


# What a template's own code may raise; a recursive macro among them, and a text that does not fit in memory.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _id(token: int | None) -> int:
    assert token is not None
    return token


# --- text to tokens -------------------------------------------------------------------------------------------------


class _Marks(NamedTuple):
    """Three characters that occur in no text of a conversation; they mark places in what a template is given."""

    opening: str
    closing: str
    cut: str

    def broken(self, text: str, controls: re.Pattern[str]) -> str:
        """`text` with a cut after each character of a control token's text, so that none is found in it."""
        return controls.sub(lambda found: "".join(c + self.cut for c in found[0]), text)

    def bracketed(self, text: str) -> str:
        return f"{self.opening}{text}{self.closing}"

    def unbracketed(self, text: str) -> str:
        return text.replace(self.opening, "").replace(self.closing, "")

    def off(self, text: str) -> str:
        """`text` without any mark."""
        return self.unbracketed(text).replace(self.cut, "")


def _marks(texts: Sequence[str]) -> _Marks:
    """Marks for these texts: Unicode's noncharacters, which hardly any text holds, or what else they do not."""
    joined = "".join(texts)
    return _Marks(*islice((c for c in map(chr, range(0xFDD0, 0x110000)) if c not in joined), 3))


def _tokens(tokenizer: Tokenizer, rendered: str, messages: Sequence[Message], marks: _Marks) -> list[int]:
    """Token ids of a rendered template: control tokens by id, generated answers by their ids, the rest as text."""
    answers = iter([m for m in messages if m.tokens])
    tokens: list[int] = []
    run = ""  # text that is tokenized in one piece, across the border of template and message

    def flush() -> None:
        nonlocal run
        if text := marks.off(run):
            tokens.extend(tokenizer.tokenize(text))
        run = ""

    strip = False
    for text, control in _split(rendered, tokenizer.controls, marks):
        if control is not None:
            left, strip = tokenizer.strips(control)
            if left:
                run = run.rstrip()
            flush()
            tokens.append(control)
            continue
        if strip:
            text, strip = text.lstrip(), False
        spliced = _splice(tokenizer, marks.off(text), answers) if text.startswith(marks.opening) else None
        if spliced is None:
            run += text
        else:
            flush()
            ids, rest = spliced
            tokens += ids
            run = rest
    flush()
    return tokens


def _split(rendered: str, controls: Mapping[str, int], marks: _Marks) -> Iterator[tuple[str, int | None]]:
    """The parts of a rendering in order: (text, None), or (its text, its id) for a control token."""
    opening, closing, cut = marks
    # (A control token of one character that was typed is told from a written one by the cut behind it.)
    parts = re.compile(f"({opening}[^{opening}{closing}]*{closing})|({_pattern(tuple(controls)).pattern})(?!{cut})")
    end = 0
    for found in parts.finditer(rendered):
        if found.start() > end:
            yield rendered[end : found.start()], None
        yield found[0], None if found[1] else controls[found[2]]
        end = found.end()
    if end < len(rendered):
        yield rendered[end:], None


def _splice(tokenizer: Tokenizer, content: str, answers: Iterator[Message]) -> tuple[list[int], str] | None:
    """The ids of the generated answer whose text is `content`, and what its text has beyond them.

    None where there are no such ids, or where the tokenizer would put a space after them.
    """
    for answer in answers:  # templates may leave answers out, but keep their order
        if answer.content == content:
            ids, rest = _generated(tokenizer, answer)
            return (ids, rest) if ids and not tokenizer.adds_space else None
    return None


def _generated(tokenizer: Tokenizer, answer: Message) -> tuple[list[int], str]:
    """The ids that an answer was generated as and what its text has beyond them; no ids where they do not fit it."""
    covered = b"".join(map(tokenizer.piece, answer.tokens)).decode("utf-8", "replace")
    if not answer.content.startswith(covered):
        return [], answer.content
    return list(answer.tokens), answer.content[len(covered) :]


def _opened(tokenizer: Tokenizer, answer: Message) -> list[int]:
    """The ids of an answer that is to go on."""
    ids, rest = _generated(tokenizer, answer)
    if ids:
        rest = rest.rstrip("\ufffd")  # a character that max_tokens cut in half is generated again, whole
    if ids and rest and tokenizer.adds_space:
        ids, rest = [], answer.content
    return ids + (tokenizer.tokenize(rest) if rest else [])


@cache
def _pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    """Matches any control token's text, the longest first, as llama.cpp's tokenizer_st_partition does."""
    texts = sorted((c for c in controls if c), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


# --- Jinja ----------------------------------------------------------------------------------------------------------


class _RefusalError(Exception):
    """What a template says through raise_exception."""


def _raise_exception(message: str) -> NoReturn:
    raise _RefusalError(message)


class _Generation(Extension):
    """`{% generation %}`, by which templates mark what training counts (SmolLM3's does): here only its body."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: object, indent: int | None = None) -> str:
    """JSON as it is; Jinja's own filter writes `<` and `'` for HTML, as \\u003c and \\u0027."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that Hugging Face's apply_chat_template gives to templates, sandboxed alike."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _tojson
    return environment


@cache
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)
