"""What can be asked of an emulator, and the tokens that each member reads for it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Integral
from types import MappingProxyType
from typing import Final

from eftlocal.arithmetic.combine import Mix
from eftlocal.decoding.thinking import ANSWER, MARKERS, START, Splitter, opened_by, spoken
from eftlocal.emulation.members import Members
from eftlocal.engine.workers import Workers
from eftlocal.errors import SettingError, ViewError
from eftlocal.runtime.views import RAW, Message, View

__all__ = ["NO_ARGS", "Ids", "Prompt", "Raw", "Renderer", "as_messages"]

RAW_VIEW: Final = View(template=RAW, variables={})
END: Final = 16  # tokens at the end of a prompt among which the marker is that opens thoughts
NO_ARGS: Final[Mapping[str, object]] = MappingProxyType({})


class Raw(str):
    """A prompt that every member gets unchanged: without a chat template and without turns."""

    __slots__ = ()


class Ids(tuple[int, ...]):
    """A prompt as token ids, which every member gets as they are: no BOS token is added."""

    __slots__ = ()


Prompt = str | Sequence[Message] | Ids


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as a conversation; a text becomes one message of the user."""
    assert not isinstance(prompt, Ids), "token ids have no messages"
    return [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)


class Renderer:
    """Renders prompts for the members of one emulator, each by its view."""

    def __init__(self, members: Members, workers: Workers) -> None:
        self._members = members
        self._workers = workers

    def prompts(self, prompt: Prompt, mix: Mix, template_args: Mapping[str, object] = NO_ARGS) -> dict[int, list[int]]:
        """Member -> token ids of its rendering of a prompt, for each member that runs. Raises ViewError."""
        return {member: self.prompt(member, prompt, template_args) for member in mix.active}

    def prompt(self, member: int, prompt: Prompt, template_args: Mapping[str, object] = NO_ARGS) -> list[int]:
        """The token ids of a member's rendering of a prompt. Raises ViewError, and SettingError for a wrong id."""
        if isinstance(prompt, Ids):
            if not prompt:
                raise ViewError("The prompt is empty.", "Give at least one token.")
            self.check_ids("The prompt", prompt)
            return list(prompt)
        view = RAW_VIEW if isinstance(prompt, Raw) else self._members.views[member]
        if template_args:
            view = replace(view, variables={**view.variables, **template_args})
        return view.prompt(self._workers.model(member), self._conversation(prompt, view))

    def _conversation(self, prompt: Prompt, view: View) -> list[Message]:
        """The prompt's messages under its system text, else the emulator's. An empty system text stands for none.

        Earlier answers are without their thoughts, unless the view's template keeps those. Templates of models that
        think leave them out; so a base that knows no thoughts reads the same conversation.
        """
        messages = as_messages(prompt)
        default = None if isinstance(prompt, Raw) else self._members.system
        if default and not any(message.role == "system" for message in messages):
            messages = [Message("system", default), *messages]
        for message in messages:
            self.check_ids(f"A message of the {message.role}", message.tokens)
        said = [*map(self._without_thoughts, messages[:-1]), *messages[-1:]]  # the last one is asked, or continued
        if said != messages and not _keeps_thoughts(view):
            messages = said
        return [message for message in messages if message.role != "system" or message.content]

    def place(
        self,
        prompt: Prompt,
        prompts: Mapping[int, Sequence[int]],
        mix: Mix,
        template_args: Mapping[str, object],
    ) -> str:
        """Where the answer begins, for telling thoughts apart: within them, if the prompt of one member opens them.

        An answer that is continued begins where its text has come to. Without turns, an answer has no thoughts.
        """
        if isinstance(prompt, Raw | Ids):
            return ANSWER
        messages, opened = as_messages(prompt), ""
        if messages and messages[-1].role == "assistant":
            *messages, last = messages
            opened = last.content
            prompts = self.prompts(messages, mix, template_args)
        places = (opened_by(self._end_of(member, tokens)) for member, tokens in prompts.items())
        splitter = Splitter(next((place for place in places if place != START), START))
        splitter.push(opened)
        return splitter.place

    def _end_of(self, member: int, tokens: Sequence[int]) -> str:
        """The last text of a member's prompt."""
        return b"".join(map(self._workers.model(member).piece, tokens[-END:])).decode("utf-8", "replace")

    def _without_thoughts(self, message: Message) -> Message:
        """An earlier answer as all members read it: without its thoughts, and with the tokens of the rest."""
        rest = spoken(message.content) if message.role == "assistant" else message.content
        if rest == message.content:
            return message
        return Message("assistant", rest, self._tail(message.tokens, message.content[: -len(rest) or None]))

    def _tail(self, tokens: tuple[int, ...], head: str) -> tuple[int, ...]:
        """The tokens that come after the text `head`, with which they begin. None, if it ends within a token."""
        left = len(head.encode("utf-8", "surrogatepass"))
        for i, token in enumerate(tokens):
            if left <= 0:
                return tokens[i:] if left == 0 else ()
            left -= len(self._workers.model(0).piece(token))
        return ()

    def check_ids(self, what: str, tokens: Sequence[int]) -> None:
        """Raises SettingError for a token id that the members do not have: llama.cpp would end the process."""
        for token in tokens:
            if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= token < self._members.n_real:
                raise SettingError(
                    f"{what} has the token id {token!r}; ids are whole numbers from 0 to {self._members.n_real - 1}."
                )


def _keeps_thoughts(view: View) -> bool:
    """Whether the view's template knows markers of thoughts, and writes those of earlier answers too."""
    for opening, closing in MARKERS:
        if closing in view.template:
            with suppress(ViewError):
                answer = Message("assistant", f"{opening}\nthoughts\n{closing}\n\nanswer")
                return "thoughts" in view.text([Message("user", "?"), answer, Message("user", "?")])
    return False
