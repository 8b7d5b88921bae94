"""From letters to responses, without an owner: signs of life, errors within a stream, and clients that leave."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from eftlocal.apps.serve import answering, chat, completions
from eftlocal.apps.serve.answering import LeftError
from eftlocal.apps.serve.desk import Task
from eftlocal.apps.serve.errors import Refused, StoppedError
from eftlocal.apps.serve.mailbox import Began, Failed, News
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Known
from eftlocal.apps.serve.service import Facts, Service
from eftlocal.decoding.generation import Reply
from eftlocal.errors import DecodeError
from eftlocal.runtime.remote.faults import BusyError


@dataclass
class FakeOwner:
    """An owner that keeps its tasks and answers none."""

    tasks: list[Task] = field(default_factory=list)
    cancelled: list[Task] = field(default_factory=list)
    ready: Any = field(
        default_factory=lambda: SimpleNamespace(done=lambda: True, result=lambda: SimpleNamespace(parallel=1))
    )

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def cancel(self, task: Task) -> None:
        self.cancelled.append(task)


class Asked:
    """A request for a chat that runs: what was sent so far, and how to leave."""

    def __init__(self, endpoint: Any = chat, **fields: Any) -> None:
        self.owner = FakeOwner()
        self.log: list[str] = []
        facts = {"demo": Facts("fp_1", 512)}
        known = Known("demo", {"demo": ()})
        self.service = Service(
            owner=self.owner,  # type: ignore[arg-type]
            known=known,
            metrics=Metrics(),
            queue=0,
            tell=self.log.append,
            facts=facts,
        )
        body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "model": "demo", **fields}
        self.answering = endpoint.answer(self.service, body)
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.blocked = asyncio.Event()
        self.blocked.set()
        self.task = asyncio.ensure_future(self.answering({}, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.blocked.wait()
        self.sent.append(message)

    async def put(self, *letters: Any) -> None:
        await asyncio.sleep(0.01)
        for letter in letters:
            self.owner.tasks[0].mailbox.put(letter)
        await asyncio.sleep(0.01)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def events(self) -> list[Any]:
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


def reply(text: str, reason: Any = "stop") -> Reply:
    counts: dict[str, Any] = {"ttft_s": 0.1, "tokens_per_s": 1.0, "prompt_tokens": {"base": 3}, "kept": 1}
    return Reply(text=text, tokens=(1, 2), finish_reason=reason, stopped_by=None, seed=0, beta=1.0, **counts)


def run(main: Callable[[], Any]) -> None:
    asyncio.run(main())


def test_a_stream_shows_signs_of_life_and_ends_with_the_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "SIGN_OF_LIFE", 0.05)

    async def main() -> None:
        asked = Asked(stream=True, stream_options={"include_usage": True})
        await asyncio.sleep(0.12)
        assert not asked.sent  # until the prompt is accepted, an error would have its own status
        await asked.put(Began(0, [1, 2, 3]))
        await asyncio.sleep(0.12)
        assert asked.body.count(b": waiting\n\n") == 2
        await asked.put(News(0, "Hel"), News(0, "lo", reply=reply("Hello")))
        await asked.task
        assert asked.events[-1] == "[DONE]"
        *chunks, last = asked.events[:-1]
        assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "Hello", None]
        assert all(chunk["usage"] is None and chunk["system_fingerprint"] == "fp_1" for chunk in chunks)
        assert last["choices"] == [] and last["usage"]["total_tokens"] == 5
        assert not asked.owner.cancelled and asked.service.metrics.open == 0

    run(main)


@pytest.mark.parametrize("endpoint", [chat, completions])
@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_choice_tells_what_a_server_with_the_base_left_out(stream: bool, endpoint: Any) -> None:
    async def choices(ended: Reply) -> list[dict[str, Any]]:
        asked = Asked(endpoint, stream=stream)
        await asked.put(Began(0, [1, 2, 3]), News(0, "Hello", reply=ended))
        await asked.task
        answers = asked.events[:-1] if stream else [json.loads(asked.body)]
        return [choice for answer in answers for choice in answer["choices"]]

    async def main() -> None:
        *others, last = await choices(replace(reply("Hello"), left_out=((0.25, 0.5), (0.75, 0.0))))
        assert last["unknown"] == {"mass": 0.5, "bound": 0.25, "worst_bound": 0.5}
        assert not any("unknown" in choice for choice in (*others, *await choices(reply("Hello"))))

    run(main)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_task_at_once(stream: bool) -> None:
    async def main() -> None:
        asked = Asked(stream=stream)
        await asked.put(Began(0, [1]), News(0, "He"))
        asked.left.set()
        with pytest.raises(LeftError):
            await asked.task
        assert asked.owner.tasks[0] in asked.owner.cancelled and asked.service.metrics.open == 0

    run(main)


def test_a_client_that_leaves_while_it_takes_nothing_cancels_its_task_at_once() -> None:
    async def main() -> None:
        asked = Asked(stream=True)
        asked.blocked.clear()
        await asked.put(Began(0, [1]), News(0, "He"))
        asked.left.set()
        await asyncio.sleep(0.01)
        assert asked.owner.cancelled == asked.owner.tasks and not asked.task.done()
        asked.task.cancel()

    run(main)


def test_a_client_that_takes_nothing_for_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "STALLED", 0.05)

    async def main() -> None:
        asked = Asked(stream=True)
        asked.blocked.clear()
        await asked.put(Began(0, [1]))
        with pytest.raises(LeftError):
            await asked.task
        assert asked.owner.cancelled and asked.service.metrics.open == 0

    run(main)


def test_an_error_before_the_stream_has_its_status_and_one_within_is_an_event() -> None:
    async def main() -> None:
        early = Asked(stream=True)
        await early.put(Failed(DecodeError("/home/me/model.gguf: llama.cpp could not decode")))
        with pytest.raises(Refused) as refused:
            await early.task
        assert refused.value.status == 500 and "model.gguf" not in refused.value.message and not early.sent
        assert "model.gguf" in early.log[0]
        late = Asked(stream=True)
        await late.put(Began(0, [1]), News(0, "He"))
        await late.put(Failed(StoppedError()))
        await late.task
        assert late.events[-2]["error"]["code"] == "stopping" and late.events[-1] == "[DONE]"

    run(main)


def test_a_base_whose_server_is_away_is_a_503_that_clients_try_again_and_its_address_stays_in_the_log() -> None:
    error = DecodeError("http://10.0.0.1:8080 does not answer.")
    error.__cause__ = BusyError(error.message)

    async def main() -> None:
        early, late = Asked(), Asked(stream=True)
        await early.put(Failed(error))
        with pytest.raises(Refused) as refused:
            await early.task
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "5")
        assert "10.0.0.1" not in refused.value.message and "10.0.0.1" in early.log[0]
        await late.put(Began(0, [1]), News(0, "He"))
        await late.put(Failed(error))
        await late.task
        assert late.events[-2]["error"]["code"] == "base_away" and b"10.0.0.1" not in late.body

    run(main)


def test_requests_beyond_the_queue_are_refused_and_a_stopping_server_takes_none() -> None:
    async def main() -> None:
        asked = Asked()
        await asyncio.sleep(0)
        asked.service.metrics.open = 1
        with pytest.raises(Refused) as refused, asked.service.admitted():
            pass
        assert refused.value.status == 503 and refused.value.headers["Retry-After"] == "1"
        asked.service.metrics.open, asked.service.stopping = 0, True
        with pytest.raises(Refused, match="stopping"), asked.service.admitted():
            pass
        asked.task.cancel()

    run(main)
