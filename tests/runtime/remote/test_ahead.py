"""A server reads a prompt while the members here read theirs: it begins at once, and nothing depends on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from eftlocal.catalog.server import Server
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.remote.context import RemoteContext
from eftlocal.runtime.remote.link import Link, connect
from tests.runtime.remote.scripted import scripted, status

VOCAB = 8
PROMPT = [1, 2, 3, 4, 5]


def answers(completion: Callable[[Any], object]) -> Callable[[str, Any], object]:
    """A llama-server of two slots. `completion` answers once the link stands."""
    rows = [{"top_logprobs": [{"id": i, "bytes": [97], "logprob": -0.5 - i} for i in range(VOCAB)]}]
    plain = {
        "/props": {"default_generation_settings": {"n_ctx": 64}, "total_slots": 2},
        "/v1/models": {"data": [{"id": "m", "meta": {"n_vocab": VOCAB}}]},
        "/tokenize": {"tokens": [3]},
        "/slots": [],
    }

    def answer(path: str, body: Any) -> object:
        if path in plain:
            return plain[path]
        if path != "/completion" or body["prompt"][0] == 0 or (other := completion(body)) is None:
            return {"model": "m", "completion_probabilities": rows}
        return other

    return answer


def prompts(seen: list[tuple[str, object]]) -> list[list[int]]:
    asked = [body for path, body in seen if path == "/completion" and isinstance(body, dict)]
    return [body["prompt"] for body in asked if body["prompt"][0] != 0]


def context(link: Link) -> RemoteContext:
    return RemoteContext(link, n_vocab=VOCAB, n_real=VOCAB, n_ctx=64, n_seq=4)


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_prompt_is_sent_once_before_its_first_part_is_fed_and_the_row_is_asked_for_when_it_was_read() -> None:
    read = threading.Event()

    def completion(body: Any) -> None:
        if body["n_probs"] == 1:
            read.wait(20)

    with scripted(answers(completion)) as server:
        link = connect(Server(url=server.url))
        made = context(link)
        made.expect(0, PROMPT)
        until(lambda: prompts(server.seen) == [PROMPT[:-1]])
        made.feed([Feed(0, PROMPT[:2], 0)])
        made.expect(0, PROMPT)
        asking = threading.Thread(target=made.feed, args=([Feed(0, PROMPT[2:], 1)],))
        asking.start()
        asking.join(0.1)
        assert asking.is_alive() and prompts(server.seen) == [PROMPT[:-1]]
        read.set()
        asking.join(20)
        assert prompts(server.seen) == [PROMPT[:-1], PROMPT] and made.held(0) == len(PROMPT)
        made.close()
        link.close()


def test_a_prompt_that_cannot_be_read_ahead_changes_nothing() -> None:
    failed: list[object] = []

    def completion(body: Any) -> object:
        if body["n_probs"] > 1:
            return None
        failed.append(body)
        return status(500)

    with scripted(answers(completion)) as server:
        link = connect(Server(url=server.url))
        made = context(link)
        made.expect(0, PROMPT)
        row = made.feed([Feed(0, PROMPT, 1)])
        assert row.argmax() == 0 and len(failed) == 1
        link.close()


def test_a_prompt_that_nobody_needs_any_more_is_dropped_at_once() -> None:
    ended = threading.Event()

    def completion(body: Any) -> None:
        if body["n_probs"] == 1:
            ended.wait(20)

    def reading() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "eftlocal-ahead"]

    with scripted(answers(completion)) as server:
        link = connect(Server(url=server.url))
        made = context(link)
        drops: list[Callable[[], object]] = [
            lambda: made.expect(0, ()),
            lambda: made.feed([Feed(0, [2, 2], 1)]),
            made.close,
        ]
        for drop in drops:
            made.expect(0, PROMPT)
            assert len(reading()) == 1
            drop()
            until(lambda: not reading())
        made.expect(0, PROMPT)
        (before,) = reading()
        made.expect(0, [7, 7, 7])
        until(lambda: len(reading()) == 1 and before not in reading())
        ended.set()
        link.close()


def test_a_sequence_that_moved_waits_for_its_prompt_and_no_bad_token_is_sent() -> None:
    read = threading.Event()

    def completion(body: Any) -> None:
        if body["n_probs"] == 1:
            read.wait(20)

    with scripted(answers(completion)) as server:
        link = connect(Server(url=server.url))
        made = context(link)
        for bad in (VOCAB, -1):  # such an id ends SGLang's process
            made.expect(1, [*PROMPT, bad])
        made.expect(1, PROMPT * 20)  # longer than the context
        made.expect(1, PROMPT)
        made.fork(1, 0, 0)
        asking = threading.Thread(target=made.feed, args=([Feed(0, PROMPT, 1)],))
        asking.start()
        asking.join(0.1)
        assert asking.is_alive()  # a second request would read it once more, beside the first
        read.set()
        asking.join(20)
        assert prompts(server.seen) == [PROMPT[:-1], PROMPT]
        made.close()
        link.close()


def test_no_more_prompts_are_read_ahead_than_the_server_computes_at_a_time() -> None:
    with scripted(answers(lambda body: None)) as server:
        link = connect(Server(url=server.url))
        made = context(link)
        made.expect(2, PROMPT)
        made.expect(1, PROMPT)
        made.feed([Feed(2, PROMPT, 1), Feed(1, PROMPT, 1)])
        assert sorted(map(len, prompts(server.seen))) == [4, 5, 5]
        link.close()
