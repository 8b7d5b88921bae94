"""Answers a request: from its task to its response, in one piece or as server-sent events."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from eftlocal.apps.serve.desk import Task
from eftlocal.apps.serve.errors import Refused
from eftlocal.apps.serve.mailbox import Began, Failed, Left, Letter, Mailbox, News
from eftlocal.apps.serve.requests import Stream
from eftlocal.apps.serve.service import Service
from eftlocal.emulation.batch import Job

__all__ = ["Answered", "Answering", "Form", "LeftError", "Usage", "finish_reason"]

SIGN_OF_LIFE: Final = 5.0  # seconds without news after which a stream gets a comment
STALLED: Final = 60.0  # seconds for which a client may take nothing of what is sent
HEADERS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache, no-store"))
UNBUFFERED: Final = (b"x-accel-buffering", b"no")  # for nginx, which would collect the events


class LeftError(Exception):
    """The client has left."""


@dataclass(slots=True)
class Usage:
    """The tokens of a request so far: of each prompt, of each answer that has ended, and those that caches held."""

    prompts: dict[int, int] = field(default_factory=dict)
    answers: dict[int, int] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, object]:
        """OpenAI's usage object."""
        read, written = sum(self.prompts.values()), sum(self.answers.values())
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.values())},
        }


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer: how its prompt was read, and its news in one letter."""

    began: Began
    news: News


class Form(Protocol):
    """How an endpoint writes its responses."""

    model: str  # the model's id, as the client gave it
    where: str  # the field with the prompt
    n_answer: int | None  # the most tokens of an answer, if the request says it
    samples: int  # answers for each prompt; only their first counts the prompt's tokens

    def fingerprint(self, fingerprint: str) -> None:
        """Take the emulator's fingerprint for the responses."""

    def whole(self, answers: Sequence[Answered], usage: dict[str, object]) -> dict[str, object]:
        """The response in one piece."""
        ...

    def chunks(self, letter: Began | News) -> Iterable[dict[str, object]]:
        """The chunks of a stream for one letter."""
        ...

    def last(self, usage: dict[str, object]) -> dict[str, object]:
        """The chunk with the usage, at the end of a stream that asks for it."""
        ...


class Answering(Response):
    """The response to a request for answers. It does the work when it is sent.

    If the client leaves, whether the request waits, is read or decodes, its work ends at the next step.
    """

    def __init__(
        self, service: Service, model: str, jobs: Sequence[Job], form: Form, stream: Stream, *, echo: bool = False
    ) -> None:
        super().__init__()
        self.shown = form.model  # as the client named it, for the log
        self._service = service
        self._model = model
        self._jobs = jobs
        self._form = form
        self._stream = stream
        self._echo = echo
        self._usage = Usage()
        self._left = len(jobs)  # answers that have not ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises Refused before the response begins, and LeftError."""
        service, mailbox, send = self._service, Mailbox(), _patient(send)
        with service.admitted():
            task = Task(self._model, self._jobs, mailbox, streaming=self._stream.on, echo=self._echo)
            service.owner.submit(task)

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                service.owner.cancel(task)  # here, since the response may be waiting for a reader that never reads
                mailbox.put(Left())

            watching = asyncio.ensure_future(watch())
            try:
                if self._stream.on:
                    await self._send_stream(mailbox, send)
                else:
                    await self._send_whole(mailbox, send)
            finally:
                watching.cancel()
                if self._left:
                    service.owner.cancel(task)
                scope["eftlocal.usage"] = self._usage

    async def _letters(self, mailbox: Mailbox) -> list[Letter]:
        """The next letters; none after a while without any. Raises Refused if the request failed, and LeftError."""
        try:
            async with asyncio.timeout(SIGN_OF_LIFE):
                letters = await mailbox.take()
        except TimeoutError:
            return []
        for letter in letters:
            match letter:
                case Left():
                    raise LeftError
                case Failed(error):
                    raise self._service.told(error, self._form.where, self._form.n_answer)
                case Began():
                    if letter.index % self._form.samples == 0:
                        self._usage.prompts[letter.index] = len(letter.prompt)
                case News(reply=reply) if reply is not None:
                    if reply.finish_reason == "cancelled":  # the server stops
                        raise Refused(503, "The server is stopping.", kind="server_error", code="stopping")
                    self._left -= 1
                    if letter.index in self._usage.prompts:
                        self._usage.cached[letter.index] = reply.cached_tokens
                    self._usage.answers[letter.index] = len(reply.tokens) if self._form.n_answer != 0 else 0
        return letters

    async def _send_whole(self, mailbox: Mailbox, send: Send) -> None:
        begun = dict[int, Began]()
        news = dict[int, News]()
        while self._left:
            for letter in await self._letters(mailbox):
                if isinstance(letter, Began):
                    begun[letter.index] = letter
                elif isinstance(letter, News):
                    news[letter.index] = letter
        self._form.fingerprint(self._service.facts[self._model].fingerprint)
        answers = [Answered(begun[i], news[i]) for i in range(len(self._jobs))]
        body = encoded(self._form.whole(answers, self._usage.body))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, mailbox: Mailbox, send: Send) -> None:
        while not (letters := await self._letters(mailbox)):  # an error that comes first has its own status
            pass
        self._form.fingerprint(self._service.facts[self._model].fingerprint)
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, UNBUFFERED]})
        try:
            while True:
                await _send_events(send, [chunk for letter in letters for chunk in self._chunks(letter)])
                if not letters:
                    await send({"type": "http.response.body", "body": b": waiting\n\n", "more_body": True})
                if not self._left:
                    break
                letters = await self._letters(mailbox)
        except Refused as refused:
            await _send_events(send, [refused.body])
        if not self._left and self._stream.usage:
            await _send_events(send, [self._form.last(self._usage.body)])
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _chunks(self, letter: Letter) -> Iterable[dict[str, object]]:
        chunks = self._form.chunks(letter) if isinstance(letter, Began | News) else ()
        return ({**chunk, "usage": None} for chunk in chunks) if self._stream.usage else chunks


def _patient(send: Send) -> Send:
    """`send` that raises LeftError where the client takes nothing for a long time: it would keep its place for ever."""

    async def bounded(message: Message) -> None:
        try:
            async with asyncio.timeout(STALLED):
                await send(message)
        except OSError:  # also TimeoutError
            raise LeftError from None

    return bounded


async def _send_events(send: Send, chunks: Sequence[dict[str, object]]) -> None:
    """Send chunks as server-sent events."""
    if body := b"".join(b"data: %b\n\n" % encoded(chunk) for chunk in chunks):
        await send({"type": "http.response.body", "body": body, "more_body": True})


def encoded(value: Any) -> bytes:
    """A JSON value as UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def unknown(news: News) -> dict[str, object]:
    """The field of a finished choice that tells what a server with the base left out; none where nothing was."""
    found = {} if news.reply is None else news.reply.unknown
    return {"unknown": found} if found else {}


def finish_reason(news: News) -> str | None:
    """OpenAI's finish reason; None for an answer that goes on."""
    if news.reply is None:
        return None
    return "stop" if news.reply.finish_reason == "stop" else "length"
