"""POST /v1/chat/completions: from a conversation to jobs, and from answers to OpenAI's objects."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from eftlocal.apps.serve import requests
from eftlocal.apps.serve.answering import Answered, Answering, finish_reason, unknown
from eftlocal.apps.serve.entries import chat_entries
from eftlocal.apps.serve.errors import invalid
from eftlocal.apps.serve.mailbox import Began, News
from eftlocal.apps.serve.service import Service
from eftlocal.decoding.settings import Dials
from eftlocal.emulation.batch import Job
from eftlocal.emulation.from_json import kind

__all__ = ["answer"]

MAX_TOP: int = 20  # alternatives at each token


def answer(service: Service, body: Mapping[str, object]) -> Answering:
    """The response to the body of a request. Raises Refused."""
    common = requests.common(body)
    messages = requests.messages(body)
    dials: Dials = {**common.dials}
    top = _top(body)
    if top is not None:
        dials["logprobs"] = top
    if dials.get("max_tokens") == 0:
        raise invalid("max_tokens is 0; it must be at least 1", "max_tokens")
    arguments = _template_args(body)
    model = service.dialled(common.model)
    dials = cast(Dials, {**dials, **model.dials})
    jobs = [Job(messages, dials, (0, i), template_args=arguments) for i in range(common.n)]
    form = _Form(common.model or model.name, common.n, dials.get("max_tokens"), logprobs=top is not None)
    return Answering(service, model.name, jobs, form, common.stream)


def _top(body: Mapping[str, object]) -> int | None:
    """How many alternatives each token shows; None if no log-probabilities are wanted."""
    wanted = requests.field(body, "logprobs", requests.flag, False)
    top = requests.field(body, "top_logprobs", requests.between(0, MAX_TOP), 0)
    if top and not wanted:
        raise invalid("top_logprobs needs logprobs, which is not true", "top_logprobs")
    return top if wanted else None


def _template_args(body: Mapping[str, object]) -> dict[str, object]:
    """What the chat templates are told beside the messages: tools, and chat_template_kwargs."""
    given = body.get("chat_template_kwargs")
    if given is not None and not isinstance(given, dict):
        raise invalid(f"chat_template_kwargs is {kind(given)}; it must be an object", "chat_template_kwargs")
    tools = requests.tools(body)
    return {**(given or {}), **({"tools": tools} if tools else {})}


class _Form:
    """Writes chat.completion objects."""

    where = "messages"

    def __init__(self, model: str, samples: int, n_answer: int | None, *, logprobs: bool) -> None:
        self.model = model
        self.samples = samples
        self.n_answer = n_answer
        self._logprobs = logprobs
        self._head: dict[str, object] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
        }

    def fingerprint(self, fingerprint: str) -> None:
        self._head["system_fingerprint"] = fingerprint

    def whole(self, answers: Sequence[Answered], usage: dict[str, object]) -> dict[str, object]:
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": answered.news.text, "refusal": None},
                "logprobs": self._entries(answered.news),
                "finish_reason": finish_reason(answered.news),
                **unknown(answered.news),
            }
            for i, answered in enumerate(answers)
        ]
        return {**self._head, "choices": choices, "usage": usage}

    def chunks(self, letter: Began | News) -> Iterator[dict[str, object]]:
        if isinstance(letter, Began):
            yield self._chunk(letter.index, {"role": "assistant", "content": ""})
            return
        if letter.text or letter.entries:
            yield self._chunk(letter.index, {"content": letter.text}, self._entries(letter))
        if letter.reply is not None:
            yield self._chunk(letter.index, {}, reason=finish_reason(letter), more=unknown(letter))

    def last(self, usage: dict[str, object]) -> dict[str, object]:
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        logprobs: object = None,
        reason: str | None = None,
        more: Mapping[str, object] = {},
    ) -> dict[str, object]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **more}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _entries(self, news: News) -> dict[str, object] | None:
        return {"content": chat_entries(news.entries), "refusal": None} if self._logprobs else None
