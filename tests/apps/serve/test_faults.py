"""Faults of ours, and odd values that only a hostile or broken client sends: each concerns one request alone."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.types import Message

from eftlocal import Emulator
from eftlocal.apps.serve import bodies
from eftlocal.apps.serve.desk import Desk, Task
from eftlocal.apps.serve.errors import NotLoadedError, Refused, one_line
from eftlocal.apps.serve.guard import Access
from eftlocal.apps.serve.mailbox import Failed, Letter, Mailbox, News
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Shelf
from eftlocal.apps.serve.owner import Owner
from eftlocal.emulation.batch import Job
from eftlocal.emulation.emulator import Ids
from eftlocal.errors import ContextError, DecodeError, EftError, SettingError


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator.load("demo", draft=0) as loaded:
        yield loaded


def owner(desk: Callable[[str], Any], told: list[str]) -> Owner:
    """A running owner whose desks `desk` makes."""
    made = Owner(Shelf(lambda name: cast(Desk, desk(name)), 2), "first", Metrics(), told.append)
    made.start()
    return made


def idle_desk(**more: object) -> SimpleNamespace:
    nothing: dict[str, object] = {"working": False, "n_running": 0, "n_waiting": 0, "parallel": 1, "emulator": None}
    return SimpleNamespace(**{**nothing, "fail": lambda error: [], "close": lambda: None, **more})


# --- requests that fail -----------------------------------------------------------------------------------------------


def test_a_prompt_that_breaks_our_code_ends_its_own_request_alone(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = emulator.prepare

    def prepare(job: Job) -> Any:
        if job.prompt == "evil":
            raise ZeroDivisionError("a fault")
        return right(job)

    async def run() -> tuple[list[Letter], list[Letter]]:
        desk = Desk(emulator, 1, Metrics())
        good, evil = Mailbox(), Mailbox()
        desk.add(Task("demo", [Job("How large is Lyon?", {"max_tokens": 3})], good))
        desk.add(Task("demo", [Job("evil")], evil))
        while desk.working:
            for mailbox, letter in desk.step():
                mailbox.put(letter)
        return await good.take(), await evil.take()

    monkeypatch.setattr(emulator, "prepare", prepare)
    good, evil = asyncio.run(run())
    last = good[-1]
    assert isinstance(last, News) and last.reply is not None and len(last.reply.tokens) == 3
    (failed,) = evil
    assert isinstance(failed, Failed) and isinstance(failed.error, DecodeError)
    assert "ZeroDivisionError" in failed.error.message


def test_a_model_that_cannot_be_loaded_is_told_whatever_the_reason() -> None:
    def load(name: str) -> Any:
        if name == "first":
            return idle_desk()
        raise MemoryError("no room")

    told: list[str] = []
    running = owner(load, told)
    try:
        with pytest.raises(NotLoadedError):
            running.ask("second", lambda emulator: 1).result(10)
        assert running.ask("first", lambda emulator: 1).result(10) == 1
        assert told == ["second could not be loaded: no room"]
    finally:
        running.stop()
        running.join(10)


def test_a_question_whose_client_has_left_is_dropped() -> None:
    running = owner(lambda name: idle_desk(), [])
    try:
        held: Future[None] = Future()
        first = running.ask("first", lambda emulator: held.result(10))
        gone = running.ask("first", lambda emulator: pytest.fail("nobody waits for it"))
        assert gone.cancel()
        held.set_result(None)
        first.result(10)
        assert running.ask("first", lambda emulator: 1).result(10) == 1  # the thread lives
    finally:
        running.stop()
        running.join(10)


def test_an_owner_that_ends_by_a_fault_says_so_and_leaves_nobody_waiting() -> None:
    def broken(task: object) -> None:
        raise ZeroDivisionError("a fault")

    running = owner(lambda name: idle_desk(add=broken), [])

    async def ask() -> list[Letter]:
        mailbox = Mailbox()
        running.submit(Task("first", [], mailbox))
        return await asyncio.wait_for(mailbox.take(), 10)

    (letter,) = asyncio.run(ask())
    assert isinstance(letter, Failed)
    assert isinstance(running.ended.exception(10), ZeroDivisionError)
    with pytest.raises(EftError):
        running.ask("first", lambda emulator: 1).result(10)


def test_more_token_ids_than_the_context_holds_are_not_looked_at(emulator: Emulator) -> None:
    class Unread(Ids):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("each id was read")

    async def run() -> list[Letter]:
        desk, mailbox = Desk(emulator, 1, Metrics()), Mailbox()
        desk.add(Task("demo", [Job(Unread([5] * emulator.context))], mailbox))
        for _, letter in desk.step():
            mailbox.put(letter)
        return await mailbox.take()

    (failed,) = asyncio.run(run())
    assert isinstance(failed, Failed) and isinstance(failed.error, ContextError)
    assert failed.error.n_tokens == emulator.context


# --- odd values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["http://[", "//", "http://[::1", "\xff", "javascript:alert(1)"])
def test_an_origin_that_is_no_url_is_refused(origin: str) -> None:
    with pytest.raises(Refused) as refused:
        Access.of("127.0.0.1", None, ["https://example.org"]).check({"host": "127.0.0.1", "origin": origin})
    assert refused.value.status == 403
    with pytest.raises(SettingError, match="is not an origin"):
        Access.of("127.0.0.1", None, ["http://["])


@pytest.mark.parametrize("key", ["schlüssel", " spaces around \n", "half a byte \udcff"])
def test_a_key_of_any_bytes_is_found_as_clients_send_it(key: str) -> None:
    access = Access.of("0.0.0.0", key, [])
    sent = key.strip().encode("utf-8", "surrogateescape").decode("latin-1")  # as a server sees a header's bytes
    access.check_key({"authorization": f"Bearer {sent}"})
    with pytest.raises(Refused):
        access.check_key({"authorization": f"Bearer {sent}x"})


@pytest.mark.parametrize("data", [b'{"a": "\xed\xa0\x80"}', '{"a": "\ud800"}'.encode("utf-16", "surrogatepass")])
def test_bytes_that_are_half_a_character_are_no_text(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(data)
    assert refused.value.status == 400 and refused.value.code == "invalid_json"


def test_escaped_halves_of_characters_are_replaced_in_each_encoding() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32-be"):
        assert read('{"a": "é\\ud83d"}'.encode(encoding)) == {"a": "é\ufffd"}


def read(data: bytes) -> dict[str, object]:
    """A body, as the server reads it."""

    async def receive() -> Message:
        return {"type": "http.request", "body": data, "more_body": False}

    return asyncio.run(bodies.read(Request({"type": "http", "headers": [], "method": "POST"}, receive)))


def test_message_and_hint_are_two_sentences() -> None:
    assert one_line(EftError("messages is empty", "Each has a role")) == "messages is empty. Each has a role."
    assert one_line(EftError("It is so.")) == "It is so."
