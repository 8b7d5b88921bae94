"""A server that speaks llama-server's dialect and computes with a model in this process: exact, and quick to start."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from eftlocal.arithmetic.combine import log_softmax
from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from tests.runtime.remote.scripted import Scripted, scripted, status

CONTEXT = 320


class Mirror:
    """Answers as a llama-server of this model, with its rows in F32.

    tops    how many tokens of a row each request asked for
    pieces  token id -> other bytes than the model's
    controls  the texts and ids of its control tokens
    model   what it says that its model is called
    """

    def __init__(self, path: Path, *, lora: tuple[Path, float] | None = None) -> None:
        header = gguf.check(path)
        self._model = Model(header)
        self.template = header.text("tokenizer.chat_template")
        self._context = Context(self._model, n_ctx=CONTEXT, lora=lora, kv_type="f32")
        self._lock = threading.Lock()
        self._held: list[int] = []
        self.tops: list[int] = []
        self.pieces: dict[int, bytes] = {}
        self.controls = dict(self._model.controls)
        self.named = path.name
        self.meta: dict[str, object] = {"size": path.stat().st_size, "n_params": 1}
        self.n_vocab = self._model.n_vocab

    def __call__(self, path: str, body: Any) -> object:
        if path == "/props":
            settings = {"n_ctx": CONTEXT}
            about = {"total_slots": 4, "build_info": "b1-mirror", "chat_template": self.template}
            return {"default_generation_settings": settings, **about}
        if path == "/v1/models":
            return {"data": [{"id": self.named, "meta": {"n_vocab": self.n_vocab, **self.meta}}]}
        if path == "/slots":
            return [{"id": i, "speculative": False} for i in range(4)]
        if path == "/health":
            return {"status": "ok"}
        if path == "/tokenize":
            return {"tokens": self._tokens(body["content"], special=body.get("parse_special", True))}
        if path != "/completion":
            return status(404)
        forced = [int(token) for token in re.findall(r"<\[(\d+)\]>", body.get("grammar", ""))][:-1]
        tokens: list[int] = body["prompt"]
        if any(token >= self.n_vocab for token in tokens):
            return status(400, {"error": {"message": "Prompt contains invalid tokens"}})
        if len(tokens) + len(forced) >= CONTEXT:
            return status(400, {"error": {"message": "the request exceeds the available context size"}})
        with self._lock:
            self.tops.append(body["n_probs"])
            rows = self._rows(tokens, forced)
        return {"model": self.named, "completion_probabilities": [self._place(row, body["n_probs"]) for row in rows]}

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        """As llama-server cuts a text; with `special`, texts of control tokens are these tokens."""
        controls = self.controls if special else {}
        pattern = "|".join(map(re.escape, sorted(controls, key=len, reverse=True))) or "(?!)"
        split, found = re.split(pattern, text), re.findall(pattern, text)
        tokens: list[int] = []
        for part, control in zip(split, [*found, None], strict=True):
            tokens += self._model.tokenize(part) if part else []
            tokens += [] if control is None else [controls[control]]
        return tokens

    def _rows(self, tokens: list[int], forced: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        whole = [*tokens, *forced]
        kept = next((i for i, (a, b) in enumerate(zip(self._held, whole, strict=False)) if a != b), len(self._held))
        kept = self._context.rewind(0, min(kept, len(tokens) - 1))
        for start in range(kept, len(tokens) - 1, 32):
            self._context.feed([Feed(0, whole[start : min(start + 32, len(tokens) - 1)], 0)])
        rows = self._context.feed([Feed(0, whole[len(tokens) - 1 :], 1 + len(forced))])
        self._held = whole
        return log_softmax(rows)

    def _place(self, row: np.ndarray[Any, np.dtype[np.float32]], n: int) -> dict[str, object]:
        ids = np.argsort(-row, kind="stable")[:n].tolist()
        tops = [{"id": i, "bytes": [*self._piece(i)], "logprob": float(row[i])} for i in ids]
        return {"id": ids[0], "logprob": float(row[ids[0]]), "top_logprobs": tops}

    def _piece(self, token: int) -> bytes:
        return self.pieces.get(token, self._model.piece(token) if token < self._model.n_vocab else b"")

    def close(self) -> None:
        self._context.close()
        self._model.close()


@contextmanager
def mirrored(
    path: Path, *, lora: tuple[Path, float] | None = None, change: Callable[[Mirror], None] = lambda _: None
) -> Iterator[tuple[Scripted, Mirror]]:
    """A server of this model until the context ends. `change` alters what it says."""
    mirror = Mirror(path, lora=lora)
    change(mirror)
    try:
        with scripted(mirror) as server:
            yield server, mirror
    finally:
        mirror.close()
