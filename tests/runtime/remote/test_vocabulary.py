"""Whether a server's tokens are those of the models here: the same model is never refused, and another one is."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import TokenType

from eftlocal.catalog.server import Server
from eftlocal.errors import VocabularyError
from eftlocal.runtime import gguf
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.remote.link import connect
from eftlocal.runtime.remote.vocabulary import must_share
from tests.families import VOCAB, write_model
from tests.runtime.remote.mirror import mirrored


def test_control_tokens_of_one_model_are_the_same_whatever_their_texts_are_side_by_side(tmp_path: Path) -> None:
    texts = ["<s>", "<s>x", "<s", "x<s>", "<|im_end|><s>", *(f"<|reserved_{i}|>" for i in range(1000))]
    path = write_model(tmp_path / "model.gguf", seed=1, vocab=VOCAB.extended(texts, TokenType.CONTROL))
    model = Model(gguf.check(path))
    with mirrored(path) as (server, _):
        link = connect(Server(url=server.url))
        must_share(link, model, model.n_vocab, special=True, remembered=None)
        link.close()
    model.close()


def test_control_tokens_are_compared_again_where_all_else_is_remembered(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", seed=1)
    model = Model(gguf.check(path))
    with mirrored(path) as (server, mirror):
        link = connect(Server(url=server.url))
        must_share(link, model, model.n_vocab, special=True, remembered=tmp_path / "remembered.json")
        start, end = "<|im_start|>", "<|im_end|>"
        mirror.controls[start], mirror.controls[end] = mirror.controls[end], mirror.controls[start]
        with pytest.raises(VocabularyError, match="other control tokens"):
            must_share(link, model, model.n_vocab, special=True, remembered=tmp_path / "remembered.json")
        link.close()
    model.close()
