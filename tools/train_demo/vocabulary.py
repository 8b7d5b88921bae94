"""The vocabulary of the demo's models: byte-level BPE, split like GPT-2 (llama.cpp's pre-tokenizer `gpt-2`)."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .corpus import DOCUMENT, END_OF_TURN

SIZE = 2048
CONTROL = (DOCUMENT, END_OF_TURN)  # ids 0 and 1


def train(texts: Iterable[str]) -> Tokenizer:
    """Train a vocabulary of SIZE tokens: the control tokens, the 256 bytes, and the merges in the order learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def load(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def merges(tokenizer: Tokenizer) -> list[str]:
    """The merges in their order, each as GGUF writes it: two parts with a space between them."""
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in learned]
