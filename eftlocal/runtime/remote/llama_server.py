"""llama-server, the server of llama.cpp: POST /completion with token ids, n_predict and n_probs.

Its log-probabilities are the model's own: they are taken before all samplers. Several positions of a sequence are asked
for in one request, by a grammar that leaves one token at each (`root ::= <[17]> <[4]>`): the server decodes them one
after the other, and gives the row before each. A draft model on the server would leave all rows but the first empty.

No request names a slot (`id_slot`): in the llama.cpp of 2026, a request for a slot that computes saves and clears that
slot's cache (server-context.cpp, get_available_slot), and the answer that was computed there is silently wrong. The
server itself takes the free slot that holds most of a prompt.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from eftlocal.errors import ContextError, RemoteError
from eftlocal.runtime.remote.connection import BusyError, Connection, RefusedError
from eftlocal.runtime.remote.engines import (
    Asked,
    Facts,
    Row,
    array_of,
    must_be_own,
    must_have,
    number_in,
    one_of,
    tokens_in,
)

__all__ = ["LlamaServer"]

FIELDS: Final = ["completion_probabilities", "model"]
SURELY: Final = 1000.0  # a bias with which a token is always sampled


class LlamaServer:
    """A llama-server.

    harmless       a token that is a whole character
    one_at_a_time  no row but the first may be asked for: a draft model is on
    """

    idle: ClassVar[str] = "/health"

    def __init__(self, facts: Facts, *, harmless: int, one_at_a_time: bool) -> None:
        self.facts = facts
        self.harmless = harmless
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
        if props.get("role") == "router":
            raise RemoteError(
                f"{connection.server.url} is a llama-server that starts others, one for each of its models.",
                "Start one for the base alone (llama-server -m FILE), and give its address.",
            )
        name, meta = _model(connection)
        must_have(connection, name)
        settings = props["default_generation_settings"]
        template = props.get("chat_template")
        facts = Facts(
            engine="llama-server",
            version=str(props.get("build_info", "")),
            model=name or str(props.get("model_path", "")),
            n_vocab=number_in(meta, "n_vocab"),
            n_ctx=number_in(settings, "n_ctx") or number_in(meta, "n_ctx"),
            parallel=max(1, number_in(props, "total_slots") or 1),
            most=None,
            template=template if isinstance(template, str) and template else None,
            weights=_weights(meta),
        )
        return cls(facts, harmless=_tokens(connection, "a")[-1], one_at_a_time=_drafts(connection))

    def runs(self, connection: Connection) -> tuple[str, str]:
        name, meta = _model(connection)
        return name or self.facts.model, _weights(meta)

    def rows(self, connection: Connection, asked: Asked) -> list[Row]:
        if asked.forced and not self.one_at_a_time:
            try:
                return self._rows(connection, asked, tries=1)
            except BusyError as error:  # a token that is a part of a character: the server's grammars cannot read it
                if "grammar" not in error.message:
                    return self._rows(connection, asked)
        tokens, first = [*asked.tokens, *asked.forced], len(asked.tokens)
        each = [asked._replace(tokens=tokens[: first + i], forced=()) for i in range(1 + len(asked.forced))]
        return [row for one in each for row in self._rows(connection, one)]

    def _rows(self, connection: Connection, asked: Asked, tries: int | None = None) -> list[Row]:
        n = 1 + len(asked.forced)
        body: dict[str, Any] = {
            **self._probe(asked.tokens, n, asked.top),
            "cache_prompt": True,
        }
        if asked.forced:
            # The last token is any: its row is taken before the grammar chooses.
            del body["logit_bias"]
            body["grammar"] = "root ::= " + " ".join(f"<[{token}]>" for token in (*asked.forced, asked.forced[-1]))
        places = _places(self._post(connection, body, tries), connection.server.url)
        if len(places) < n:
            raise RemoteError(
                f"{connection.server.url} sent {len(places)} rows of log-probabilities; {n} were asked for.",
                "Its version may be too old: update llama-server.",
            )
        return [_row(place, connection.server.url) for place in places[:n]]

    def _probe(self, tokens: Sequence[int], n: int, top: int) -> dict[str, Any]:
        """Asks for rows. The bias makes it sample a whole character: it reports no row for an end, or a part of one."""
        return {
            "prompt": list(tokens),
            "n_predict": n,
            "n_probs": top,
            "temperature": 0.0,
            "logit_bias": [[self.harmless, SURELY]],
            "response_fields": FIELDS,
        }

    def _post(self, connection: Connection, body: dict[str, Any], tries: int | None = None) -> Any:
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
        probe = {**self._probe([0, 1], 1, 5), "cache_prompt": False}
        plain = self._first(connection, probe)
        biases = [*probe["logit_bias"], [int(plain.ids[0]), -5.0]]
        changes = ({"temperature": 3.0, "seed": 1}, {"logit_bias": biases})
        hint = "They must be the model's own: use a llama-server of late 2024 or newer."
        changed = (self._first(connection, {**probe, **change}) for change in changes)
        must_be_own(plain, changed, connection.server.url, hint)

    def _first(self, connection: Connection, body: dict[str, Any]) -> Row:
        places = _places(self._post(connection, body), connection.server.url)
        return _row(next(iter(places), None), connection.server.url)

    def pieces(self, connection: Connection) -> dict[int, bytes] | None:
        n_vocab = self.facts.n_vocab
        if n_vocab is None:
            return None
        answer = self._post(connection, self._probe([0], 1, n_vocab))
        first = next(iter(_places(answer, connection.server.url)), None)
        tops = first.get("top_logprobs") if isinstance(first, dict) else None
        try:
            return {int(top["id"]): bytes(top["bytes"]) for top in tops or ()}
        except (KeyError, OverflowError, TypeError, ValueError):
            return None

    def tokenize(self, connection: Connection, text: str) -> list[int]:
        return _tokens(connection, text)


def _model(connection: Connection) -> tuple[str, dict[str, Any]]:
    """The model's name, "" where it has none, and what is known of it."""
    data: list[object] = one_of(connection.get("/v1/models"), "data", list, connection.server.url)
    model: dict[str, Any] = next((m for m in data if isinstance(m, dict)), {})
    meta = model.get("meta")
    return str(model.get("id", "")), meta if isinstance(meta, dict) else {}


def _weights(meta: Any) -> str:
    n, size = number_in(meta, "n_params"), number_in(meta, "size")
    return "" if n is None or size is None else f"{n:,} parameters in {size:,} bytes"


def _tokens(connection: Connection, text: str) -> list[int]:
    answer = connection.post("/tokenize", {"content": text, "add_special": False, "parse_special": True})
    found = tokens_in(answer, connection.server.url)
    if not found:
        raise RemoteError(f"{connection.server.url} cuts a text into no tokens.")
    return found


def _places(answer: object, where: str) -> list[object]:
    return one_of(answer, "completion_probabilities", list, where)


def _row(place: object, where: str) -> Row:
    """The likeliest tokens at a place. A forced one that is not among them is left out: it is no bound for others."""
    tops = place.get("top_logprobs") if isinstance(place, dict) else None
    found: list[tuple[int, float]] = []
    try:
        found = [(int(top["id"]), float(top["logprob"])) for top in tops or () if top["logprob"] is not None]
    except (KeyError, OverflowError, TypeError, ValueError):
        found = []
    return array_of(found, where)


def _drafts(connection: Connection) -> bool:
    """Whether a draft model is on. /props does not say it in all versions; /slots does, unless it is turned off."""
    with suppress(RemoteError):
        slots = connection.get("/slots")
        return isinstance(slots, list) and any(isinstance(s, dict) and s.get("speculative") is True for s in slots)
    return True  # it cannot be found out: one row a request is always right
