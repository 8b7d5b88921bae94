"""Views: turn a conversation into tokens for one member, with a Jinja template (runtime/templates.py).

Each view is a template; `transcript` and `raw` are defined here. Text that a user typed is never parsed for control
tokens. An answer that the emulator generated keeps the token ids that it was generated as.
"""

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import NamedTuple, Protocol

from eftlocal.errors import ViewError
from eftlocal.runtime import templates

ROLES = ("system", "user", "assistant")

RAW = "{% for message in messages %}{{ message.content }}{% endfor %}"
TRANSCRIPT = (
    "{% for message in messages %}"
    "{% if message.role != 'system' %}{{ message.role | capitalize }}:\n{% endif %}{{ message.content }}\n\n"
    "{% endfor %}{{ 'Assistant:\\n' }}"  # an expression, since a line end that ends a template is dropped
)
TRANSCRIPT_STOPS = ("\n\nUser:", "\n\nAssistant:")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `tokens` are the ids that an answer was generated as. Their text is a prefix of `content`. Raises ViewError for an
    unknown role.
    """

    role: str
    content: str
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ViewError(f"A message has the role {self.role!r}.", f"Roles are {', '.join(ROLES)}.")


class Tokenizer(Protocol):
    """What a view needs of a model: its tokenizer, not its weights."""

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
    """A template and the values to render it with, for one member.

    variables  the template's variables: bos_token, eos_token, the emulator's template_args
    stops      stop strings that belong to the template
    system     a system text that replaces the conversation's, for this member only; None: no replacement
    date       the date that the template sees; None: today
    role       the role of the model that has this view, for errors
    others     name -> another view that the model could have, for errors
    """

    template: str
    variables: Mapping[str, object]
    stops: tuple[str, ...] = ()
    system: str | None = None
    date: datetime.date | None = None
    role: str | None = field(default=None, compare=False)
    others: "Mapping[str, View]" = field(default_factory=dict, compare=False)

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Returns the tokens of the conversation, up to where the next answer starts.

        If the last message is the assistant's, it stays open, so that generation continues it. Raises ViewError when
        the template is broken or refuses the conversation, or when the prompt would have no token at all.
        """
        ids, text = list[int](), ""
        if messages and messages[-1].role == "assistant":
            *messages, last = messages
            ids, text = _opened(tokenizer, last)
        messages = self._with_system(messages)
        marks = _marks([self.template, text, *(m.content for m in messages)])
        rendered = self._marked(tokenizer, messages, marks)
        if not ids:  # the text and the end of the template are one piece, as in transformers' continue_final_message
            rendered, text = rendered + marks.broken(text, _pattern(tuple(tokenizer.controls))), ""
        tokens = _tokens(tokenizer, rendered, messages, marks) + ids + (tokenizer.tokenize(text) if text else [])
        if tokenizer.add_bos and not self._writes_bos(tokenizer, tokens, messages, marks):
            tokens.insert(0, _id(tokenizer.bos))
        if not tokens and tokenizer.bos is not None:
            tokens = [tokenizer.bos]
        if not tokens:
            raise ViewError("The prompt is empty.", "Give at least one character.")
        return tokens

    def text(self, messages: Sequence[Message]) -> str:
        """Returns the conversation as text, as this view renders it, for people to read. Raises ViewError."""
        messages = self._with_system(messages)
        return self._render(messages, [m.content for m in messages])

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system is None:
            return messages
        return [Message("system", self.system), *(m for m in messages if m.role != "system")]

    def _writes_bos(
        self, tokenizer: Tokenizer, tokens: Sequence[int], messages: Sequence[Message], marks: "_Marks"
    ) -> bool:
        """Whether the template itself writes the BOS token before the first message, also after other text."""
        if tokenizer.bos not in tokens or tokens[0] == tokenizer.bos:
            return tokenizer.bos in tokens
        try:
            rendered = self._render(messages, [marks.opening + m.content for m in messages])
        except ViewError:  # the template does not accept the marks
            return True
        head = rendered.partition(marks.opening)[0]
        return any(control == tokenizer.bos for _, control in _split(head, tokenizer.controls, marks))

    def _marked(self, tokenizer: Tokenizer, messages: Sequence[Message], marks: "_Marks") -> str:
        """Renders the conversation with cuts in typed control tokens and with brackets around generated answers.

        A template may trim or compare answers. If the brackets then change the rendering, answers go without them.
        """
        controls = _pattern(tuple(tokenizer.controls))
        texts = [marks.broken(m.content, controls) for m in messages]
        plain = self._render(messages, texts)
        answers = [bool(m.tokens) for m in messages]
        untrimmed = [bool(m.tokens) and m.content == m.content.strip() for m in messages]
        for chosen in (answers, untrimmed):
            bracketed = [marks.bracketed(t) if c else t for t, c in zip(texts, chosen, strict=True)]
            with suppress(ViewError):  # a template may refuse an answer that begins with a bracket
                if any(chosen) and marks.unbracketed(rendered := self._render(messages, bracketed)) == plain:
                    return rendered
        return plain

    def _render(self, messages: Sequence[Message], texts: Sequence[str]) -> str:
        """Renders the messages with these texts. Raises ViewError."""
        turns = [(message.role, text) for message, text in zip(messages, texts, strict=True)]
        try:
            return templates.render(self.template, turns, self.variables, self.date)
        except ViewError as error:
            raise ViewError(error.message, self._instead(messages, texts) or error.hint) from error

    def _instead(self, messages: Sequence[Message], texts: Sequence[str]) -> str | None:
        """A hint that names views that accept the messages; None if there are none."""
        able = []
        for name, other in self.others.items():
            with suppress(ViewError):
                other._render(messages, texts)
                able.append(name)
        if not able:
            return None
        setting = f'views = {{ {self.role} = "{able[0]}" }}'
        return f"Views of the {self.role} model that accept it: {', '.join(able)}. In models.toml: {setting}"


def _id(token: int | None) -> int:
    assert token is not None
    return token


# --- text to tokens -------------------------------------------------------------------------------------------------


class _Marks(NamedTuple):
    """Three characters that do not occur in a conversation. They mark places in the texts that a template renders."""

    opening: str
    closing: str
    cut: str

    def broken(self, text: str, controls: re.Pattern[str]) -> str:
        """Returns `text` with a cut after each character of any control token in it, so that none is found later."""
        return controls.sub(lambda found: "".join(c + self.cut for c in found[0]), text)

    def bracketed(self, text: str) -> str:
        return f"{self.opening}{text}{self.closing}"

    def unbracketed(self, text: str) -> str:
        return text.replace(self.opening, "").replace(self.closing, "")

    def off(self, text: str) -> str:
        """Returns `text` without marks."""
        return self.unbracketed(text).replace(self.cut, "")


def _marks(texts: Sequence[str]) -> _Marks:
    """Returns three characters that are not in these texts. The first candidates are Unicode's noncharacters."""
    joined = "".join(texts)
    return _Marks(*islice((c for c in map(chr, range(0xFDD0, 0x110000)) if c not in joined), 3))


def _tokens(tokenizer: Tokenizer, rendered: str, messages: Sequence[Message], marks: _Marks) -> list[int]:
    """Returns the tokens of a rendered template. Control tokens and generated answers have their ids; the rest is text.

    Text between them is tokenized in one piece.
    """
    answers = iter([m for m in messages if m.tokens])
    tokens: list[int] = []
    run = ""  # text to tokenize in one piece, also across the border between template and message

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
    """Yields the parts of a rendering, in order: (text, None), or (text, id) for a control token."""
    opening, closing, cut = marks
    # A control token of one character cannot be cut inside. If it was typed, a cut follows it.
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
    """Finds the generated answer with the text `content`. Returns its ids and the rest of its text after them.

    Returns None when there is no such answer, or when the tokenizer would put a space before the rest.
    """
    for answer in answers:  # templates may leave answers out, but keep their order
        if answer.content == content:
            ids, rest = _generated(tokenizer, answer)
            return (ids, rest) if ids and not tokenizer.adds_space else None
    return None


def _generated(tokenizer: Tokenizer, answer: Message) -> tuple[list[int], str]:
    """Returns the ids that an answer was generated as, and the rest of its text after them.

    Returns no ids and the whole text when the text does not begin with the text of the ids.
    """
    covered = b"".join(map(tokenizer.piece, answer.tokens)).decode("utf-8", "replace")
    if not answer.content.startswith(covered):
        return [], answer.content
    return list(answer.tokens), answer.content[len(covered) :]


def _opened(tokenizer: Tokenizer, answer: Message) -> tuple[list[int], str]:
    """Returns the known ids of the open answer at the end of a conversation, and the rest of its text after them."""
    ids, rest = _generated(tokenizer, answer)
    if ids:
        rest = rest.rstrip("\ufffd")  # half of a character, where max_tokens cut it: it is generated again
    if ids and rest and tokenizer.adds_space:
        ids, rest = [], answer.content
    return ids, rest


@cache
def _pattern(controls: tuple[str, ...]) -> re.Pattern[str]:
    """Returns a pattern for the texts of control tokens, the longest first, as llama.cpp's tokenizer_st_partition."""
    texts = sorted((c for c in controls if c), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")
