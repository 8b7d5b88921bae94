"""The real program: its endpoints, who leaves, what is refused, and how it ends."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from eftlocal import Emulator, Raw
from eftlocal.emulation.emulator import Ids
from tests.apps.serve.client import Answer, ask, asked, chat, post
from tests.apps.serve.running import Running
from tools import serve_storm

pytestmark = pytest.mark.slow

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = "How large is Lyon?"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("demo", "--draft", "0", "--parallel", "2", "--kv-type", "f32") as running:
        yield running


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator.load("demo", draft=0, kv_type="f32") as loaded:
        yield loaded


def endless(**fields: object) -> dict[str, object]:
    """The body of a completion of 200 tokens: nothing ends it, since token 1 would."""
    return {"prompt": "Where?", "max_tokens": 200, "logit_bias": {"1": "-inf"}, "temperature": 1, **fields}


def got(server: Running, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
    return asyncio.run(ask(server.port, method, path, body, headers))


def metric(server: Running, name: str) -> float:
    found = re.search(rf"^eftlocal_{name} (\S+)$", got(server, "GET", "/metrics").body.decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


async def until_idle(port: int, within: float = 60.0) -> None:
    """Wait until nothing runs."""
    began = time.perf_counter()
    while time.perf_counter() - began < within:
        text = (await ask(port, "GET", "/metrics")).body
        if b"eftlocal_answers_running 0\n" in text and b"eftlocal_requests_open 0\n" in text:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(text.decode())


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_the_small_endpoints_answer_also_with_two_slashes(server: Running) -> None:
    assert got(server, "GET", "/health").json == {"status": "ok"}
    models = got(server, "GET", "//v1/models/").json["data"]
    assert [model["id"] for model in models] == ["demo", "demo:base", "demo:tuned", "demo:reference"]
    assert got(server, "GET", "/v1/models/demo:base@beta=1").json["id"] == "demo:base@beta=1"
    assert got(server, "GET", "/v1/models/other").json["error"]["code"] == "model_not_found"
    assert got(server, "GET", "/v2").status == 404
    refused = got(server, "GET", CHAT)
    assert (refused.status, refused.headers["allow"]) == (405, "POST")
    assert got(server, "POST", CHAT, b"{}", {"Content-Encoding": "gzip"}).status == 415


def test_the_tokenizer_works_from_afar(server: Running, emulator: Emulator) -> None:
    found = got(server, "POST", "/tokenize", {"prompt": "Paris<|im_end|>", "return_token_strs": True}).json
    assert found["token_strs"][-1] == "<|im_end|>" and found["count"] == len(found["tokens"])
    assert found["tokens"][:-1] == emulator.render(Raw("Paris"))["base"]
    text = got(server, "POST", "/detokenize", {"tokens": found["tokens"]}).json
    assert text == {"prompt": "Paris<|im_end|>"}
    messages = got(server, "POST", "/tokenize", {"messages": chat(QUESTION)["messages"]}).json
    assert messages["tokens"] == emulator.render(QUESTION)["base"]
    info = got(server, "GET", "/tokenizer_info").json
    assert info["eos_token"] == "<|im_end|>" and "messages" in info["chat_template"]
    assert got(server, "POST", "/detokenize", {"tokens": [10**6]}).status == 400


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_is_the_score_of_each_token(server: Running, emulator: Emulator, stream: bool) -> None:
    text = "Lyon lies in France. It is"
    ids = emulator.render(Raw(text))["base"]
    reply = emulator.generate(Raw(text), max_tokens=3)
    wanted = emulator.score(Ids(ids[:1]), ids[1:] + list(reply.tokens), top=2)
    for prompt in (text, ids, [text, text], [ids]):
        asking: dict[str, object] = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 3}
        for found in completions(server, asking, stream=stream):
            logprobs = found["logprobs"]
            assert found["text"] == text + reply.text and found["finish_reason"] == "length"
            assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
            scores = [token.logprob for token in wanted.tokens]
            assert logprobs["token_logprobs"][1:] == pytest.approx(scores, abs=1e-4)
            assert "".join(logprobs["tokens"]) == found["text"]
            assert [found["text"][at:] for at in logprobs["text_offset"]] == [
                "".join(logprobs["tokens"][i:]) for i in range(len(logprobs["tokens"]))
            ]
            chosen = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
            for token, logprob, top in list(chosen)[1:]:
                assert top[token] == logprob and len(top) in (2, 3)


def completions(server: Running, body: dict[str, object], *, stream: bool) -> list[Any]:
    """The choices of a completion; those of a stream are put together."""
    if not stream:
        return list(got(server, "POST", TEXT, body).json["choices"])

    async def main() -> list[Any]:
        choices = dict[int, Any]()
        async with asked(server.port, "POST", TEXT, {**body, "stream": True}) as response:
            async for event in response.events():
                choice = event["choices"][0]
                whole = choices.setdefault(choice["index"], {"text": "", "logprobs": {}})
                whole["text"] += choice["text"]
                for name, values in (choice["logprobs"] or {}).items():
                    whole["logprobs"].setdefault(name, []).extend(values)
                whole["finish_reason"] = choice["finish_reason"]
        return [choices[i] for i in sorted(choices)]

    return asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_ends_an_answer_has_its_entry(server: Running, emulator: Emulator, stream: bool) -> None:
    ids = [*emulator.render(QUESTION)["tuned"], *emulator.generate(QUESTION).tokens]
    asking = {"model": "demo:tuned", "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1}
    (found,) = completions(server, asking, stream=stream)
    assert len(found["logprobs"]["tokens"]) == len(ids) + 1 and found["finish_reason"] == "stop"
    assert found["logprobs"]["tokens"][-1] == "<|im_end|>" and found["logprobs"]["token_logprobs"][-1] > -1
    (scored,) = completions(server, {**asking, "max_tokens": 0}, stream=stream)
    assert scored["logprobs"]["token_logprobs"] == pytest.approx(found["logprobs"]["token_logprobs"][:-1])
    assert scored["finish_reason"] == "length"


def test_control_tokens_among_token_ids_stay_what_they_are(server: Running) -> None:
    found = got(server, "POST", TEXT, {"prompt": [0, 49, 1], "echo": True, "logprobs": 0, "max_tokens": 0}).json
    assert found["choices"][0]["logprobs"]["tokens"] == ["<|doc|>", "P", "<|im_end|>"]
    counts = {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
    assert found["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 0}}


def test_own_views_show_each_member_its_template(server: Running, emulator: Emulator) -> None:
    asking = {"prompt": QUESTION, "max_tokens": 20, "views": "own"}
    found = got(server, "POST", TEXT, asking).json
    assert found["choices"][0]["text"] == emulator.generate(QUESTION).text and found["views"] == "own"
    raw = got(server, "POST", TEXT, {**asking, "views": "raw"}).json
    assert raw["choices"][0]["text"] == emulator.generate(Raw(QUESTION), max_tokens=20).text and raw["views"] == "raw"


def test_the_best_of_several_answers_is_the_likeliest(server: Running) -> None:
    asking = {"prompt": "The city", "max_tokens": 8, "temperature": 1.5, "seed": 3, "logprobs": 0}
    each = got(server, "POST", TEXT, {**asking, "n": 4}).json["choices"]
    assert len({choice["text"] for choice in each}) > 1  # samples differ

    def mean(choice: Any) -> float:
        numbers = choice["logprobs"]["token_logprobs"]
        return float(sum(numbers) / len(numbers))

    best = got(server, "POST", TEXT, {**asking, "n": 2, "best_of": 4}).json["choices"]
    assert [choice["text"] for choice in best] == [c["text"] for c in sorted(each, key=mean, reverse=True)[:2]]


def test_shapes_stops_and_open_answers_work_as_in_generate(server: Running, emulator: Emulator) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["size"],
    }
    schema["additionalProperties"] = False
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = got(server, "POST", CHAT, chat(QUESTION, response_format=format)).json["choices"][0]
    assert isinstance(json.loads(answer["message"]["content"])["size"], int)
    chosen = got(server, "POST", CHAT, chat(QUESTION, choice=["red", "blue"])).json["choices"][0]
    assert chosen["message"]["content"] in ("red", "blue") and chosen["finish_reason"] == "stop"
    stopped = got(server, "POST", CHAT, chat(QUESTION, stop=" about")).json["choices"][0]
    assert stopped["message"]["content"] == "That would be" and stopped["finish_reason"] == "stop"
    opened = {"messages": [*chat(QUESTION)["messages"], {"role": "assistant", "content": "That would"}]}  # type: ignore[misc]
    continued = got(server, "POST", CHAT, opened).json["choices"][0]["message"]["content"]
    assert "That would" + continued == emulator.generate(QUESTION).text


def test_a_stream_has_the_form_that_clients_read(server: Running) -> None:
    async def main() -> None:
        asking = chat(QUESTION, stream=True, n=2, stop=["about"], logprobs=True, top_logprobs=1)
        async with asked(server.port, "POST", CHAT, asking) as response:
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert response.headers["x-accel-buffering"] == "no" and "content-encoding" not in response.headers
            events = [event async for event in response.events()]
        assert all("usage" not in event for event in events)
        for i in range(2):
            own = [event["choices"][0] for event in events if event["choices"][0]["index"] == i]
            assert own[0]["delta"] == {"role": "assistant", "content": ""} and own[-1]["finish_reason"] == "stop"
            assert "".join(choice["delta"].get("content", "") for choice in own) == "That would be "
            entries = [entry for choice in own for entry in (choice["logprobs"] or {"content": []})["content"]]
            assert bytes(b for entry in entries for b in entry["bytes"]).startswith(b"That would be about")

    asyncio.run(main())


def test_tools_reach_the_templates_that_know_them(tmp_path: Any) -> None:
    template = "{% if tools %}T{{ tools | length }} {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    demo = "demo-large-base"
    table = f'[emulators.t]\nbase = "{demo}"\nviews = {{ base = {{ template = "{template}" }} }}\n'
    (tmp_path / "models.toml").write_text(f'default = "t"\n{table}')
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with Running("t", "--models", str(tmp_path / "models.toml")) as server:
        bodies: tuple[dict[str, Any], ...] = ({}, {"tools": tools}, {"tools": tools, "tool_choice": "none"})
        answers = [got(server, "POST", CHAT, chat("hi", model="t", **more)) for more in bodies]
        lengths = [answer.json["usage"]["prompt_tokens"] for answer in answers]
        assert lengths[0] == lengths[2] < lengths[1]


# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_work_of_a_client_that_leaves_ends_and_others_are_not_changed(
    server: Running, emulator: Emulator, stream: bool
) -> None:
    """Two answers fill the places; two requests wait. All four clients leave."""

    async def main() -> None:
        leaving = [asyncio.ensure_future(post(server.port, TEXT, endless(stream=stream, n=4))) for _ in range(4)]
        await asyncio.sleep(0.1)
        staying = asyncio.ensure_future(post(server.port, CHAT, chat(QUESTION)))
        await asyncio.sleep(0.05)
        for task in leaving:
            task.cancel()
        answer = (await asyncio.wait_for(staying, 60)).json["choices"][0]["message"]["content"]
        assert answer == emulator.generate(QUESTION).text
        await until_idle(server.port)

    before = metric(server, "completion_tokens_total")
    asyncio.run(main())
    assert metric(server, "completion_tokens_total") - before < 4 * 4 * 200  # they did not run to their ends
    assert sum(" 499 " in line for line in server.lines) >= 4


def test_a_reader_that_does_not_read_holds_nobody_up(server: Running, emulator: Emulator) -> None:
    async def main() -> None:
        sleeping = socket.socket()
        sleeping.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sleeping.connect(("127.0.0.1", server.port))
        body = json.dumps(endless(stream=True, logprobs=20, n=8))
        head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sleeping.sendall((head + body).encode())
        await asyncio.sleep(0.3)
        for _ in range(5):
            answer = await asyncio.wait_for(post(server.port, CHAT, chat(QUESTION)), 60)
            assert answer.json["choices"][0]["message"]["content"] == emulator.generate(QUESTION).text
        sleeping.close()
        await until_idle(server.port)

    asyncio.run(main())


def test_a_storm_of_clients_changes_no_answer(server: Running) -> None:
    known = serve_storm.Known(kv_type="f32")
    storm = serve_storm.Storm(server.port, known, seed=1, pause=0.03)
    asyncio.run(storm.run(clients=12, seconds=4))
    assert not storm.wrong and sum(storm.seen.values()) > 20
    assert not [line for line in server.lines if " 500 " in line]


def test_no_mutated_body_gives_a_fault_of_the_server(server: Running) -> None:
    found: Any = asyncio.run(serve_storm.bodies(server.port, 600, seed=2))
    assert not found["bad"] and found["answers_after"] and len(found["statuses"]) >= 2


# --- limits and errors ------------------------------------------------------------------------------------------------


def test_errors_have_openais_form_and_show_nothing_of_the_machine(server: Running) -> None:
    found = got(server, "POST", CHAT, chat("hi " * 600, max_tokens=10))
    error = found.json["error"]
    assert found.status == 400 and error["code"] == "context_length_exceeded"
    words = r"This model's maximum context length is 512 tokens. However, you requested (\d+) tokens \((\d+) in the "
    numbers = re.match(words, error["message"])
    assert numbers is not None and int(numbers[1]) == int(numbers[2]) + 10
    assert (error["n_ctx"], error["n_prompt_tokens"]) == (512, int(numbers[2]))
    for body, param in (
        ({"beta": 1e308}, "beta"),
        ({"mix": {"x": 1}}, "mix"),
        ({"alone": "x"}, "alone"),
        ({"stop": "a<|im_end|>"}, "stop"),
    ):
        error = got(server, "POST", CHAT, chat("hi", **body)).json["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert "/" not in error["message"]
    ids = got(server, "POST", TEXT, {"prompt": [10**6]})
    assert ids.status == 400 and "token id" in ids.json["error"]["message"]


def test_the_guard_stands_before_every_path() -> None:
    with Running("demo", environment={"EFTLOCAL_API_KEY": "secret"}) as server:
        right = {"Authorization": "Bearer secret"}
        for method, path in (("GET", "/health"), ("GET", "/metrics"), ("POST", CHAT), ("GET", "/nowhere")):
            assert got(server, method, path).status == 401
            assert got(server, method, path, b"{}", right).status != 401
            assert got(server, method, path, None, {**right, "Host": "evil.example"}).status == 403
            assert got(server, method, path, None, {**right, "Origin": "https://evil.example"}).status == 403
        page = {"Origin": "http://localhost:3000"}
        asking = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = got(server, "OPTIONS", CHAT, None, asking)
        assert preflight.status == 204 and preflight.headers["access-control-allow-headers"] == "authorization"
        allowed = got(server, "POST", CHAT, chat(QUESTION), {**right, **page})
        assert allowed.status == 200 and allowed.headers["access-control-allow-origin"] == page["Origin"]
        assert "secret" not in "\n".join(server.lines) and QUESTION not in "\n".join(server.lines)


def test_a_full_queue_is_told_with_a_time_to_come_back() -> None:
    async def main(port: int) -> list[Answer]:
        return list(await asyncio.gather(*(post(port, TEXT, endless(n=2)) for _ in range(6))))

    with Running("demo", "--draft", "0", "--parallel", "1", "--queue", "2") as server:
        answers = asyncio.run(main(server.port))
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) == 3 and sum(answer.status == 200 for answer in answers) == 3
    assert refused[0].headers["retry-after"] and refused[0].json["error"]["code"] == "queue_full"


def test_other_emulators_are_loaded_when_they_are_asked_for_and_one_gives_its_place() -> None:
    with Running("demo", "--models-max", "2", "--draft", "0") as server:
        ids = [model["id"] for model in got(server, "GET", "/v1/models").json["data"]]
        assert {"demo", "demo:base", "demo-upper", "demo-down"} <= set(ids)

        async def main() -> list[Answer]:
            names = ("demo", "demo-upper", "demo-down") * 3
            return list(await asyncio.gather(*(post(server.port, CHAT, chat(QUESTION, model=n)) for n in names)))

        answers = asyncio.run(main())
        texts = [answer.json["choices"][0]["message"]["content"] for answer in answers]
        for i, name in enumerate(("demo", "demo-upper", "demo-down")):
            with Emulator.load(name, draft=0) as alone:
                assert set(texts[i::3]) == {alone.generate(QUESTION).text}
        prints = {answer.json["model"]: answer.json["system_fingerprint"] for answer in answers}
        assert len(set(prints.values())) == 3


def test_a_shared_beginning_of_prompts_is_computed_once(server: Running) -> None:
    """Of three clients that ask at the same time, two only read their own questions."""
    system = {"role": "system", "content": "You know all cities of the world. " * 30}

    async def main() -> list[Any]:
        bodies = [
            {"messages": [system, {"role": "user", "content": f"Where is {p}?"}]} for p in ("Oslo", "Lyon", "Rome")
        ]
        answers = await asyncio.gather(*(post(server.port, CHAT, body) for body in bodies))
        return [answer.json["usage"] for answer in answers]

    cached = sorted(usage["prompt_tokens_details"]["cached_tokens"] for usage in asyncio.run(main()))
    length = len(got(server, "POST", "/tokenize", {"prompt": system["content"]}).json["tokens"])
    assert cached[0] < 10 and cached[1] >= length - 8


# --- its life ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_a_short_answer_end_and_refuses_new_ones(number: int) -> None:
    async def main(server: Running) -> Answer:
        running = asyncio.ensure_future(post(server.port, TEXT, endless()))
        await asyncio.sleep(0.1)
        server.process.send_signal(number)
        return await running

    with Running("demo", "--draft", "0") as server:
        answer = asyncio.run(main(server))
        assert answer.status == 200 and answer.json["usage"]["completion_tokens"] == 200
        assert server.process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            got(server, "GET", "/health")


def test_a_long_answer_is_cut_after_a_moment_and_a_second_signal_ends_at_once() -> None:
    async def main(server: Running) -> Answer:
        running = asyncio.ensure_future(post(server.port, TEXT, endless(n=100)))
        await asyncio.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        return await running

    with Running("demo", "--draft", "0", "--parallel", "1") as server:
        began = time.perf_counter()
        answer = asyncio.run(main(server))
        assert answer.status == 503 and answer.json["error"]["code"] == "stopping"
        assert server.process.wait(30) == 0 and time.perf_counter() - began > 2
    with Running("demo", "--draft", "0", "--parallel", "1") as server:

        async def twice() -> int:
            running = asyncio.ensure_future(post(server.port, TEXT, endless(n=100)))
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGINT)
            code = server.process.wait(30)
            await asyncio.gather(running, return_exceptions=True)
            return code

        assert asyncio.run(twice()) == 130


def test_a_server_that_was_killed_starts_again_on_its_port() -> None:
    found = asyncio.run(serve_storm.kills(2))
    assert found == {"kills": 2}


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eftlocal", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_what_cannot_be_opened_is_told_in_two_lines(server: Running) -> None:
    for code, arguments, words in (
        (1, ("demo", "--port", str(server.port)), "cannot be opened: Address already in use"),
        (1, ("demo", "--host", "no.such.host.invalid", "--api-key", "k"), "cannot be used"),
        (1, ("demo", "--host", "192.0.2.1", "--api-key", "k"), "No network of this machine"),
        (2, ("demo", "--host", "0.0.0.0"), "EFTLOCAL_API_KEY"),
        (2, ("demo", "--cors", "x"), "is not an origin"),
        (1, ("nothing",), 'no emulator is named "nothing"'),
    ):
        found = program(*arguments)
        assert found.returncode == code and words in found.stderr
        assert len(found.stderr.splitlines()) <= 2 and "Traceback" not in found.stderr
