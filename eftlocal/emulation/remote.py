"""Members on a server: a header that stands for a model without a file, and the link to it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import platformdirs

from eftlocal.catalog.server import Server, is_address
from eftlocal.engine.spec import Remote
from eftlocal.engine.workers import Workers
from eftlocal.errors import SettingError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.remote import vocabulary
from eftlocal.runtime.remote.link import Link, connect
from eftlocal.runtime.vocab import Vocabulary

__all__ = ["leaves", "must_share", "no_room", "reached", "stand_in"]

ARCHITECTURE: Final = "remote"
LENGTHS: Final[Mapping[str, str]] = {
    "llama-server": "-c (it is divided by -np)",
    "vllm": "--max-model-len",
    "sglang": "--context-length",
}
"""The option of each engine that says how long sequences may be."""


def reached(server: Server, lender: Header) -> tuple[Header, Remote]:
    """The header that stands for the model on a server, and the way to it. Raises RemoteError.

    `lender` is the header of a model on this machine, whose tokens are the same.
    """
    link = connect(server)
    return stand_in(server, lender, link), Remote(link, lender)


def stand_in(server: Server, lender: Header, link: Link | None = None) -> Header:
    """A header without tensors, so that the plan gives it no memory. Without a link, its template is the lender's."""
    kept = {key: value for key, value in lender.metadata.items() if key.startswith("tokenizer.")}
    kept |= {"general.architecture": ARCHITECTURE}
    context = lender.metadata.get(f"{lender.architecture}.context_length")
    if link is not None:
        kept["tokenizer.chat_template"] = link.facts.template or ""
        if link.facts.n_ctx is not None:  # a server samples a token with each row, which takes a place, too
            context = max(1, link.facts.n_ctx - 1)
    if isinstance(context, int):
        kept[f"{ARCHITECTURE}.context_length"] = context
    return replace(lender, path=Path(server.url), metadata=kept, tensors=(), file_bytes=0, shards=())


def leaves(name: str, server: Server) -> str | None:
    """The note for a model on another machine; None for one on this machine."""
    if server.is_here:
        return None
    return f"{'A model' if is_address(name) else name} runs at {server}: what you write leaves this machine"


def no_room(link: Link, asked: int, room: int) -> SettingError:
    """The error of a context that is longer than a sequence of the server, of `room` tokens, may be."""
    longer = f"Start it with a larger {LENGTHS[link.facts.engine]}"
    return SettingError(
        f"A context of {asked} tokens is too long: {link.server} has {room}, one of them for the token it samples.",
        f"{longer}, or ask for at most {room - 1} (--ctx, or context in models.toml).",
    )


def must_share(workers: Workers, *, special_tokens_differ: bool) -> None:
    """Compares the tokens of each member on a server with those here: those that are special, unless they may differ.

    Raises VocabularyError and RemoteError.
    """
    for member, spec in enumerate(workers.specs):
        if spec.remote is not None:
            model = workers.model(member)
            remembered = platformdirs.user_cache_path("eftlocal") / "remote-vocabularies.json"
            n_real = Vocabulary.of(spec.remote.vocabulary).n_real
            special = not special_tokens_differ
            vocabulary.must_share(spec.remote.link, model, n_real, special=special, remembered=remembered)
