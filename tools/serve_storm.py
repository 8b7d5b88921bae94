"""Many clients at random against `eftlocal serve demo`: `python -m tools.serve_storm`.

They ask, stream, read slowly, leave at any moment, and send rubbish. Each greedy text (and each score of a prompt) of
those that stay must be the one that the emulator gives when it is asked alone, no answer may have status 500, and at
the end nothing may run. Other parts: `--bodies N` sends mutated bodies, `--memory` shows the memory over 5,000
requests, `--kills N` kills the server and starts it again. Prints one JSON object.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from eftlocal import Emulator, Raw
from eftlocal.emulation.emulator import Ids
from tests.apps.serve.client import ask, asked, chat, post
from tests.apps.serve.running import Running, rss

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PLACES = ("Lyon", "Paris", "Oslo", "Cairo", "Lima", "Osaka", "Quito", "Turin", "Perth", "Dakar", "Hanoi", "Riga")
FORMS = ("How large is {}?", "Where is {}?", "Which country is {} in?", "What money do people use in {}?")
OPTIONS = ("demo", "--draft", "0", "--parallel", "8", "--queue", "200")


class Known:
    """What the emulator answers when it is asked alone."""

    def __init__(self, kv_type: str = "f16") -> None:
        self.questions = [form.format(place) for place in PLACES for form in FORMS]
        self.texts: dict[tuple[str, str], str] = {}
        self.scores: dict[str, list[float]] = {}
        with Emulator.load("demo", draft=0, kv_type=kv_type) as emulator:
            for question in self.questions:
                for name, dials in (("demo", {}), ("demo@beta=0.5", {"beta": 0.5}), ("demo:base", {"alone": "base"})):
                    reply = emulator.generate(question, **dials)  # type: ignore[arg-type]
                    self.texts[name, question] = reply.text
                ids = emulator.render(Raw(question))["base"]
                scored = emulator.score(Ids(ids[:1]), ids[1:])
                self.scores[question] = [token.logprob for token in scored.tokens]


class Storm:
    """Clients on one port. `seen` counts what they did; `wrong` describes what must not be."""

    def __init__(self, port: int, known: Known, seed: int, pause: float = 0.2) -> None:
        self.port = port
        self.pause = pause  # seconds for which a slow reader waits at each event
        self.known = known
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, clients: int, seconds: float) -> None:
        """Let clients act until the time is over."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._client(end) for _ in range(clients)))
        await asyncio.sleep(0.5)
        metrics = (await ask(self.port, "GET", "/metrics")).body.decode()
        for name in ("requests_open", "answers_running"):
            if f"eftlocal_{name} 0\n" not in metrics:
                self.wrong.append(f"at the end, {name} is not 0")

    async def _client(self, end: float) -> None:
        acts: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._whole, 5),
            (self._stream, 5),
            (self._score, 2),
            (self._slow, 1),
            (self._leave, 4),
            (self._leave_at_once, 2),
            (self._rubbish, 4),
        ]
        while time.monotonic() < end:
            act = self.random.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
            name = act.__name__.strip("_")
            try:
                await asyncio.wait_for(act(), 60)
                self.seen[name] += 1
            except TimeoutError:
                self.wrong.append(f"{name}: no answer in 60 seconds")
            except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
                self.wrong.append(f"{name}: {error!r}")
            await asyncio.sleep(self.random.random() * 0.05)

    def _question(self) -> tuple[str, str]:
        return self.random.choice(list(self.known.texts))

    def _compare(self, what: str, key: tuple[str, str], text: str) -> None:
        if text != self.known.texts[key]:
            self.wrong.append(f"{what} {key}: {text!r}, alone {self.known.texts[key]!r}")

    async def _whole(self) -> None:
        key = self._question()
        answer = await post(self.port, CHAT, chat(key[1], model=key[0]))
        self._compare("whole", key, answer.json["choices"][0]["message"]["content"])

    async def _stream(self, pause: float = 0.0) -> None:
        key, text = self._question(), ""
        async with asked(self.port, "POST", CHAT, chat(key[1], model=key[0], stream=True)) as response:
            async for event in response.events():
                if event is not None:
                    text += event["choices"][0]["delta"].get("content", "")
                await asyncio.sleep(pause)
        self._compare("stream", key, text)

    async def _slow(self) -> None:
        await self._stream(self.pause)

    async def _score(self) -> None:
        question = self.random.choice(self.known.questions)
        asking = {"prompt": question, "echo": True, "logprobs": 1, "max_tokens": self.random.choice((0, 1))}
        found = (await post(self.port, TEXT, asking)).json["choices"][0]["logprobs"]["token_logprobs"]
        wanted = self.known.scores[question]
        if max(abs(a - b) for a, b in zip(found[1:], wanted, strict=False)) > 0.02 or len(found) <= len(wanted):
            self.wrong.append(f"score {question}: {found}, alone {wanted}")

    async def _leave(self) -> None:
        _, question = self._question()
        asking = {"prompt": question, "stream": True, "max_tokens": 400, "logit_bias": {"1": -100}, "temperature": 1}
        async with asked(self.port, "POST", TEXT, asking) as response:
            left = self.random.randrange(12)
            async for _ in response.events():
                if (left := left - 1) < 0:
                    return

    async def _leave_at_once(self) -> None:
        asking = {"prompt": self._question()[1], "max_tokens": 400, "logit_bias": {"1": -100}, "n": 3}
        body = json.dumps(asking).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        writer.write((head + body)[: self.random.choice((20, len(head) + 5, len(head + body)))])
        await writer.drain()
        await asyncio.sleep(self.random.random() * 0.05)
        writer.close()

    async def _rubbish(self) -> None:
        path = self.random.choice((CHAT, TEXT, "/tokenize", "/detokenize"))
        answer = await post(self.port, path, mutated(self.random, path))
        if answer.status not in (200, 400, 404):
            self.wrong.append(f"rubbish: status {answer.status} {answer.body[:200]!r}")


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e308, -1e308, 1e-320),
    *("", "x", "demo", "demo:base", "demo@beta=1e999", "demo@mix.answers=0.5", "raw", "own", "auto", "\ud800", "\x00"),
    *("required", "json_object", "<|im_end|>", "(", "a" * 5000, "🙂" * 50, "nan", "-inf"),
    *([], {}, [[]], [{}], [None], ["a", 1], [1, 2, 3], [[1, 2], [3]], [2**40], [-1], {"type": "json_object"}),
    *(
        {"1": 5},
        {"1": "-inf"},
        {"x": 1},
        {"99999999999": 1},
        {"answers": 0.5},
        {"include_usage": True},
        {"a": {"b": []}},
    ),
    *({"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}, {"type": "function"}),
    *([{"type": "text", "text": "hi"}], [{"type": "image_url"}], [{"role": "user", "content": None}]),
    *(
        [{"role": "tool", "content": "x"}],
        [{"role": "assistant", "content": None}],
        [{"type": "function", "function": {}}],
    ),
)
FIELDS = (
    *("model", "messages", "prompt", "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "seed"),
    *("presence_penalty", "frequency_penalty", "stop", "max_tokens", "max_completion_tokens", "n", "logit_bias"),
    *("logprobs", "top_logprobs", "response_format", "grammar", "regex", "choice", "json_schema", "stream", "draft"),
    *("stream_options", "beta", "mix", "reward_top_p", "alone", "tools", "tool_choice", "echo", "best_of", "suffix"),
    *("views", "tokens", "add_special_tokens", "return_token_strs", "chat_template_kwargs", "repeat_last_n", "user"),
)


def mutated(rng: random.Random, path: str) -> bytes:
    """A body that is wrong in some way, or just strange. It asks for few tokens."""
    body: dict[str, Any] = {"model": "demo", "max_tokens": 2}
    body["prompt" if path != CHAT else "messages"] = "hi" if path != CHAT else [{"role": "user", "content": "hi"}]
    if path == "/detokenize":
        body["tokens"] = [1, 2, 3]
    for _ in range(rng.choice((1, 1, 2, 3))):
        field, value = rng.choice(FIELDS), rng.choice(VALUES)
        if not (field in ("max_tokens", "max_completion_tokens", "n", "best_of") and isinstance(value, int | float)):
            body[field] = value
    if rng.random() < 0.1 and isinstance(given := body.get("messages"), list) and given and isinstance(given[0], dict):
        body["messages"] = [{**given[0], rng.choice(("role", "content", "x")): rng.choice(VALUES)}] * 2
    data = json.dumps(body).encode()
    match rng.randrange(10):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            at = rng.randrange(len(data))
            return data[:at] + rng.randbytes(rng.choice((1, 3))) + data[at + rng.choice((0, 1, 5)) :]
        case 2:
            return rng.choice(
                (b"", b"null", b"[]", b"NaN", b'{"a":1e999}', b'{"a":NaN}', b"[" * 50000, b'{"a":' * 5000, b"\xff\xfe")
            )
    return data


async def bodies(port: int, n: int, seed: int) -> dict[str, object]:
    """Send mutated bodies, eight at a time. Returns how often each status came."""
    rng, left, statuses = random.Random(seed), iter(range(n)), Counter[int]()
    bad: list[str] = []

    async def client() -> None:
        for _ in left:
            path = rng.choice((CHAT, TEXT, "/tokenize", "/detokenize"))
            body = mutated(rng, path)
            answer = await asyncio.wait_for(post(port, path, body), 60)
            statuses[answer.status] += 1
            if answer.status >= 500:
                bad.append(f"{answer.status} {path} {body[:300]!r}")

    await asyncio.gather(*(client() for _ in range(8)))
    alive = (await post(port, CHAT, chat("How large is Lyon?"))).status
    return {"bodies": n, "statuses": dict(sorted(statuses.items())), "bad": bad[:5], "answers_after": alive == 200}


async def memory(server: Running, n: int) -> dict[str, object]:
    """The memory of the server after 500 requests and after `n`."""
    shown, done = {}, 0
    left = iter(range(n))

    async def client() -> None:
        nonlocal done
        for i in left:
            question = FORMS[i % 4].format(f"{PLACES[i % 12]} {i}")
            asking = chat(question, stream=i % 2 == 0, max_tokens=8, logprobs=i % 3 == 0)
            if i % 5 == 0:
                await post(server.port, TEXT, {"prompt": question, "echo": True, "logprobs": 1, "max_tokens": 1})
            else:
                await post(server.port, CHAT, asking)
            done += 1
            if done in (500, n // 2, n):
                shown[f"rss_mb_at_{done}"] = round(rss(server.process.pid) / 1e6, 1)

    await asyncio.gather(*(client() for _ in range(8)))
    return dict(shown)


async def kills(n: int) -> dict[str, object]:
    """Kill the server while it answers, and start it again on the same port, `n` times."""
    port, restarts = 0, 0
    for _ in range(n):
        with Running(*OPTIONS, *(["--port", str(port)] if port else [])) as server:
            port = server.port
            assert (await post(port, CHAT, chat("How large is Lyon?"))).status == 200
            running = [
                asyncio.ensure_future(
                    post(port, TEXT, {"prompt": "Where", "max_tokens": 400, "logit_bias": {"1": -100}})
                )
                for _ in range(8)
            ]
            await asyncio.sleep(0.05)
            server.process.send_signal(signal.SIGKILL)
            await asyncio.gather(*running, return_exceptions=True)
            server.process.wait()
            restarts += 1
    return {"kills": restarts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--bodies", type=int, default=0)
    parser.add_argument("--memory", type=int, default=0, help="number of requests")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.kills:
        print(json.dumps(asyncio.run(kills(chosen.kills))))
        return
    with Running(*OPTIONS) as server:
        if chosen.bodies:
            found: dict[str, object] = asyncio.run(bodies(server.port, chosen.bodies, chosen.seed))
        elif chosen.memory:
            found = asyncio.run(memory(server, chosen.memory))
        else:
            storm = Storm(server.port, Known(), chosen.seed)
            asyncio.run(storm.run(chosen.clients, chosen.seconds))
            found = {"did": dict(storm.seen), "wrong": len(storm.wrong), "examples": storm.wrong[:5]}
        code = server.end()
        failures = [line for line in server.lines if re.search(r" 500 | failed|Error", line)]
        print(json.dumps({**found, "exit_code": code, "failures_in_log": failures[:5]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
