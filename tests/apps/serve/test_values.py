"""What requests say: model ids, bodies, fields, hosts and keys, without a server."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request

from eftlocal.apps.serve import bodies, chat, completions, requests
from eftlocal.apps.serve.entries import completion_entries, token_text
from eftlocal.apps.serve.errors import Refused
from eftlocal.apps.serve.guard import Access
from eftlocal.apps.serve.mailbox import Entry, Mailbox, News, Top
from eftlocal.apps.serve.metrics import Metrics
from eftlocal.apps.serve.models import Known, dialled
from eftlocal.apps.serve.service import Service
from eftlocal.errors import SettingError

KNOWN = Known("demo", {"demo": ("base", "tuned", "reference"), "a@b": ("base",), "llama:8b": ("base", "x.tuned")})
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("text", "name", "dials"),
    [
        (None, "demo", {}),
        ("", "demo", {}),
        ("demo", "demo", {}),
        ("demo:base", "demo", {"alone": "base"}),
        ("demo@beta=0.5", "demo", {"beta": 0.5}),
        ("demo@mix.code=1", "demo", {"mix": {"code": 1.0}}),
        ("demo@beta=2,mix.a=1@mix.b=-0.5", "demo", {"beta": 2.0, "mix": {"a": 1.0, "b": -0.5}}),
        ("demo:tuned@temperature=0", "demo", {"alone": "tuned", "temperature": 0.0}),
        ("demo@draft=auto", "demo", {"draft": "auto"}),
        ("a@b", "a@b", {}),
        ("llama:8b", "llama:8b", {}),
        ("llama:8b:x.tuned", "llama:8b", {"alone": "x.tuned"}),
    ],
)
def test_a_model_id_names_an_emulator_a_role_and_dials(text: str | None, name: str, dials: dict[str, Any]) -> None:
    assert dialled(text, KNOWN) == (name, dials)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("gpt-4o", 404),
        ("demo:chat", 404),
        ("demo@", 400),
        ("demo@beta", 400),
        ("demo@beta=x", 400),
        ("demo@beta=1e999", 400),
        ("demo@beta=NaN", 400),
        ("demo@beta=true", 400),
        ("demo@strength=1", 400),
        ("demo@stop=x", 400),
        ("demo@mix.a=inf", 400),
        ("demo@temperature=-1", 400),
    ],
)
def test_a_wrong_model_id_names_the_field(text: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        dialled(text, KNOWN)
    assert (refused.value.status, refused.value.param) == (status, "model")


def read(data: bytes, headers: dict[str, str] | None = None) -> dict[str, object]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    scope = {"type": "http", "headers": [(k.encode(), v.encode()) for k, v in (headers or {}).items()]}
    return asyncio.run(bodies.read(Request(scope, receive)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ],
)
def test_a_body_that_is_no_plain_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        read(data)
    assert refused.value.status == 400


def test_half_a_character_becomes_a_replacement_character() -> None:
    assert read(b'{"a": ["\\ud83d", "\\ud83d\\ude00", {"\\udc00": 1}]}') == {"a": ["\ufffd", "😀", {"\ufffd": 1}]}


def test_a_body_that_is_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY", 10)
    for headers in ({"content-length": "11"}, {}):
        with pytest.raises(Refused) as refused:
            read(b'{"a": "bcdef"}', headers)
        assert refused.value.status == 413
    assert read(b'{"a": "b"}') == {"a": "b"}


@pytest.fixture
def service() -> Service:
    """A service that only knows models: enough to read requests."""
    return Service(owner=None, known=KNOWN, metrics=Metrics(), queue=1, tell=print)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", -0.1),
        ("top_p", 1.5),
        ("top_k", 1.5),
        ("n", 0),
        ("n", 129),
        ("seed", -2),
        ("stop", [1]),
        ("stop", ""),
        ("stop", ["x"] * 65),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("logit_bias", {"x": 1}),
        ("logit_bias", []),
        ("logit_bias", dict.fromkeys(map(str, range(5000)), 1)),
        ("logprobs", 1),
        ("top_logprobs", 1),
        ("stream", "yes"),
        ("stream_options", 1),
        ("response_format", "json"),
        ("response_format", {"type": "yaml"}),
        ("response_format", {"type": "json_schema"}),
        ("regex", "("),
        ("choice", []),
        ("beta", "1"),
        ("mix", {"a": True}),
        ("reward_top_p", 2),
        ("draft", "many"),
        ("model", 5),
        ("tools", "search"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("messages", []),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ("messages", [{"role": "oracle", "content": "x"}]),
    ],
)
def test_a_known_field_with_a_wrong_value_is_named(service: Service, param: str, value: object) -> None:
    with pytest.raises(Refused) as refused:
        chat.answer(service, {"messages": HELLO, param: value})
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in refused.value.message or refused.value.message.startswith("A ")


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("prompt", {}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ["a", 1]}),
        ("prompt", {"prompt": [[1], []]}),
        ("prompt", {"prompt": [True]}),
        ("prompt", {"prompt": ["a"] * 100, "n": 100}),
        ("prompt", {"prompt": [1, 2], "views": "own"}),
        ("logprobs", {"prompt": "a", "logprobs": True}),
        ("logprobs", {"prompt": "a", "logprobs": 5000}),
        ("views", {"prompt": "a", "views": "chat"}),
        ("views", {"prompt": "a", "views": "own", "echo": True, "logprobs": 1}),
        ("max_tokens", {"prompt": "a", "max_tokens": 0}),
        ("suffix", {"prompt": "a", "suffix": "b"}),
        ("best_of", {"prompt": "a", "best_of": 1, "n": 2}),
        ("best_of", {"prompt": "a", "best_of": 2, "stream": True}),
    ],
)
def test_a_wrong_completion_is_named(service: Service, param: str, body: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        completions.answer(service, body)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_unknown_fields_are_ignored_and_other_names_are_known() -> None:
    body = {"user": 5, "store": {}, "max_completion_tokens": 3, "repetition_penalty": 1.1, "top_k": -1, "seed": -1}
    common = requests.common({**body, "stream": None, "stream_options": {"include_usage": True}, "temperature": None})
    assert common.dials == {"max_tokens": 3, "repeat_penalty": 1.1, "top_k": 0}
    assert common.stream == requests.Stream(on=False, usage=True) and common.n == 1


def test_a_conversation_may_have_developers_parts_and_null_contents() -> None:
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    found = [(message.role, message.content) for message in requests.messages({"messages": given})]
    assert found == [("system", "Be brief."), ("user", "a\nb"), ("assistant", "")]


# --- who may ask ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "127.0.0.2", "a.localhost"]
)
def test_names_of_this_machine_are_hosts_of_the_server(host: str) -> None:
    Access.of("127.0.0.1", None, ()).check({"host": host})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "192.168.1.5:8000", "localhost.evil.example"]
)
def test_other_names_are_refused_against_dns_rebinding(host: str) -> None:
    with pytest.raises(Refused) as refused:
        Access.of("127.0.0.1", None, ()).check({"host": host})
    assert refused.value.status == 403


def test_a_server_for_other_machines_needs_a_key_and_takes_addresses() -> None:
    with pytest.raises(SettingError, match="EFTLOCAL_API_KEY"):
        Access.of("0.0.0.0", None, ())
    with pytest.raises(SettingError, match="empty"):
        Access.of("127.0.0.1", " ", ())
    access = Access.of("0.0.0.0", "secret", ("https://chat.example",))
    for host in ("192.168.1.5:8000", "chat.example", "host.docker.internal"):
        access.check({"host": host})
    with pytest.raises(Refused):
        access.check({"host": "evil.example"})


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer secret2", "Bearer ü"]
)
def test_a_wrong_key_is_refused(given: str | None) -> None:
    access = Access.of("127.0.0.1", "secret", ())
    with pytest.raises(Refused) as refused:
        access.check_key({} if given is None else {"authorization": given})
    assert refused.value.status == 401
    access.check_key({"authorization": "Bearer secret"})
    access.check_key({"authorization": "bearer  secret"})


def test_only_pages_of_this_machine_and_of_named_origins_may_ask() -> None:
    access = Access.of("127.0.0.1", None, ("https://a.example/",))
    for origin in ("http://localhost:3000", "http://127.0.0.1", "https://a.example", "https://[::1]:5"):
        access.check({"host": "localhost", "origin": origin})
        assert access.cors(origin)["Access-Control-Allow-Origin"] == origin
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "https://b.a.example", "file://"):
        with pytest.raises(Refused) as refused:
            access.check({"host": "localhost", "origin": origin})
        assert refused.value.status == 403 and not access.cors(origin)
    Access.of("127.0.0.1", None, ("*",)).check({"host": "localhost", "origin": "https://any.example"})
    with pytest.raises(SettingError, match="not an origin"):
        Access.of("127.0.0.1", None, ("a.example",))


# --- what responses say -----------------------------------------------------------------------------------------------


def test_the_chosen_and_the_best_token_are_in_the_top_with_the_same_numbers() -> None:
    top = (Top(7, b" b", -0.5), Top(8, b"\xe2\x80", -1.5), Top(9, b" a", -2.0))
    entries = [Entry(5, b" a", None, ()), Entry(9, b" a", -2.0, top), Entry(6, b" b", float("-inf"), top)]
    found: Any = completion_entries(entries)
    assert found["tokens"] == [" a", " a", " b"] and found["token_logprobs"] == [None, -2.0, -9999.0]
    assert found["top_logprobs"] == [
        None,
        {" a": -2.0, " b": -0.5, "bytes:\\xe2\\x80": -1.5},
        {" b": -9999.0, "token_id:7": -0.5, "bytes:\\xe2\\x80": -1.5, " a": -2.0},
    ]
    assert found["text_offset"] == [0, 2, 4]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert token_text("é".encode()[:1]) == "bytes:\\xc3"


def test_news_that_nobody_takes_become_one_letter() -> None:
    async def main() -> None:
        mailbox = Mailbox()
        for text in ("a", "b", "c"):
            mailbox.put(News(0, text))
            mailbox.put(News(1, text.upper()))
        first, second = await mailbox.take()
        assert isinstance(first, News) and isinstance(second, News)
        assert (first.index, first.text, second.index, second.text) == (0, "abc", 1, "ABC")
        mailbox.put(News(0, "d"))
        (third,) = await mailbox.take()
        assert isinstance(third, News) and third.text == "d" and first.text == "abc"

    asyncio.run(main())


def test_metrics_are_in_prometheus_text_format() -> None:
    metrics = Metrics()
    metrics.requests["/v1/models", 200] += 1234567
    text = metrics.text()
    assert 'eftlocal_requests_total{path="/v1/models",status="200"} 1234567\n' in text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert line.split("{")[0].split()[0] in names
