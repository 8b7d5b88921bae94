"""Views: how a conversation becomes tokens for one member, by a sandboxed Jinja template.

Every view is a template; `transcript` and `raw` are two that ship here. What a user typed is never parsed for control
tokens, and an answer that the emulator generated keeps the very token ids it was made of.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import NoReturn, Protocol

import jinja2
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

# Unicode noncharacters, which no text may hold: they mark places in what a template is given.
_OPEN, _CLOSE, _BREAK = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = str.maketrans(dict.fromkeys((_OPEN, _CLOSE, _BREAK), "\ufffd"))
_UNMARK = str.maketrans(dict.fromkeys((_OPEN, _CLOSE, _BREAK)))


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
            opened = list(last.tokens) or tokenizer.tokenize(last.content)
        if self.system is not None:
            messages = [Message("system", self.system), *(m for m in messages if m.role != "system")]
        tokens = _tokens(tokenizer, self._render(tokenizer, messages), messages) + opened
        if tokenizer.add_bos and tokens[:1] != [tokenizer.bos]:  # the template may have written it already
            tokens.insert(0, _id(tokenizer.bos))
        if not tokens and tokenizer.bos is not None:
            tokens = [tokenizer.bos]
        if not tokens:
            raise ViewError("The prompt is empty.", "Give at least one character.")
        return tokens

    def _render(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
        controls = _pattern(tuple(tokenizer.controls))
        given = [{"role": m.role, "content": _marked(m, controls)} for m in messages]
        try:
            return _compiled(self.template).render(messages=given, add_generation_prompt=True, **self.variables)
        except _RefusalError as refusal:
            raise ViewError(
                f"The chat template refuses this conversation: {refusal}", "Another view may take it."
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise ViewError(f"The chat template is broken at line {error.lineno}: {error.message}") from error
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise ViewError(f"The chat template fails on this conversation: {error}") from error


def _id(token: int | None) -> int:
    assert token is not None
    return token


# --- text to tokens -------------------------------------------------------------------------------------------------


def _marked(message: Message, controls: re.Pattern[str]) -> str:
    """A message's text as the template sees it: typed control tokens broken up, a generated answer bracketed."""
    text = message.content.translate(_MARKS)
    text = controls.sub(lambda found: found[0][:1] + _BREAK + found[0][1:] if found[0] else "", text)
    return f"{_OPEN}{text}{_CLOSE}" if message.tokens else text


def _tokens(tokenizer: Tokenizer, rendered: str, messages: Sequence[Message]) -> list[int]:
    """Token ids of a rendered template: control tokens by id, generated answers by their ids, the rest as text."""
    answers = iter([m for m in messages if m.tokens])
    tokens: list[int] = []
    run = ""  # text that is tokenized in one piece, across the border of template and message

    def flush() -> None:
        nonlocal run
        if text := run.translate(_UNMARK):
            tokens.extend(tokenizer.tokenize(text))
        run = ""

    strip = False
    for text, control in _split(rendered, tokenizer.controls):
        if control is not None:
            left, strip = tokenizer.strips(control)
            if left:
                run = run.rstrip()
            flush()
            tokens.append(control)
            continue
        if strip:
            text, strip = text.lstrip(), False
        spliced = _splice(tokenizer, text, answers) if text.startswith(_OPEN) else None
        if spliced is None:
            run += text
        else:
            flush()
            ids, rest = spliced
            tokens += ids
            run = rest
    flush()
    return tokens


def _split(rendered: str, controls: Mapping[str, int]) -> Iterator[tuple[str, int | None]]:
    """The parts of a rendering in order: (text, None), or (its text, its id) for a control token."""
    parts = re.compile(f"({_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE})|({_pattern(tuple(controls)).pattern})")
    end = 0
    for found in parts.finditer(rendered):
        if found.start() > end:
            yield rendered[end : found.start()], None
        yield found[0], None if found[1] else controls[found[2]]
        end = found.end()
    if end < len(rendered):
        yield rendered[end:], None


def _splice(tokenizer: Tokenizer, text: str, answers: Iterator[Message]) -> tuple[tuple[int, ...], str] | None:
    """The ids of the generated answer that `text` brackets, and what its text has beyond them.

    None where the template changed the text, or where the tokenizer would put a space after the ids.
    """
    content = text.translate(_UNMARK)
    for answer in answers:  # templates may leave answers out, but keep their order
        if answer.content == content:
            covered = b"".join(map(tokenizer.piece, answer.tokens)).decode("utf-8", "replace")
            if content.startswith(covered) and not tokenizer.adds_space:
                return answer.tokens, content[len(covered) :]
            return None
    return None


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


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that Hugging Face's apply_chat_template gives to templates, sandboxed alike."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": False}
    return environment


@cache
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)
