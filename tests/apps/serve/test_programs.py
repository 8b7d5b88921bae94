"""What people have: curl, and OpenAI's client as it is used by others. Numbers are those of the emulator itself."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator

import openai
import pytest

from eftlocal import Emulator
from eftlocal.emulation.emulator import Raw
from tests.apps.serve.running import Running

pytestmark = pytest.mark.slow

QUESTION = "How large is Lyon?"
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("demo", "--draft", "0", "--kv-type", "f32") as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator.load("demo", draft=0, kv_type="f32") as loaded:
        yield loaded


def curl(*words: str) -> str:
    command = ("curl", "--silent", "--show-error", "--no-buffer", *words)
    # In text mode, Python makes \n of \r\n.
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60).stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_an_answer_in_one_piece_and_as_a_stream_that_ends(server: Running) -> None:
    body = {"messages": MESSAGES, "temperature": 0}
    url = f"{server.url}/v1/chat/completions"
    whole = json.loads(curl(url, "-d", json.dumps(body)))["choices"][0]["message"]["content"]
    *events, done, last = curl(url, "-d", json.dumps({**body, "stream": True})).split("\n\n")
    assert (done, last) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole != ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sees_headers_for_proxies_and_the_status_of_an_error(server: Running) -> None:
    head = curl("--include", f"{server.url}/v1/completions", "-d", '{"prompt": "That", "stream": true}').lower()
    assert "x-accel-buffering: no" in head and "content-type: text/event-stream" in head
    shown = curl("--include", f"{server.url}/v1/completions", "-d", '{"prompt": 1.5}')
    assert shown.startswith("HTTP/1.1 400 ") and json.loads(shown.split("\n\n")[1])["error"]["param"] == "prompt"


def test_models_are_listed_and_found_also_with_dials(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids == ["demo", "demo:base", "demo:tuned", "demo:reference"]
    assert client.models.retrieve("demo@beta=0.5").id == "demo@beta=0.5"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("dem")
    assert error.value.code == "model_not_found" and error.value.param == "model"


def test_errors_have_the_clients_types_with_field_and_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=MESSAGES, top_p=2)
    assert error.value.param == "top_p"
    long: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "word " * 2000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model="demo", messages=long, stream=stream)
        assert error.value.code == "context_length_exceeded"
        assert "maximum context length is 512 tokens" in error.value.message


@pytest.mark.parametrize("model", ["demo", "demo@beta=0.5", "demo:base"])
def test_scores_of_prompts_are_those_of_the_emulator(client: openai.OpenAI, emulator: Emulator, model: str) -> None:
    head, tails = "User:\nWhat continent is Daegu in?\n\nAssistant:", ("\nThat would be Asia.", "\nThat would be Peru.")
    found = client.completions.create(model=model, prompt=[head + tail for tail in tails], echo=True, logprobs=1)
    for choice, tail in zip(found.choices, tails, strict=True):
        scores = emulator.score(Raw(head), tail, top=1, beta=0.5 if "0.5" in model else 1.0)
        places = choice.logprobs
        assert places is not None and places.token_logprobs is not None and places.top_logprobs is not None
        assert choice.text.startswith(head + tail) and places.token_logprobs[0] is None
        first = (places.text_offset or []).index(len(head))
        for i, token in enumerate(scores.tokens):
            wanted = token.base if model == "demo:base" else token.logprob
            assert places.token_logprobs[first + i] == pytest.approx(wanted, abs=1e-4)
        for value, top in zip(places.token_logprobs[1:], places.top_logprobs[1:], strict=True):
            assert value in top.values()  # the very same number, by which lm-eval sees what is greedy


def test_a_schema_gives_an_object(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"big": {"enum": ["yes", "no"]}}, "required": ["big"]}
    found = client.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "size", "strict": True, "schema": {**schema, "additionalProperties": False}},
        },
    )
    assert json.loads(found.choices[0].message.content or "")["big"] in ("yes", "no")


def test_answers_of_many_clients_are_those_alone_while_others_leave(server: Running, emulator: Emulator) -> None:
    cities = ("Lyon", "Perth", "Najaf", "Lima", "Accra", "Daegu", "Lagos", "Bremen")
    alone = {city: emulator.generate(f"How large is {city}?", temperature=0, max_tokens=40).text for city in cities}

    async def ask(client: openai.AsyncOpenAI, city: str) -> str:
        stream = await client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": f"How large is {city}?"}],
            temperature=0,
            max_tokens=40,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def leave(client: openai.AsyncOpenAI, seconds: float) -> None:
        asked = client.chat.completions.create(model="demo:base", messages=MESSAGES, max_tokens=400, temperature=1.0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked, seconds)

    async def everyone() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            leaving = [leave(client, 0.01 * (1 + i % 5)) for i in range(12)]
            *texts, _ = await asyncio.gather(*(ask(client, city) for city in cities), asyncio.gather(*leaving))
            return [str(text) for text in texts]

    assert asyncio.run(everyone()) == list(alone.values())
