"""llama-server, the server of llama.cpp: POST /completion with token ids, n_predict and n_probs.

Its log-probabilities are the model's own: they are taken before all samplers. Several positions of a sequence are asked
for in one request, by a grammar that leaves one token at each (`root ::= <[17]> <[4]>`): the server decodes them one
after the other, and gives the row before each. A draft model on the server would leave all rows but the first empty.
"""

from contextlib import suppress
from typing import Any, Final

from eftlocal.errors import ContextError, RemoteError
from eftlocal.runtime.remote.connection import TRIES, BusyError, Connection, RefusedError
from eftlocal.runtime.remote.engines import Asked, Facts, Row, array_of, one_of

__all__ = ["LlamaServer"]

FIELDS: Final = ["completion_probabilities", "model"]
SURE: Final = 1e-3  # nats by which two answers to the same question may differ: a cache makes other batches


class LlamaServer:
    """A llama-server. `one_at_a_time`: no row but the first may be asked for, since a draft model is on."""

    def __init__(self, facts: Facts, *, one_at_a_time: bool) -> None:
        self.facts = facts
        self.one_at_a_time = one_at_a_time

    @classmethod
    def at(cls, connection: Connection) -> "LlamaServer | None":
        """The llama-server behind a connection; None if it is another engine. Raises RemoteError."""
        try:
            props = connection.get("/props")
        except RefusedError:
            return None
        if not isinstance(props, dict) or "default_generation_settings" not in props:
            return None
        url = connection.server.url
        data: list[object] = one_of(connection.get("/v1/models"), "data", list, url)
        model: dict[str, Any] = next((m for m in data if isinstance(m, dict)), {})
        meta = model.get("meta") if isinstance(model.get("meta"), dict) else {}
        settings = props["default_generation_settings"]
        template = props.get("chat_template")
        facts = Facts(
            engine="llama-server",
            version=str(props.get("build_info", "")),
            model=str(model.get("id", props.get("model_path", ""))),
            n_vocab=_number(meta, "n_vocab"),
            n_ctx=_number(settings, "n_ctx") or _number(meta, "n_ctx"),
            parallel=max(1, _number(props, "total_slots") or 1),
            most=None,
            template=template if isinstance(template, str) and template else None,
        )
        return cls(facts, one_at_a_time=_drafts(connection))

    def rows(self, connection: Connection, asked: Asked) -> list[Row]:
        if asked.forced and not self.one_at_a_time:
            try:
                return self._rows(connection, asked, tries=1)
            except BusyError as error:  # a token that is a part of a character: the server's grammars cannot read it
                if "grammar" not in error.message:
                    raise
        tokens, first = [*asked.tokens, *asked.forced], len(asked.tokens)
        each = [asked._replace(tokens=tokens[: first + i], forced=()) for i in range(1 + len(asked.forced))]
        return [row for one in each for row in self._rows(connection, one)]

    def _rows(self, connection: Connection, asked: Asked, tries: int = TRIES) -> list[Row]:
        n = 1 + len(asked.forced)
        body: dict[str, Any] = {
            "prompt": list(asked.tokens),
            "n_predict": n,
            "n_probs": asked.top,
            "temperature": 0.0,
            "cache_prompt": True,
            "id_slot": asked.sequence % self.facts.parallel,
            "response_fields": FIELDS,
        }
        if asked.forced:
            # The last token is any: its row is taken before the grammar chooses.
            body["grammar"] = "root ::= " + " ".join(f"<[{token}]>" for token in (*asked.forced, asked.forced[-1]))
        places = _places(self._post(connection, body, tries), connection.server.url)
        if len(places) < n:
            raise RemoteError(
                f"{connection.server.url} sent {len(places)} rows of log-probabilities; {n} were asked for.",
                "Its version may be too old: update llama-server.",
            )
        return [_row(place, connection.server.url) for place in places[:n]]

    def _post(self, connection: Connection, body: dict[str, Any], tries: int = TRIES) -> Any:
        try:
            answer = connection.post("/completion", body, tries=tries)
        except RefusedError as error:
            if "context" in error.text:
                raise ContextError(
                    f"{connection.server.url}: {error.text}",
                    "Start the server with a larger -c, or shorten the prompt.",
                ) from error
            raise
        model = answer.get("model") if isinstance(answer, dict) else None
        if isinstance(model, str) and model and model != self.facts.model:
            raise RemoteError(
                f"{connection.server.url} runs another model now: {model}, and not {self.facts.model}.",
                "Load the emulator again.",
            )
        return answer

    def check(self, connection: Connection) -> None:
        url = connection.server.url
        tokens = [0, 1]
        probe = {"prompt": tokens, "n_predict": 1, "n_probs": 5, "cache_prompt": False, "response_fields": FIELDS}
        plain = self._first(connection, {**probe, "temperature": 0.0})
        likeliest = int(plain.ids[0])
        for change in ({"temperature": 3.0, "seed": 1}, {"temperature": 0.0, "logit_bias": [[likeliest, -5.0]]}):
            other = self._first(connection, {**probe, **change})
            if list(other.ids) != list(plain.ids) or abs(other.logprobs - plain.logprobs).max() > SURE:
                raise RemoteError(
                    f"{url}: its log-probabilities change with the temperature or with a bias.",
                    "They must be the model's own: use a llama-server of late 2024 or newer.",
                )

    def _first(self, connection: Connection, body: dict[str, Any]) -> Row:
        places = _places(self._post(connection, body), connection.server.url)
        return _row(next(iter(places), None), connection.server.url)

    def pieces(self, connection: Connection) -> dict[int, bytes] | None:
        n_vocab = self.facts.n_vocab
        if n_vocab is None:
            return None
        body = {"prompt": [0], "n_predict": 1, "n_probs": n_vocab, "temperature": 0.0, "response_fields": FIELDS}
        first = next(iter(_places(self._post(connection, body), connection.server.url)), None)
        tops = first.get("top_logprobs") if isinstance(first, dict) else None
        try:
            return {int(top["id"]): bytes(top["bytes"]) for top in tops or ()}
        except (KeyError, TypeError, ValueError):
            return None

    def tokenize(self, connection: Connection, text: str) -> list[int]:
        answer = connection.post("/tokenize", {"content": text, "add_special": False, "parse_special": False})
        tokens: list[object] = one_of(answer, "tokens", list, connection.server.url)
        return [token for token in tokens if isinstance(token, int)]


def _places(answer: object, where: str) -> list[object]:
    return one_of(answer, "completion_probabilities", list, where)


def _row(place: object, where: str) -> Row:
    tops = place.get("top_logprobs") if isinstance(place, dict) else None
    found: list[tuple[int, float]] = []
    try:
        found = [(int(top["id"]), float(top["logprob"])) for top in tops or () if top["logprob"] is not None]
        if isinstance(place, dict) and all(i != place.get("id") for i, _ in found):
            found.append((int(place["id"]), float(place["logprob"])))  # the token itself is exact, also outside
    except (KeyError, TypeError, ValueError):
        found = []
    return array_of(found, where)


def _number(values: object, name: str) -> int | None:
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _drafts(connection: Connection) -> bool:
    """Whether a draft model is on. /props does not say it in all versions; /slots does, unless it is turned off."""
    with suppress(RemoteError):
        slots = connection.get("/slots")
        return isinstance(slots, list) and any(isinstance(s, dict) and s.get("speculative") is True for s in slots)
    return True  # it cannot be found out: one row a request is always right
