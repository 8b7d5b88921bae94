"""OpenAI's own client against the real program."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.apps.serve.running import Running, generated

pytestmark = pytest.mark.slow

QUESTION = "How large is Lyon?"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running("demo", "--draft", "0") as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_greedy_answer_is_that_of_generate_streaming_or_not(client: openai.OpenAI) -> None:
    wanted = generated("-e", "demo", "--draft", "0", QUESTION).removesuffix("\n")
    whole = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": QUESTION}])
    assert whole.choices[0].message.content == wanted and whole.choices[0].finish_reason == "stop"
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": QUESTION}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == wanted
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == "stop"
    last = chunks[-1]
    assert last.choices == [] and last.usage is not None and whole.usage is not None
    assert (
        last.usage.total_tokens == whole.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    )
    assert {(chunk.id, chunk.model, chunk.created) for chunk in chunks} == {(chunks[0].id, "demo", chunks[0].created)}


def test_a_seed_and_dials_give_the_answer_of_generate(client: openai.OpenAI) -> None:
    dials = ["--beta", "0.5", "--temperature", "1.2", "--seed", "7", "--max-tokens", "20", "--draft", "0"]
    wanted = json.loads(generated("-e", "demo", *dials, "--json", QUESTION))
    for model, body in (("demo", {"beta": 0.5}), ("demo@beta=0.5", {})):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=1.2,
            seed=7,
            max_tokens=20,
            extra_body=body,
        )
        assert answer.choices[0].message.content == wanted["text"]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == wanted["usage"]["completion_tokens"]
        assert answer.usage.prompt_tokens == wanted["usage"]["prompt_tokens"]["base"]
