"""Compares the vocabularies of an emulator's members, token by token.

The members' logits are added id by id, so an id must mean the same text in all of them. Padding after the last real
token is not compared. The vocabularies come from GGUF headers; no model is loaded.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import ModelFileError, VocabularyError
from eftlocal.runtime.gguf import Header

__all__ = ["Shared", "Vocabulary", "fingerprint", "shared"]

# llama.h, enum llama_token_type.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
SPECIAL: Final = (CONTROL, USER_DEFINED, UNUSED)
TYPE_NAMES: Final = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}

SHOWN: Final = 5  # how many differing ids an error shows
FAMILY_HINT: Final = "an emulator's models must come from one family, with one tokenizer"
SPECIAL_HINT: Final = "if the family only renamed control tokens, set `special_tokens_differ = true` in its emulator"

# Names for which llama.cpp uses the same pre-tokenizer and flags (src/llama-vocab.cpp, llama_vocab::impl::load).
PRE_ALIASES: Final = {
    alias: names[0]
    for names in (
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2"),
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4"),
        ("gpt-4o", "llama4", "kanana2", "talkie"),
        ("chatglm-bpe", "glm4"),
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        ("default", ""),
    )
    for alias in names
}


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """One model's tokens. The first `n_real` ids are real; the rest is padding, with meaningless logits."""

    model: str  # tokenizer.ggml.model: gpt2 (byte-level BPE), llama (SentencePiece), ...
    pre: str  # tokenizer.ggml.pre
    raw: bytes  # as in the file: 8 bytes of length, then the text, for each token; gpt2's texts use its byte alphabet
    offsets: NDArray[np.int64]  # (n + 1,) where each token starts in `raw`, and where the last one ends
    types: NDArray[np.int32]  # (n,)
    n_real: int

    @classmethod
    def of(cls, header: Header) -> "Vocabulary":
        """Reads the vocabulary from a model's header. Raises ModelFileError when it is missing or incomplete."""
        texts, types = header.array("tokenizer.ggml.tokens"), header.array("tokenizer.ggml.token_type")
        if texts is None or texts.type != "string" or (types is not None and types.type != "i32"):
            raise ModelFileError(f"{header.path}: has no tokenizer, expected tokenizer.ggml.tokens and their types")
        kinds = np.full(len(texts), NORMAL, np.int32) if types is None else types.values().astype(np.int32)
        if len(kinds) < len(texts):
            raise ModelFileError(f"{header.path}: has {len(kinds):,} token types, expected {len(texts):,}")
        offsets = texts.offsets()
        vocabulary = cls(
            model=header.text("tokenizer.ggml.model"),
            pre=header.text("tokenizer.ggml.pre"),
            raw=texts.raw,
            offsets=offsets,
            types=kinds[: len(texts)],
            n_real=_n_real(texts.raw, offsets, kinds),
        )
        if vocabulary.n_real == 0:
            raise ModelFileError(f"{header.path}: has no tokens, or only padding, expected a vocabulary")
        return vocabulary

    def __len__(self) -> int:
        return len(self.types)

    def text(self, token: int) -> bytes:
        return _text(self.raw, self.offsets, token)

    @property
    def tokenization(self) -> str:
        """The pre-tokenizer, with one name for all its aliases; "" unless the model is BPE: llama.cpp ignores it."""
        return PRE_ALIASES.get(self.pre, self.pre) if self.model == "gpt2" else ""


def _text(raw: bytes, offsets: NDArray[np.int64], token: int) -> bytes:
    return raw[int(offsets[token]) + 8 : int(offsets[token + 1])]


def _n_real(raw: bytes, offsets: NDArray[np.int64], types: NDArray[np.int32]) -> int:
    """The number of ids up to the last that is not padding.

    Padding has the type UNUSED, or a text as llama.cpp's converter writes it: `[PAD151665]`.
    """
    n = len(offsets) - 1
    while n and (types[n - 1] == UNUSED or re.fullmatch(rb"\[PAD.*\]", _text(raw, offsets, n - 1), re.DOTALL)):
        n -= 1
    return n


def fingerprint(header: Header, n: int) -> str:
    """A fingerprint of the first n token ids with their texts. Where it is the same, token ids mean the same."""
    tokens = header.array("tokenizer.ggml.tokens")
    sha = hashlib.sha256()
    for text in tokens.strings()[:n] if tokens else ():
        sha.update(len(text).to_bytes(4, "little") + text)
    return sha.hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """The vocabulary that an emulator's members share: `n_real` ids. Those in `differing` have different texts."""

    n_real: int
    differing: NDArray[np.int64]  # ids, ascending; empty unless the emulator sets special_tokens_differ


def shared(named: Mapping[str, Vocabulary], *, special_tokens_differ: bool = False) -> Shared:
    """Returns the vocabulary that all members share. `named` maps each model's name to its vocabulary.

    For each id below the smallest n_real, text and type must be equal. With `special_tokens_differ`, special tokens
    (control, user-defined and unused ones) may differ. Those with different texts are returned in `differing`; the
    reward must be 0 there. `tokenizer.ggml.pre` must name the same pre-tokenizer, because another one would cut a
    prompt into other tokens.

    Raises VocabularyError, which shows two of the models and the first ids that differ.
    """
    (first, base), *others = named.items()
    n_real = min(vocabulary.n_real for vocabulary in named.values())
    differing = [np.empty(0, np.int64)]
    for name, other in others:
        between = f"{first} ({_size(base)}) and {name} ({_size(other)})"
        for key, a, b in (("model", base.model, other.model), ("pre", base.tokenization, other.tokenization)):
            if a != b:
                problem = f"{between} have different tokenizers: tokenizer.ggml.{key} is {a!r} and {b!r}"
                raise VocabularyError(problem, FAMILY_HINT)
        different = _differing(base, other, n_real)
        special = np.isin(base.types[different], SPECIAL) & np.isin(other.types[different], SPECIAL)
        if len(different) and not (special_tokens_differ and special.all()):
            hint = SPECIAL_HINT if special.all() else FAMILY_HINT
            raise VocabularyError(f"{between} do not share a vocabulary: {_shown(base, other, different)}", hint)
        differing.append(np.array([i for i in different.tolist() if base.text(i) != other.text(i)], np.int64))
    return Shared(n_real, np.unique(np.concatenate(differing)))


def _size(vocabulary: Vocabulary) -> str:
    padding = len(vocabulary) - vocabulary.n_real
    return f"{vocabulary.n_real:,} tokens" + (f" and {padding:,} of padding" if padding else "")


def _differing(a: Vocabulary, b: Vocabulary, n: int) -> NDArray[np.int64]:
    """The ids below `n` that differ in text or type."""
    if a.raw[: int(a.offsets[n])] == b.raw[: int(b.offsets[n])]:
        return np.flatnonzero(a.types[:n] != b.types[:n])
    texts = np.fromiter((a.text(i) != b.text(i) for i in range(n)), np.bool_, n)
    return np.flatnonzero(texts | (a.types[:n] != b.types[:n]))


def _shown(a: Vocabulary, b: Vocabulary, ids: NDArray[np.int64]) -> str:
    """Shows the first few ids as `3 'x' / 'y'`, and with their types when the texts are equal."""
    parts = []
    for i in ids[:SHOWN].tolist():
        sides = [_quoted(vocabulary.text(i)) for vocabulary in (a, b)]
        if a.text(i) == b.text(i):
            types = (int(vocabulary.types[i]) for vocabulary in (a, b))
            sides = [f"{side} ({TYPE_NAMES.get(t, f'type {t}')})" for side, t in zip(sides, types, strict=True)]
        parts.append(f"{i} {' / '.join(sides)}")
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return f"token {', '.join(parts)}{more}"


def _quoted(text: bytes) -> str:
    decoded = text.decode("utf-8", "backslashreplace")
    return repr(decoded if len(decoded) <= 40 else decoded[:37] + "...")
