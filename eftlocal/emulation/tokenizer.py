"""The tokenizer of an emulator, for those who work with token ids: texts to ids, and ids to texts."""

import re
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from eftlocal.emulation.members import Members
from eftlocal.runtime.llama.model import Model

__all__ = ["Tokenizer"]

LENGTH = 8  # bytes of a string's length in a GGUF file
SPECIAL = ("bos", "eos", "padding", "unknown")  # as GGUF files name them


class Tokenizer:
    """The tokenizer that all members share. `model` is one of them."""

    def __init__(self, members: Members, model: Model) -> None:
        self._members = members
        self._model = model

    def encode(self, text: str, *, controls: bool = False, bos: bool = False) -> list[int]:
        """The token ids of a text.

        controls  read the names of control tokens (<|im_end|>) as these tokens; otherwise they are text
        bos       begin with the BOS token, if the model's file asks for one
        """
        ids = [self._model.bos] if bos and self._model.add_bos and self._model.bos is not None else []
        for part in self._names.split(text) if controls else [text]:
            if controls and part in self._model.controls:
                ids.append(self._model.controls[part])
            elif part:
                ids += self._model.tokenize(part)
        return ids

    def is_control(self, token: int) -> bool:
        """Whether a token is a control token, which only a template writes."""
        return token in self._control_texts

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token stands for; the name of a control token."""
        return self._control_texts.get(token) or self._model.piece(token)

    def text_of(self, tokens: list[int]) -> str:
        """The text of token ids. What is not UTF-8 becomes U+FFFD."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", "replace")

    @cached_property
    def longest(self) -> int:
        """The most bytes of text that one token can stand for, or a few more."""
        tokens = self._members.specs[self._members.base].header.array("tokenizer.ggml.tokens")
        return 1 if tokens is None else max(1, int(np.diff(tokens.offsets()).max()) - LENGTH)

    @cached_property
    def special_ids(self) -> Mapping[str, int]:
        """bos, eos, padding, unknown -> the id of that token, for those that the base's file names."""
        metadata = self._members.specs[self._members.base].header.metadata
        ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in SPECIAL}
        return {name: i for name, i in ids.items() if isinstance(i, int) and 0 <= i < self._members.n_real}

    @cached_property
    def special(self) -> Mapping[str, object]:
        """The names of the special tokens, with the keys of a tokenizer_config.json; None for one that is missing."""
        texts = {name: self.bytes_of(i).decode("utf-8", "replace") for name, i in self.special_ids.items()}
        return {
            "bos_token": texts.get("bos"),
            "eos_token": texts.get("eos"),
            "pad_token": texts.get("padding"),
            "unk_token": texts.get("unknown"),
            "add_bos_token": self._model.add_bos,
        }

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template of the first tuned model that has one, else the base's; None if none has one."""
        order = [*(reward.tuned for reward in self._members.rewards), self._members.base]
        headers = (self._members.specs[member].header for member in order)
        return next((text for header in headers if (text := header.text("tokenizer.chat_template"))), None)

    @cached_property
    def _names(self) -> re.Pattern[str]:
        names = sorted(self._model.controls, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})" if names else "(?!)")

    @cached_property
    def _control_texts(self) -> Mapping[int, bytes]:
        return {i: text.encode() for text, i in self._model.controls.items()}
