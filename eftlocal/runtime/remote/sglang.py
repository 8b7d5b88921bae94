"""SGLang: POST /generate with input_ids and return_logprob. Written from its source, and not tried against a server.

Several positions of a sequence are one request: `logprob_start_len` gives the rows of the prompt's own last tokens, and
the prefix cache is used up to there.
"""

from collections.abc import Mapping
from typing import Any, Final

from eftlocal.errors import RemoteError
from eftlocal.runtime.remote.connection import Connection, RefusedError
from eftlocal.runtime.remote.engines import Asked, Facts, Row, array_of, must_be_own, number_in, one_of, tokens_in

__all__ = ["Sglang"]

PARALLEL: Final = 16


class Sglang:
    """An SGLang server."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @classmethod
    def at(cls, connection: Connection) -> "Sglang | None":
        """The SGLang behind a connection; None if it is another engine. Raises RemoteError."""
        try:
            model = connection.get("/get_model_info")
            about = connection.get("/get_server_info")
        except RefusedError:
            return None
        if not isinstance(model, dict) or not isinstance(model.get("model_path"), str):
            return None
        facts = Facts(
            engine="sglang",
            version=str(about.get("version", "")) if isinstance(about, dict) else "",
            model=model["model_path"],
            n_vocab=number_in(model, "vocab_size") or number_in(about, "vocab_size"),
            n_ctx=number_in(about, "context_length") or number_in(about, "max_total_num_tokens"),
            parallel=PARALLEL,
            most=None,
            template=None,
        )
        return cls(facts)

    def rows(self, connection: Connection, asked: Asked) -> list[Row]:
        n, url = len(asked.forced), connection.server.url
        body = {
            "input_ids": [*asked.tokens, *asked.forced],
            "logprob_start_len": len(asked.tokens) - 1,
            "top_logprobs_num": asked.top,
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
        def first(**sampling: Any) -> Row:
            settings = {"max_new_tokens": 1, "temperature": 0.0, **sampling}
            meta = self._post(connection, {"input_ids": [0, 1], "top_logprobs_num": 5, "sampling_params": settings})
            places: list[object] = one_of(meta, "output_top_logprobs", list, connection.server.url)
            return _row(next(iter(places), None), connection.server.url)

        plain = first()
        changes = ({"temperature": 2.0}, {"logit_bias": {str(int(plain.ids[0])): -5.0}})
        hint = "Set SGLANG_RETURN_ORIGINAL_LOGPROB=1 where the server starts."
        must_be_own(plain, (first(**change) for change in changes), connection.server.url, hint)

    def pieces(self, connection: Connection) -> dict[int, bytes] | None:
        return None

    def tokenize(self, connection: Connection, text: str) -> list[int]:
        body = {"model": self.facts.model, "prompt": text, "add_special_tokens": False}
        return tokens_in(connection.post("/tokenize", body), connection.server.url)


def _row(place: object, where: str) -> Row:
    """A row of [log-probability, id, text]."""
    try:
        pairs = [(int(one[1]), float(one[0])) for one in (place if isinstance(place, list) else ())]
    except (IndexError, OverflowError, TypeError, ValueError):
        pairs = []
    return array_of(pairs, where)
