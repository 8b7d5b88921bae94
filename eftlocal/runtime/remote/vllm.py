"""vLLM: POST /v1/completions with token ids and logprobs.

Its log-probabilities are the model's own, unless it was started with another --logprobs-mode. Several positions of a
sequence are a list of prompts in one request: its prefix cache computes what they share once.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from eftlocal.errors import ContextError, RemoteError
from eftlocal.runtime.remote.connection import TRIES, Connection, RefusedError
from eftlocal.runtime.remote.engines import Asked, Facts, Row, array_of, must_be_own, number_in, one_of, tokens_in

__all__ = ["Vllm"]

LIMIT: Final = 20  # --max-logprobs, unless it is given
PARALLEL: Final = 16
ALL: Final = -1
ID: Final = "token_id:"


class Vllm:
    """A vLLM server, at the model that is asked for or the first that it has."""

    idle: ClassVar[str] = "/version"  # /health has an empty body, which is not JSON

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    @classmethod
    def at(cls, connection: Connection) -> "Vllm | None":
        """The vLLM behind a connection; None if it is another engine. Raises RemoteError."""
        try:
            version = connection.get("/version")
        except RefusedError:
            return None
        if not isinstance(version, dict) or not isinstance(version.get("version"), str):
            return None
        model = _model(connection, connection.server.model)
        name = str(model.get("id"))
        most, n_vocab = _limits(connection, name)
        facts = Facts(
            engine="vllm",
            version=version["version"],
            model=name,
            n_vocab=n_vocab,
            n_ctx=number_in(model, "max_model_len"),
            parallel=PARALLEL,
            most=most,
            template=None,
            weights=_source(model),
        )
        return cls(facts)

    def runs(self, connection: Connection) -> tuple[str, str]:
        model = _model(connection, self.facts.model)
        return str(model.get("id")), _source(model)

    def rows(self, connection: Connection, asked: Asked) -> list[Row]:
        tokens, first = [*asked.tokens, *asked.forced], len(asked.tokens)
        prompts = [tokens[: first + i] for i in range(1 + len(asked.forced))]
        top = ALL if self.facts.n_vocab is not None and asked.top >= self.facts.n_vocab else asked.top
        answer = self._post(connection, {"prompt": prompts, "logprobs": top})
        return _rows(answer, len(prompts), top, connection.server.url)

    def _post(self, connection: Connection, more: Mapping[str, Any]) -> Any:
        body = {**_body(self.facts.model), **more}
        try:
            answer = connection.post("/v1/completions", body)
        except RefusedError as error:
            if "context length" in error.text:
                hint = "Start the server with a larger --max-model-len, or shorten the prompt."
                raise ContextError(f"{connection.server.url}: {error.text}", hint) from error
            raise
        if isinstance(answer, dict) and answer.get("model") not in (None, self.facts.model):
            raise RemoteError(
                f"{connection.server.url} runs another model now: {answer.get('model')}.", "Load it again."
            )
        return answer

    def check(self, connection: Connection) -> None:
        def first(**change: Any) -> Row:
            top = min(5, self.facts.most or 5)
            answer = self._post(connection, {"prompt": [[0, 1]], "logprobs": top, **change})
            return _rows(answer, 1, top, connection.server.url)[0]

        plain = first()
        changes = ({"temperature": 2.0, "seed": 1}, {"logit_bias": {str(int(plain.ids[0])): -5.0}})
        hint = "Start vLLM with --logprobs-mode raw_logprobs."
        must_be_own(plain, (first(**change) for change in changes), connection.server.url, hint)

    def pieces(self, connection: Connection) -> dict[int, bytes] | None:
        return None

    def tokenize(self, connection: Connection, text: str) -> list[int]:
        body = {"model": self.facts.model, "prompt": text, "add_special_tokens": False}
        return tokens_in(connection.post("/tokenize", body), connection.server.url)


def _model(connection: Connection, wanted: str | None) -> dict[str, Any]:
    """What the server says of this model, or of the first that it has."""
    url = connection.server.url
    models: list[object] = one_of(connection.get("/v1/models"), "data", list, url)
    entries = [m for m in models if isinstance(m, dict)]
    for model in entries:
        if wanted in (None, model.get("id")):
            return model
    known = ", ".join(str(m.get("id")) for m in entries) or "none"
    raise RemoteError(f"{url} has no model {wanted}; it has {known}.", "Name one: model = ... in models.toml.")


def _source(model: dict[str, Any]) -> str:
    """Where the weights come from; "" where it does not say."""
    root = model.get("root")
    return root if isinstance(root, str) else ""


def _body(model: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": 1, "temperature": 0.0, "return_tokens_as_token_ids": True}


def _limits(connection: Connection, model: str) -> tuple[int | None, int | None]:
    """The most tokens of a row that it gives (None: all), and the size of its vocabulary where it gives all."""
    url = connection.server.url
    try:
        answer = connection.post("/v1/completions", {**_body(model), "prompt": [[0]], "logprobs": ALL}, tries=TRIES)
    except RefusedError as error:
        found = re.search(r"max(?:imum)? (?:allowed|number)\D*(\d+)", error.text)
        return (int(found[1]) if found else LIMIT), None
    return None, len(_rows(answer, 1, ALL, url)[0].ids)


def _rows(answer: object, n: int, top: int, where: str) -> list[Row]:
    """The `top` likeliest tokens of each answer; ALL of them. It adds the sampled one, which is no bound for others."""
    choices: list[object] = one_of(answer, "choices", list, where)
    found: list[Row] = []
    ordered = sorted((c for c in choices if isinstance(c, dict)), key=lambda c: c.get("index", 0))
    for choice in ordered:
        tops = (choice.get("logprobs") or {}).get("top_logprobs") or [{}]
        pairs = [
            (int(name.removeprefix(ID)), p)
            for name, p in (tops[0] or {}).items()
            if name.startswith(ID) and name[len(ID) :].isdecimal() and isinstance(p, (int, float))
        ]
        row = array_of(pairs, where)
        found.append(row if top == ALL else Row(row.ids[:top], row.logprobs[:top]))
    if len(found) != n:
        raise RemoteError(f"{where} sent {len(found)} rows of log-probabilities; {n} were asked for.")
    return found
