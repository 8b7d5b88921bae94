"""Reads the fields of requests. A known field with a wrong value is an error that names it; others are ignored."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from eftlocal.apps.serve.errors import invalid, one_line
from eftlocal.decoding.constraints.constraint import Constraint
from eftlocal.decoding.settings import Dials, Settings
from eftlocal.emulation import from_json
from eftlocal.emulation.from_json import SETTINGS, SHAPES, kind, string, whole
from eftlocal.errors import EftError
from eftlocal.runtime.views import Message

__all__ = ["MAX_ANSWERS", "Common", "Stream", "choices", "common", "field", "flag", "messages", "tools", "unmet"]

MAX_ANSWERS: Final = 2048  # of one request
MAX_CHOICES: Final = 128  # n, best_of
MAX_STOPS: Final = 64
MAX_STOP: Final = 1024  # characters
MAX_BIASES: Final = 4096
MAX_MESSAGES: Final = 10_000

T = TypeVar("T")

# Names that other servers use -> ours.
ALIASES: Final = {"max_completion_tokens": "max_tokens", "repetition_penalty": "repeat_penalty"}
# Settings that requests give in another form.
ELSEWHERE: Final = ("logprobs",)


@dataclass(frozen=True, slots=True)
class Stream:
    """How an answer is sent: in one piece or as a stream, and whether the stream ends with the usage."""

    on: bool
    usage: bool


@dataclass(frozen=True, slots=True)
class Common:
    """What all requests for answers have: the model's id, the settings, how many answers, and how they are sent."""

    model: str | None
    dials: Dials
    n: int
    stream: Stream


@contextmanager
def named(param: str, ours: str | None = None) -> Iterator[None]:
    """Name the field `param` in errors of reading it; `ours` is the setting's name, where that is another one."""
    try:
        yield
    except EftError as error:
        message = one_line(error)
        if ours is not None and message.startswith(ours):
            message = param + message.removeprefix(ours)
        raise invalid(message, param) from None


def field(body: Mapping[str, object], name: str, read: Callable[[str, object], T], default: T) -> T:
    """Read a field; `default` if it is missing or null. Raises Refused."""
    if (value := body.get(name)) is None:
        return default
    with named(name):
        return read(name, value)


def flag(name: str, value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise EftError(f"{name} is {kind(value)}; it must be true or false")
    return value


def between(low: int, high: int) -> Callable[[str, object], int]:
    """A reader of whole numbers in this range."""

    def read(name: str, value: object) -> int:
        if not low <= (number := whole(name, value)) <= high:
            raise EftError(f"{name} is {number}; it must be between {low} and {high}")
        return number

    return read


def choices(body: Mapping[str, object], name: str, default: int) -> int:
    """Read a number of answers: `n` or `best_of`."""
    return field(body, name, between(1, MAX_CHOICES), default)


def common(body: Mapping[str, object]) -> Common:
    """Read what all requests for answers have. Raises Refused."""
    model = field(body, "model", string, None)
    dials = _dials(body)
    if (shape := _shape(body)) is not None:
        dials["constraint"] = shape
    return Common(model, dials, choices(body, "n", 1), _stream(body))


def _stream(body: Mapping[str, object]) -> Stream:
    on, options = field(body, "stream", flag, False), body.get("stream_options")
    if options is None:
        return Stream(on, False)
    if not isinstance(options, dict):
        raise invalid(f"stream_options is {kind(options)}; it must be an object", "stream_options")
    with named("stream_options"):
        return Stream(on, field(options, "include_usage", flag, False))


def _dials(body: Mapping[str, object]) -> Dials:
    """The settings among the fields. Each is checked by itself, so that an error names its field."""
    dials: dict[str, object] = {}
    for given, read in {**SETTINGS, **{alias: SETTINGS[name] for alias, name in ALIASES.items()}}.items():
        if given in ELSEWHERE or (value := body.get(given)) is None:
            continue
        name = ALIASES.get(given, given)
        if given in ("seed", "top_k") and value == -1 and not isinstance(value, bool):  # "random", and "off"
            if given == "top_k":
                dials[name] = 0
            continue
        with named(given, name):
            if isinstance(value, dict) and len(value) > MAX_BIASES:  # before a million entries are read
                raise EftError(f"{given} has more than {MAX_BIASES} entries")
            dials[name] = read(given, value)
            _check_size(name, dials[name])
            if not (name == "max_tokens" and dials[name] == 0):  # what 0 means depends on the endpoint
                Settings().turned(**cast(Dials, {name: dials[name]}))
    return cast(Dials, dials)


def _check_size(name: str, value: object) -> None:
    """Raises EftError for a setting so large that it would slow down each step."""
    stops = value if name == "stop" and isinstance(value, list) else []
    if len(stops) > MAX_STOPS or max(map(len, stops), default=0) > MAX_STOP:
        raise EftError(f"stop has more than {MAX_STOPS} strings, or one of more than {MAX_STOP} characters")


def _shape(body: Mapping[str, object]) -> Constraint | None:
    """The shape of the answer: response_format, or one of SHAPES. Raises Refused."""
    given = [name for name in SHAPES if body.get(name) is not None]
    format = _format(body.get("response_format"))
    if len(given) + (format is not None) > 1:
        names = [*given, *(["response_format"] if format else [])]
        raise invalid(f"{' and '.join(names)} were given; an answer can have only one shape", names[0])
    for name in given:
        with named(name):
            return SHAPES[name](name, body[name])
    return format


def _format(value: object) -> Constraint | None:
    if value is None:
        return None
    name = "response_format"
    if not isinstance(value, dict):
        raise invalid(f"{name} is {kind(value)}; it must be an object with a type", name)
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            schema: object = {"type": "object"}
        case "json_schema":
            inner = value.get("json_schema")
            schema = inner.get("schema") if isinstance(inner, dict) else None
            if not isinstance(schema, dict):
                raise invalid(f"{name}.json_schema.schema is {kind(schema)}; it must be an object", name)
        case other:
            raise invalid(f"{name}.type is {kind(other)}; it must be text, json_object or json_schema", name)
    with named(name):
        return SHAPES["json_schema"](name, schema)


def messages(body: Mapping[str, object]) -> list[Message]:
    """Read the conversation. Raises Refused."""
    given = body.get("messages")
    if isinstance(given, list) and len(given) > MAX_MESSAGES:
        raise invalid(f"messages has more than {MAX_MESSAGES} messages", "messages")
    with named("messages"):
        return from_json.messages(given)


def tools(body: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The tools that the templates are told; a choice that would force one is refused. Raises Refused."""
    choice = body.get("tool_choice")
    if choice not in (None, "none", "auto") or isinstance(choice, bool):
        raise invalid(f"tool_choice is {kind(choice)}; only auto and none work here", "tool_choice")
    given = body.get("tools")
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise invalid(f"tools is {kind(given)}; it must be a list of objects", "tools")
    return [] if choice == "none" else given


def unmet(body: Mapping[str, object], *names: str) -> None:
    """Refuse fields that ask for what does not exist here. Raises Refused."""
    for name in names:
        if body.get(name) not in (None, "", False, [], {}):
            raise invalid(f"{name} is not supported here; leave it out", name)
