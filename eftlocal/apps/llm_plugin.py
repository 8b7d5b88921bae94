"""The plugin for the program `llm` (llm.datasette.io): emulators that are on this machine are models of it.

`llm` imports this module for each of its commands, so nothing heavy is imported before a prompt is answered.
"""

import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

import llm
from llm.parts import ReasoningPart, TextPart
from pydantic import Field, field_validator

from eftlocal.catalog import models as catalog
from eftlocal.errors import CatalogError, EftError
from eftlocal.runs.ctrl_c import interruptible
from eftlocal.text import printable

if TYPE_CHECKING:
    from eftlocal.decoding.generation import Generation, Reply
    from eftlocal.decoding.settings import Dials
    from eftlocal.runtime.views import Message

__all__ = ["EmulatorModel", "register_models"]

PREFIX: Final = "eftlocal/"


@llm.hookimpl
def register_models(register: Callable[..., None], model_aliases: Sequence[Any]) -> None:
    """Register each emulator whose files are all here, as eftlocal/NAME; also as NAME if no other model has it."""
    taken = {name for other in model_aliases for name in (other.model.model_id, *other.aliases)}
    try:
        cat = catalog.load()
    except CatalogError as error:  # the other models of llm must stay usable
        print(f"eftlocal: {error}", file=sys.stderr)
        return
    for line in cat.lines():
        print(f"eftlocal: {line}", file=sys.stderr)
    for name, emulator in cat.emulators.items():
        if cat.is_local(emulator):
            register(EmulatorModel(name), aliases=() if name in taken else (name,))


class EmulatorModel(llm.Model):
    """One emulator of the catalogue. It is loaded at the first prompt, and stays loaded while the process runs."""

    can_stream = True
    supports_schema = True

    class Options(llm.Options):
        """The settings of an answer that `llm -o NAME VALUE` sets. A null leaves the emulator's own."""

        beta: float | None = Field(
            default=None, description="Strength of the fine-tuning; 0 is the base alone, 1 is all of it"
        )
        mix: dict[str, float] | str | None = Field(
            default=None, description="Strengths of the rewards by name: A=1,B=0.5"
        )
        reward_top_p: float | None = Field(default=None, description="Keep rewards to the tuned model's top-p tokens")
        alone: str | None = Field(default=None, description="Let one role answer by itself: base, tuned or reference")
        seed: int | None = Field(
            default=None, description="Seed of the random numbers; the same seed gives the same answer"
        )
        max_tokens: int | None = Field(default=None, description="The most tokens of an answer")
        temperature: float | None = Field(default=None, description="0 always takes the likeliest token")
        top_k: int | None = Field(default=None, description="Keep the K likeliest tokens; 0 is off")
        top_p: float | None = Field(
            default=None, description="Keep the likeliest tokens whose probabilities add up to P"
        )
        min_p: float | None = Field(
            default=None, description="Keep tokens with at least P times the best one's probability"
        )
        typical_p: float | None = Field(default=None, description="Keep the most typical tokens that together have P")
        repeat_penalty: float | None = Field(
            default=None, description="Divide the logits of recent tokens by this; 1 is off"
        )
        repeat_last_n: int | None = Field(default=None, description="How many tokens the three penalties look back on")
        presence_penalty: float | None = Field(
            default=None, description="Take this off the logits of tokens that occurred"
        )
        frequency_penalty: float | None = Field(
            default=None, description="Take this off for each time that a token occurred"
        )
        stop: str | list[str] | None = Field(default=None, description="Text that ends the answer")
        draft: int | Literal["auto"] | None = Field(
            default=None, description="Tokens to guess ahead; 0 is none, auto measures"
        )

        @field_validator("mix")
        @classmethod
        def _mix(cls, value: dict[str, float] | str | None) -> dict[str, float] | None:
            return _weights(value) if isinstance(value, str) else value

    def __init__(self, name: str) -> None:
        self.model_id = f"{PREFIX}{name}"
        self._name = name

    def __str__(self) -> str:
        return f"Emulator: {self.model_id}"

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Yield the answer's text as it is decoded, and note usage, seed and finish reason. Raises llm.ModelError."""
        try:
            reply = yield from _shared(self._name).answer(messages(prompt), dials(prompt))
        except EftError as error:
            raise llm.ModelError(str(error)) from error
        response.set_usage(
            input=max(reply.prompt_tokens.values()),
            output=len(reply.tokens),
            details={"prompt_tokens": dict(reply.prompt_tokens)},
        )
        response.response_json = _told(reply)


def _weights(text: str) -> dict[str, float]:
    """The strengths in `NAME=W,NAME=W`. Raises ValueError, which llm shows."""
    pairs = [pair.split("=") for pair in text.split(",")]
    try:
        return {name.strip(): float(weight) for name, weight in pairs}
    except ValueError:
        raise ValueError(f"mix is {text!r}; it must be NAME=STRENGTH, such as helpful=1,brief=0.5") from None


def _told(reply: "Reply") -> dict[str, object]:
    """What `llm logs --json` keeps of an answer beside its text: with the seed, it can be had again."""
    return {
        "finish_reason": reply.finish_reason,
        "stopped_by": reply.stopped_by,
        "beta": reply.beta,
        "seed": reply.seed,
        "tokens_per_s": reply.tokens_per_s,
    }


def messages(prompt: llm.Prompt) -> "list[Message]":
    """The whole conversation, with this prompt at its end. Raises EftError for what is not text."""
    from eftlocal.runtime.views import Message

    found: list[Message] = []
    for message in prompt.messages:
        parts = [part for part in message.parts if not isinstance(part, ReasoningPart)]
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        if len(texts) < len(parts):
            raise EftError("A message holds something that is not text.", "Emulators read only text.")
        read = Message(message.role, "".join(texts))
        if read.role != "system" or read not in found:  # llm repeats the system text in each turn
            found.append(read)
    return found


def dials(prompt: llm.Prompt) -> "Dials":
    """The settings among the prompt's options, and its schema as the answer's shape. Raises EftError."""
    from eftlocal.emulation import from_json

    given = from_json.dials(prompt.options.model_dump())
    if prompt.schema is not None:
        given["constraint"] = from_json.constraint({"json_schema": prompt.schema})
    return given


# --- the loaded emulators ---------------------------------------------------------------------------------------------


class _Shared:
    """An emulator that several answers use in turn, also when a reader leaves one unfinished, or reads in a thread.

    All answers are in one scheduler. Whoever needs text steps it, and puts aside what the step gives to the others.
    """

    def __init__(self, name: str) -> None:
        from eftlocal.emulation.emulator import Emulator

        self._emulator = Emulator.load(name)
        for note in self._emulator.notes:
            print(printable(f"eftlocal: {note}"), file=sys.stderr)
        self._scheduler = self._emulator.scheduler()
        self._lock = threading.Lock()
        self._texts: dict[Generation, list[str]] = {}  # for each answer that is being read: what was not read yet

    def answer(self, conversation: "Sequence[Message]", settings: "Dials") -> "Generator[str, None, Reply]":
        """Yield the text of an answer as it is decoded, and return the reply. Closing the generator cancels the answer.

        Raises EftError.
        """
        from eftlocal.emulation.emulator import Job

        with self._lock:
            generation = self._emulator.prepare(Job(conversation, settings))
            self._scheduler.add(generation)
            self._texts[generation] = []
        try:
            while text := self._next(generation):
                yield text
        finally:
            with self._lock:
                del self._texts[generation]
                self._scheduler.cancel(generation)
        if generation.error is not None:
            raise generation.error
        return generation.reply

    def _next(self, generation: "Generation") -> str:
        """The answer's text that was not read yet; empty if it has ended. Steps until there is some."""
        while True:
            with self._lock:
                if (text := "".join(self._texts[generation])) or generation.ended:
                    self._texts[generation] = []
                    return text
                with interruptible() as stopped:
                    deltas = self._scheduler.step()
                for other, text in deltas:
                    if other in self._texts:
                        self._texts[other].append(text)
            if stopped.is_set():
                raise KeyboardInterrupt


@cache
def _shared(name: str) -> _Shared:
    """The loaded emulator of that name: llm makes a new model object for each call of `get_model`. Raises EftError."""
    return _Shared(name)
