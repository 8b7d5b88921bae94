"""Renders chat templates as transformers' apply_chat_template does: the same sandbox, filters and variables."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from functools import cache
from itertools import product
from typing import Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eftlocal.errors import ViewError

__all__ = ["asks_for_date", "render"]

NOTHING: Final[Mapping[str, object]] = {"tools": None, "documents": None}  # what transformers gives without any
PROBE: Final = "eftlocal"


class RefusedError(ViewError):
    """A template refused the conversation by calling raise_exception. Another form of it would not be right either."""


def render(
    template: str, turns: Sequence[tuple[str, str]], variables: Mapping[str, object], day: date | None = None
) -> str:
    """Renders (role, text) turns, up to where the next answer starts. Raises ViewError.

    `strftime_now` gives the midnight of `day`; None is the present.
    A template that cannot be rendered as transformers does is rendered in another way: with contents as lists of
    parts, as templates of models that also see images read them, or without the variables `tools` and `documents`.
    """
    if day is not None:
        variables = {"strftime_now": datetime.combine(day, time()).strftime, **variables}
    first: ViewError | None = None
    for form, nothing in product(_forms(template), (NOTHING, {})):
        messages = [{"role": role, "content": form(text)} for role, text in turns]
        try:
            return _written(template, messages, {**nothing, **variables})
        except RefusedError:
            raise
        except ViewError as error:
            first = first or error
    assert first is not None
    raise first


def asks_for_date(template: str) -> bool:
    """Whether what a template writes may depend on the date."""
    return "strftime_now" in template


def _written(template: str, messages: Sequence[Mapping[str, object]], variables: Mapping[str, object]) -> str:
    try:
        return _compiled(template).render(messages=messages, add_generation_prompt=True, **variables)
    except _RefusalError as refusal:
        raise RefusedError(
            f"The chat template refuses this conversation: {_line(refusal)}", "Another view may accept it."
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise ViewError(f"The chat template is broken at line {error.lineno}: {error.message}") from error
    except _TEMPLATE_ERRORS as error:
        raise ViewError(f"The chat template fails on this conversation: {_line(error)}") from error


def _text(text: str) -> object:
    return text


def _parts(text: str) -> object:
    return [{"type": "text", "text": text}]


@cache
def _forms(template: str) -> Sequence[Callable[[str], object]]:
    """The forms of a content that a template writes, strings first. Some write nothing of the other form, silently."""

    def writes(content: object, nothing: Mapping[str, object]) -> bool:
        try:
            variables = {**nothing, "bos_token": "", "eos_token": ""}
            written = _written(template, [{"role": "user", "content": content}], variables)
        except ViewError:
            return False
        return PROBE in written and not re.search("['\"]type['\"]", written)  # not a list that is shown as a list

    return [f for f in (_text, _parts) if writes(f(PROBE), NOTHING) or writes(f(PROBE), {})] or [_text]


# What a template's own code may raise, as with a recursive macro or a text that does not fit in memory.
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
    """Returns an error's text as one line, or its type when there is no text."""
    return " ".join(str(error).split()) or type(error).__name__


# --- the environment --------------------------------------------------------------------------------------------------


class _RefusalError(Exception):
    """Raised inside a template by raise_exception."""


def _raise_exception(message: str) -> NoReturn:
    raise _RefusalError(message)


class _Generation(Extension):
    """The tag `{% generation %}`, which marks text to train on (as in SmolLM3's template). Only its body remains."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it this way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of transformers, plain JSON. Jinja's own escapes `<` and `'` for HTML (\\u003c, \\u0027).

    Noncharacters stay as they are also with `ensure_ascii`, since they are the marks of `_Marks`.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    return _UNMARKED.sub(lambda found: json.dumps(found[0])[1:-1], text) if ensure_ascii else text


_UNMARKED = re.compile("[^\x00-\x7f\ufdd0-\ufdef]+")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that Hugging Face's apply_chat_template gives to templates, with the same sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _tojson
    return environment


@cache
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)
