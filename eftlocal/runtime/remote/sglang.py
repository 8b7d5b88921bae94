"""SGLang: POST /generate with input_ids and return_logprob. Its answers are as those of SGLang 0.5.23.

At temperature 0, which all our requests have, its log-probabilities are the model's own, whatever else it computes in
the same batch. At others it divides by the temperature, unless SGLANG_RETURN_ORIGINAL_LOGPROB is set.
Several positions of a sequence are one request: `logprob_start_len` gives the rows of the prompt's own last tokens, and
the prefix cache is used up to there.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from eftlocal.errors import RemoteError
from eftlocal.runtime.remote.connection import Connection, RefusedError
from eftlocal.runtime.remote.engines import Asked, Facts, Row, array_of, must_have, number_in, one_of, same, tokens_in

__all__ = ["Sglang"]

PARALLEL: Final = 16
CHECKED: Final = 5


class Sglang:
    """An SGLang server."""

    idle: ClassVar[str] = "/model_info"  # /health is 503 for a while after the start

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @classmethod
    def at(cls, connection: Connection) -> "Sglang | None":
        """The SGLang behind a connection; None if it is another engine. Raises RemoteError."""
        try:
            model = _info(connection, "model_info")
            about = _info(connection, "server_info")
        except RefusedError:
            return None
        if not isinstance(model, dict) or not isinstance(model.get("model_path"), str):
            return None
        must_have(connection, model["model_path"])
        room = [number_in(about, "max_total_num_tokens"), number_in(about, "context_length"), _longest(connection)]
        facts = Facts(
            engine="sglang",
            version=str(about.get("version", "")) if isinstance(about, dict) else "",
            model=model["model_path"],
            n_vocab=number_in(model, "vocab_size") or number_in(about, "vocab_size") or _vocabulary(connection),
            n_ctx=min((n for n in room if n is not None), default=None),
            parallel=PARALLEL,
            most=None,
            template=None,
        )
        return cls(facts)

    def runs(self, connection: Connection) -> tuple[str, str]:
        return one_of(_info(connection, "model_info"), "model_path", str, connection.server.url), ""

    def rows(self, connection: Connection, asked: Asked) -> list[Row]:
        n, url = len(asked.forced), connection.server.url
        body = {
            "input_ids": [*asked.tokens, *asked.forced],
            "logprob_start_len": len(asked.tokens) - 1,
            "top_logprobs_num": min(asked.top, self.facts.n_vocab or asked.top),  # more would end its process
        }
        meta = self._post(connection, body)
        inputs: list[object] = one_of(meta, "input_top_logprobs", list, url) if n else []
        outputs: list[object] = one_of(meta, "output_top_logprobs", list, url)
        places = [*inputs[-n:], *outputs[:1]] if n else outputs[:1]
        if len(places) != n + 1:
            raise RemoteError(f"{url} sent {len(places)} rows of log-probabilities; {n + 1} were asked for.")
        return [_row(place, url) for place in places]

    def _post(self, connection: Connection, more: Mapping[str, Any]) -> Any:
        body = {"sampling_params": {"max_new_tokens": 1, "temperature": 0.0}, "return_logprob": True, **more}
        return one_of(connection.post("/generate", body), "meta_info", dict, connection.server.url)

    def check(self, connection: Connection) -> None:
        # The row after a prompt's last token, as that of an answer and, when a token follows, as one of the prompt.
        (answer,) = self.rows(connection, Asked(0, [0, 1], [], CHECKED))
        prompt, _ = self.rows(connection, Asked(0, [0, 1], [0], CHECKED))
        if not same(prompt, answer):
            raise RemoteError(
                f"{connection.server.url}: its log-probabilities of an answer are not those of a prompt.",
                "Start SGLang without --preferred-sampling-params.",
            )

    def pieces(self, connection: Connection) -> dict[int, bytes] | None:
        return None

    def tokenize(self, connection: Connection, text: str) -> list[int]:
        body = {"model": self.facts.model, "prompt": text, "add_special_tokens": False}
        return tokens_in(connection.post("/tokenize", body), connection.server.url)


def _info(connection: Connection, name: str) -> Any:
    """What older versions tell at /get_..., too. Raises RefusedError where neither is known."""
    try:
        return connection.get(f"/{name}")
    except RefusedError:
        return connection.get(f"/get_{name}")


def _vocabulary(connection: Connection) -> int | None:
    """How many tokens its rows have. It tells so only where it refuses a bias for an id outside of them."""
    settings = {"max_new_tokens": 1, "temperature": 0.0, "logit_bias": {"-1": 0.0}}  # an older one takes it
    try:
        connection.post("/generate", {"input_ids": [0], "sampling_params": settings})
    except RefusedError as error:
        found = re.search(r"\[0, (\d+)\]", error.text)
        return int(found[1]) + 1 if found else None
    return None


def _longest(connection: Connection) -> int | None:
    """The longest sequence. A server whose context was not set tells it here alone."""
    try:
        models: list[object] = one_of(connection.get("/v1/models"), "data", list, connection.server.url)
    except RefusedError:
        return None
    return number_in(models[0], "max_model_len") if models else None


def _row(place: object, where: str) -> Row:
    """A row of [log-probability, id, text]."""
    try:
        pairs = [(int(one[1]), float(one[0])) for one in (place if isinstance(place, list) else ())]
    except (IndexError, OverflowError, TypeError, ValueError):
        pairs = []
    return array_of(pairs, where)
