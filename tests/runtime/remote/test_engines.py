"""The engines' dialects, against answers as the engines send them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from eftlocal.catalog.server import Server
from eftlocal.errors import ContextError, DecodeError, RemoteError
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.remote import connection as module
from eftlocal.runtime.remote.context import RemoteContext
from eftlocal.runtime.remote.engines import Asked
from eftlocal.runtime.remote.link import Link, connect
from tests.runtime.remote.scripted import scripted, status

VOCAB = 50


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))


def model(tokens: list[int]) -> list[float]:
    """The log-probabilities of the token after these: 2^-1, 2^-2, ... from the id that follows the last one on."""
    last = tokens[-1]
    return [-0.6931471805599453 * (1 + (i - last - 1) % VOCAB) for i in range(VOCAB)]


def top(tokens: list[int], k: int) -> list[tuple[int, float]]:
    return sorted(enumerate(model(tokens)), key=lambda pair: -pair[1])[:k]


# --- vLLM 0.32, as it answered on a CPU -------------------------------------------------------------------------------


def vllm(most: int = -1, shift: float = 0.0) -> Callable[[str, Any], object]:
    def answer(path: str, body: Any) -> object:
        if path == "/health":
            return status(200)  # with an empty body
        if path == "/version":
            return {"version": "0.32.0"}
        if path == "/v1/models":
            entry = {"id": "big", "object": "model", "root": "/models/big", "max_model_len": 64}
            return {"object": "list", "data": [entry]}
        if path == "/tokenize":
            return {"count": 2, "max_model_len": 64, "tokens": [3, 4]}
        if path != "/v1/completions":
            return status(404, {"detail": "Not Found"})
        k = body["logprobs"]
        if most >= 0 and (k > most or k < 0):
            said = (
                f"Requested sample logprobs of {VOCAB}, which is greater than max allowed: {most} (parameter=logprobs)"
            )
            return status(400, {"error": {"message": said, "type": "BadRequestError", "code": 400}})
        if (longest := max(map(len, body["prompt"]))) > 64:
            said = f"This model's maximum context length is 64 tokens. However, your prompt contains {longest} input"
            return status(400, {"error": {"message": said, "type": "BadRequestError", "code": 400}})
        if longest == 64:
            return status(400, {"error": {"message": "max_tokens must be at least 1, got 0."}})
        k = VOCAB if k < 0 else k
        choices = []
        for i, prompt in enumerate(body["prompt"]):
            scale = 1 / (1 + shift) if body["temperature"] else 1.0
            total = math.log(sum(math.exp(p * scale) for p in model(prompt))) if shift else 0.0
            tops = {f"token_id:{t}": p * scale - total for t, p in top(prompt, k)}
            if body["temperature"]:  # it samples another token, and puts it first
                sampled = top(prompt, VOCAB)[-1]
                tops = {f"token_id:{sampled[0]}": sampled[1] * scale - total, **tops}
            choices.append({"index": i, "text": "", "logprobs": {"top_logprobs": [tops]}, "finish_reason": "length"})
        return {"id": "cmpl-1", "object": "text_completion", "model": "big", "choices": choices[::-1]}

    return answer


# --- SGLang, as version 0.5.23 answered -------------------------------------------------------------------------------


def sglang(path: str, body: Any) -> object:
    if path == "/model_info":
        return {"model_path": "big", "tokenizer_path": "big", "is_generation": True}
    if path == "/server_info":
        return {"version": "0.5.23", "context_length": None, "vocab_size": None, "max_total_num_tokens": 20_000}
    if path == "/v1/models":
        return {"object": "list", "data": [{"id": "big", "max_model_len": 64}]}
    if path != "/generate":
        return status(503 if path == "/health" else 404)
    if "-1" in body["sampling_params"].get("logit_bias", ()):
        return status(400, {"error": {"message": f"logit_bias must has keys in [0, {VOCAB - 1}], got -1."}})
    assert body["top_logprobs_num"] <= VOCAB and all(0 <= t < VOCAB for t in body["input_ids"])  # its process ends
    ids, start, k = (
        body["input_ids"],
        body.get("logprob_start_len", len(body["input_ids"]) - 1),
        body["top_logprobs_num"],
    )
    rows: list[object] = [None] + [[[p, t, None] for t, p in top(ids[:i], k)] for i in range(start + 1, len(ids))]
    return {
        "text": "",
        "meta_info": {"input_top_logprobs": rows, "output_top_logprobs": [[[p, t, None] for t, p in top(ids, k)]]},
    }


def older_sglang(path: str, body: Any) -> object:
    """As versions before /model_info and /server_info, and before a bias was checked."""
    if body and body["sampling_params"].pop("logit_bias", None):
        return {"text": "", "meta_info": {}}
    return status(404) if path in ("/model_info", "/server_info") else sglang(path.replace("/get_", "/"), body)


def preferring_sglang(path: str, body: Any) -> object:
    """One that was started with --preferred-sampling-params and a bias in them: it moves answers, and not prompts."""
    answer = sglang(path, body)
    if isinstance(answer, dict) and (rows := answer.get("meta_info", {}).get("output_top_logprobs")):
        rows[0] = [[p - 1.0, t, None] for p, t, _ in rows[0]]
    return answer


def test_an_sglang_whose_answers_have_other_log_probabilities_than_its_prompts_is_refused() -> None:
    with scripted(preferring_sglang) as server, pytest.raises(RemoteError, match="not those of a prompt") as error:
        connect(Server(url=server.url))
    assert "--preferred-sampling-params" in str(error.value)


def test_an_sglang_is_never_asked_for_more_tokens_than_it_has() -> None:
    with scripted(sglang) as server:
        link = connect(Server(url=server.url))
        assert link.facts.n_vocab == VOCAB
        for top in (VOCAB, VOCAB + 14):
            (rows,) = link.rows([Asked(0, [1, 5], [9], top)])
            assert [len(row.ids) for row in rows] == [VOCAB, VOCAB]
        link.close()


@pytest.mark.parametrize("script", [vllm(), sglang])
def test_the_round_trip_is_known_where_health_has_no_json(script: Callable[[str, Any], object]) -> None:
    with scripted(script) as server:  # an SGLang answers it with 503 for a while after the start
        link = connect(Server(url=server.url))
        assert 0 < link.round_trip() < 5
        link.close()


def test_no_token_of_another_vocabulary_is_sent() -> None:
    with scripted(sglang) as server:
        link = connect(Server(url=server.url))
        context, before = RemoteContext(link, n_vocab=VOCAB, n_real=VOCAB, n_ctx=64), len(server.seen)
        for token in (VOCAB, -1):
            with pytest.raises(DecodeError, match=f"token {token} is not in a vocabulary of {VOCAB}"):
                context.feed([Feed(0, [1, token], 1)])
        assert len(server.seen) == before and context.held(0) == 0
        link.close()


ENGINES = [(vllm(), "vllm"), (vllm(20), "vllm"), (sglang, "sglang"), (older_sglang, "sglang")]


@pytest.mark.parametrize(("script", "name"), ENGINES)
def test_rows_are_those_after_each_of_the_tokens(script: Callable[[str, Any], object], name: str) -> None:
    with scripted(script) as server:
        link = connect(Server(url=server.url))
        assert link.facts.engine == name and link.facts.n_ctx == 64
        (rows,) = link.rows([Asked(0, [1, 5, 9], [20, 30], 4)])
        wanted = [top(tokens, 4) for tokens in ([1, 5, 9], [1, 5, 9, 20], [1, 5, 9, 20, 30])]
        assert [list(zip(row.ids.tolist(), row.logprobs.tolist(), strict=True)) for row in rows] == wanted
        both = link.rows([Asked(0, [1], [], 2), Asked(1, [7], [], 2)])
        assert [rows[0].ids.tolist() for rows in both] == [[2, 3], [8, 9]]
        link.close()


def test_vllm_tells_how_many_tokens_of_a_row_it_gives() -> None:
    with scripted(vllm(20)) as server:
        link = connect(Server(url=server.url))
        assert link.facts.most == 20 and link.facts.n_vocab is None
        link.close()
    with scripted(vllm()) as server:
        link = connect(Server(url=server.url))
        assert link.facts.most is None and link.facts.n_vocab == VOCAB
        assert len(link.rows([Asked(0, [1], [], VOCAB)])[0][0].ids) == VOCAB
        link.close()


def busy_vllm(path: str, body: Any) -> object:
    """One that rounds otherwise from batch to batch, as one in bfloat16 does."""
    answer = vllm()(path, body)
    if isinstance(answer, dict) and "choices" in answer and body["temperature"]:
        for choice in answer["choices"]:
            tops = choice["logprobs"]["top_logprobs"][0]
            for i, name in enumerate(tops):
                tops[name] -= 0.36 * (i % 2)
    return answer


def test_a_server_that_rounds_otherwise_from_batch_to_batch_is_taken() -> None:
    with scripted(busy_vllm) as server:
        connect(Server(url=server.url)).close()


def test_log_probabilities_that_change_with_the_temperature_are_refused() -> None:
    with scripted(vllm(shift=1.0)) as server, pytest.raises(RemoteError, match="change with the temperature") as error:
        connect(Server(url=server.url))
    assert "--logprobs-mode raw_logprobs" in str(error.value)


@pytest.mark.parametrize("top", [5, VOCAB])
def test_logits_in_place_of_log_probabilities_are_refused_also_where_all_are_negative(top: int) -> None:
    def raw_logits(path: str, body: Any) -> object:
        answer = vllm(20 if top < VOCAB else -1)(path, body)
        if isinstance(answer, dict) and "choices" in answer:
            for choice in answer["choices"]:
                tops = choice["logprobs"]["top_logprobs"]
                tops[0] = {name: p - 9.0 for name, p in tops[0].items()}
        return answer

    with scripted(raw_logits) as server:
        link = connect(Server(url=server.url, top=top))
        context = RemoteContext(link, n_vocab=VOCAB, n_real=VOCAB, n_ctx=64)
        with pytest.raises(RemoteError, match="log-probabilities that cannot be any") as error:
            context.feed([Feed(0, [1, 2], 1)])
        assert "--logprobs-mode" in (error.value.hint or "") and context.held(0) == 0
        link.close()


def test_a_prompt_that_is_too_long_for_the_server_says_what_to_do() -> None:
    with scripted(vllm()) as server:
        link = connect(Server(url=server.url))
        with pytest.raises(ContextError, match="maximum context length is 64 tokens"):
            link.rows([Asked(0, [1] * 65, [], 2)])
        link.close()


@pytest.mark.parametrize("script", [vllm(), sglang])
def test_a_model_that_the_server_does_not_have_is_told_with_those_that_it_has(
    script: Callable[[str, Any], object],
) -> None:
    with scripted(script) as server:
        with pytest.raises(RemoteError, match=r"has no model large; it has (/models/)?big"):
            connect(Server(url=server.url, model="large"))
        connect(Server(url=server.url, model="big")).close()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[1, 0.5]],
        [[1, float("nan")]],
        [[1, -1.0], [1, -2.0]],
        [[-4, -1.0]],
        [[10**30, -1.0]],
        [[1, -(10**400)]],
        [[1, -0.1], [2, -0.2]],
    ],
)
def test_rows_that_cannot_be_any_are_one_line(rows: list[list[float]]) -> None:
    def script(path: str, body: Any) -> object:
        answer = vllm()(path, body)
        if path == "/v1/completions" and isinstance(answer, dict):
            for choice in answer["choices"]:
                choice["logprobs"]["top_logprobs"] = [{f"token_id:{int(t)}": p for t, p in rows}]
                if len({t for t, _ in rows}) < len(rows):
                    choice["logprobs"]["top_logprobs"] = [{"token_id:1": -1.0, "token_id:01": -2.0}]
        return answer

    with scripted(script) as server, pytest.raises(RemoteError) as error:
        connect(Server(url=server.url))
    assert "\n" not in error.value.message


def test_a_llama_server_that_starts_others_says_what_to_do() -> None:
    props = {"role": "router", "model_path": "none", "default_generation_settings": {"params": {}, "n_ctx": 0}}

    def script(path: str, body: Any) -> object:
        return props if path == "/props" else status(400, {"error": {"message": "model name is missing"}})

    with scripted(script) as server, pytest.raises(RemoteError, match="starts others") as error:
        connect(Server(url=server.url))
    assert "llama-server -m FILE" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"hello": 1}, "does not answer as"),
        ([1, 2], "does not answer as"),
        (status(404), "does not answer as"),
        (status(200), "not JSON"),
        (status(401), "wants a key"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "answers with another address"),
    ],
)
def test_what_is_no_engine_is_one_line(answer: object, says: str) -> None:
    with scripted(lambda *_: answer) as server, pytest.raises(RemoteError, match=says):
        connect(Server(url=server.url))


def changing(
    script: Callable[[str, Any], object], path: str, change: Callable[[Any], object]
) -> tuple[Any, list[bool]]:
    """A server that runs another model as soon as the list has an entry."""
    restarted: list[bool] = []

    def answer(asked: str, body: Any) -> object:
        found = script(asked, body)
        if restarted and asked == path:
            change(found)
        return found

    return answer, restarted


@pytest.mark.parametrize(
    ("script", "path", "change"),
    [
        (vllm(), "/v1/models", lambda found: found["data"][0].update(root="/models/another")),
        (sglang, "/model_info", lambda found: found.update(model_path="/models/another")),
    ],
    ids=["vllm", "sglang"],
)
def test_a_server_that_comes_back_with_another_model_is_noticed(
    script: Callable[[str, Any], object], path: str, change: Callable[[Any], object]
) -> None:
    answer, restarted = changing(script, path, change)
    with scripted(answer) as server:
        link = connect(Server(url=server.url))
        asked = [Asked(0, [1], [], 2)]
        link.rows(asked)
        restarted.append(True)
        link.rows(asked)  # on the same connection: it is the same server
        opened_again(link)
        for _ in range(2):  # also when the answer is to go on, on a connection that is open by then
            with pytest.raises(RemoteError, match=r"runs another model now: .*/models/another; it was big"):
                link.rows(asked)
        link.close()


def opened_again(link: Link) -> None:
    connection = link.connection()
    connection.close()
    link.release(connection)


def test_a_connection_that_a_round_trip_opened_is_no_proof_of_the_model() -> None:
    answer, restarted = changing(vllm(), "/v1/models", lambda found: found["data"][0].update(root="/models/another"))
    with scripted(answer) as server:
        link = connect(Server(url=server.url))
        restarted.append(True)
        link.round_trip()
        with pytest.raises(RemoteError, match="runs another model now"):
            link.rows([Asked(0, [1], [], 2)])
        link.close()


def test_a_server_that_does_not_tell_its_weights_now_is_not_taken_for_another() -> None:
    answer, quiet = changing(vllm(), "/v1/models", lambda found: found["data"][0].pop("root"))
    with scripted(answer) as server:
        link = connect(Server(url=server.url))
        quiet.append(True)
        (rows,) = link.rows([Asked(0, [1], [], 2)])
        assert rows[0].ids.tolist() == [2, 3]
        link.close()


def test_closing_a_link_ends_requests_that_still_run() -> None:
    asked, ended = threading.Event(), threading.Event()

    def answer(path: str, body: Any) -> object:
        if path == "/v1/completions" and body["prompt"] == [[7]]:
            asked.set()
            ended.wait(30)
        if path == "/v1/completions" and body["prompt"] == [[8]]:
            asked.wait(30)
            return status(400, {"error": {"message": "no"}})
        return vllm()(path, body)

    with scripted(answer) as server:
        link = connect(Server(url=server.url))
        with pytest.raises(RemoteError, match="no"):
            link.rows([Asked(0, [8], [], 2), Asked(1, [7], [], 2)])
        began = time.monotonic()
        link.close()
        assert time.monotonic() - began < 5
        ended.set()
