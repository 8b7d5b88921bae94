"""Emulators as models of Inspect: `inspect eval task.py --model eftlocal/NAME -M beta=0.5`.

Inspect finds this module through the package's entry point. The emulator is loaded when it is first asked, in a thread
of its own: an emulator is not thread-safe, and Inspect asks many things at a time. They are decoded together.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    modelapi,
)

from eftlocal.decoding.inbox import Inbox
from eftlocal.errors import EftError, SettingError

if TYPE_CHECKING:
    from eftlocal.decoding.generation import Generation, Reply
    from eftlocal.emulation.emulator import Emulator, Job

__all__ = ["EmulatorAPI", "eftlocal"]

POLL_S: Final = 0.01  # how often a request looks whether its answer is there
MANY: Final = 4096  # requests that wait
ARGUMENTS: Final = {"ctx": "context", "role": "alone"}  # names of the command line -> those of Emulator.load
SETTINGS: Final = {  # Inspect's settings -> ours
    **{name: name for name in ("max_tokens", "temperature", "top_p", "top_k", "seed", "logit_bias")},
    **{"stop_seqs": "stop", "frequency_penalty": "frequency_penalty", "presence_penalty": "presence_penalty"},
}
REASONS: Final = {"stop": "stop", "length": "max_tokens", "context": "model_length"}


@modelapi(name="eftlocal")
def eftlocal() -> type[ModelAPI]:
    """The provider `eftlocal`, as Inspect looks it up."""
    return EmulatorAPI


class EmulatorAPI(ModelAPI):
    """One emulator. The arguments after `-M` are those of `Emulator.load`; `ctx` and `role` may stand, too."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        named = {ARGUMENTS.get(name, name): value for name, value in arguments.items()}
        self._owner = Owner(model_name, named)

    async def generate(
        self, input: list[ChatMessage], tools: list[Any], tool_choice: object, config: GenerateConfig
    ) -> ModelOutput:
        """Answer a conversation. Raises EftError, also for tools and for what is not text."""
        from eftlocal.emulation.emulator import Job

        if tools:
            raise EftError("An emulator cannot call tools.", "Use a task without tools.")
        asked, settings = messages(input), dials(config)
        futures = [self._owner.ask(Job(asked, settings, number)) for number in range(config.num_choices or 1)]
        try:
            while not all(future.done() for future in futures):
                await anyio.sleep(POLL_S)
        finally:
            for future in futures:
                future.cancel()  # of a request that Inspect gives up; nothing happens to one that has ended
        replies = [future.result() for future in futures]
        read = max(replies[0].prompt_tokens.values())
        written = sum(len(reply.tokens) for reply in replies)
        usage = ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)
        choices = [choice(reply, self.model_name) for reply in replies]
        return ModelOutput(model=self.model_name, choices=choices, usage=usage)

    def max_connections(self) -> int:
        """Requests at a time, where the task does not say it."""
        return 32

    def close(self) -> None:
        """Free the models."""
        self._owner.close()


def messages(input: Sequence[ChatMessage]) -> list[Any]:
    """A conversation in our values. Raises EftError for what is not text."""
    from eftlocal.runtime.views import Message

    found = []
    for message in input:
        parts = [] if isinstance(message.content, str) else message.content
        if message.role == "tool" or any(part.type not in ("text", "reasoning") for part in parts):
            raise EftError("A message holds something that is not text.", "Emulators read only text.")
        found.append(Message(message.role, message.text))
    return found


def dials(config: GenerateConfig) -> Any:
    """The settings of an answer that Inspect asks for. Raises EftError."""
    found: Any = {ours: value for name, ours in SETTINGS.items() if (value := getattr(config, name)) is not None}
    if config.logprobs:
        found["logprobs"] = config.top_logprobs or 0
    if config.response_schema is not None:
        from eftlocal.emulation import from_json

        schema = config.response_schema.json_schema.model_dump(exclude_none=True)
        found["constraint"] = from_json.constraint({"json_schema": schema})
    return found


def choice(reply: "Reply", model: str) -> ChatCompletionChoice:
    """An answer as Inspect has it, with the thoughts apart."""
    content: Any = reply.text
    if reply.thinking:
        content = [ContentReasoning(reasoning=reply.thinking), ContentText(text=reply.answer)]
    logprobs = [
        Logprob(
            token=token.text,
            logprob=token.logprob,
            top_logprobs=[TopLogprob(token=other.text, logprob=other.logprob) for other in token.top] or None,
        )
        for token in reply.logprobs
    ]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(content=content, model=model, source="generate"),
        stop_reason=REASONS.get(reply.finish_reason, "unknown"),
        logprobs=Logprobs(content=logprobs) if logprobs else None,
    )


class Owner:
    """The thread that owns an emulator. Other threads ask; it decodes all answers together."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self._name = name
        self._arguments = arguments
        self._inbox: Inbox[tuple[Job, Future[Reply]]] = Inbox(MANY)
        self._thread: threading.Thread | None = None

    def ask(self, job: "Job") -> "Future[Reply]":
        """Ask for an answer. Its future may be cancelled at any time, and may raise EftError."""
        future: Future[Reply] = Future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"eftlocal-{self._name}", daemon=True)
            self._thread.start()
        if not self._inbox.put((job, future)):
            future.set_exception(EftError("The model is closed."))
        return future

    def close(self) -> None:
        """End the thread, which frees the models."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        from eftlocal.emulation.emulator import Emulator

        try:
            if unknown := sorted(self._arguments.keys() - known()):
                raise SettingError(f"There is no setting named {', '.join(unknown)}.", f"Known: {', '.join(known())}.")
            with Emulator.load(self._name, **self._arguments) as emulator:
                self._decode(emulator)
        except BaseException as error:
            while not self._inbox.ended:
                for _, future in self._asked(wait=True):
                    end(future, error)

    def _decode(self, emulator: "Emulator") -> None:
        emulator.reserve()
        scheduler = emulator.scheduler()
        running: dict[Generation, Future[Reply]] = {}
        try:
            while not self._inbox.ended:
                for job, future in self._asked(wait=not running):
                    try:
                        generation = emulator.prepare(job)
                    except EftError as error:
                        end(future, error)
                        continue
                    running[generation] = future
                    scheduler.add(generation)
                for generation, future in running.items():
                    if future.cancelled():
                        scheduler.cancel(generation)
                for generation, _ in scheduler.step():
                    if generation.ended:
                        end(running.pop(generation), generation.error or generation.reply)
        finally:
            scheduler.close()
            for future in running.values():
                end(future, EftError("The model was closed before it had answered."))

    def _asked(self, *, wait: bool) -> "Iterator[tuple[Job, Future[Reply]]]":
        """What was asked and not taken yet. With `wait`, it waits until there is something, or the inbox has ended."""
        item = self._inbox.take(wait=wait)
        while item is not None:
            yield item
            item = self._inbox.take(wait=False)


def end(future: "Future[Reply]", result: "Reply | BaseException") -> None:
    """Give a request its answer or its error, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def known() -> list[str]:
    """The arguments that loading an emulator takes."""
    from typing import get_type_hints

    from eftlocal.emulation.loading import LoadOptions

    return sorted(get_type_hints(LoadOptions))
