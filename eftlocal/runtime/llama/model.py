"""The weights and the tokenizer of one model."""

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np

from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime import gguf, trial
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.llama import devices, library
from eftlocal.runtime.llama.interrupt import interruptible, raise_from_callback, survives
from eftlocal.runtime.llama.stack import on_deep_stack
from eftlocal.runtime.plan.loads import Offload

# For some tokenizers, llama.cpp splits a text with std::regex, which calls itself for each character of a word: about
# 350 bytes of stack each. A word of 25,000 letters ended the process.
STACK = 512
LONGEST = 1 << 22  # characters, for a stack of 2 GB


class Model:
    """The weights and the tokenizer of one GGUF file. They are loaded once, and contexts share them.

    `header` comes from gguf.check, so that llama.cpp only opens files that were checked. A file with anything that is
    not known to be safe is tried in another process first. Raises ModelLoadError, with llama.cpp's reason, when the
    file cannot be loaded.
    """

    def __init__(
        self,
        header: Header,
        offload: Offload | None = None,
        *,
        vocab_only: bool = False,
        progress: Callable[[], None] | None = None,
    ) -> None:
        """Loads the weights. `offload` says which layers go to devices; None lets llama.cpp offload all if it can.

        vocab_only  loads no weights: there is a tokenizer, and no context can be made
        progress    is called again and again while weights are loaded
        """
        trial.must_survive(header)
        library.start()
        path = header.path
        library.recent.clear()
        params = lib.llama_model_default_params()
        params.vocab_only = vocab_only
        self._kept: list[Any] = []  # arrays that llama.cpp reads, which must stay alive
        if offload is not None:
            self._kept = devices.set_offload(params, offload)
        handle = None
        try:
            with interruptible() as asked:

                def goes_on(*_: object) -> bool:
                    if progress is not None:
                        progress()
                    return not asked()

                told = lib.llama_progress_callback(survives(False)(goes_on))  # False ends the load
                params.progress_callback = told
                handle = lib.llama_model_load_from_file(os.fsencode(path), params)
        except KeyboardInterrupt:
            if handle:
                lib.llama_model_free(handle)
            raise
        if not handle:
            raise ModelLoadError(f"{path}: llama.cpp could not load it: {library.reason()}")
        self.path = path
        self.handle = handle
        self.on_device = library.can_offload() if offload is None else offload.layers > 0 and bool(offload.devices)
        self._vocab = lib.llama_model_get_vocab(handle)
        self._loras: dict[Path, lib.llama_adapter_lora_p] = {}
        self._pieces: dict[int, bytes] = {}  # pieces that were asked for before: a call costs more than a lookup
        self._ends: dict[int, bool] = {}
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        bos = int(lib.llama_vocab_bos(self._vocab))
        self.bos = bos if bos >= 0 else None
        self.add_bos = self.bos is not None and bool(lib.llama_vocab_get_add_bos(self._vocab))
        self._types = header.array("tokenizer.ggml.token_type")
        self._shapes = {tensor.name: tensor.shape for tensor in header.tensors}
        # Recurrent and hybrid models keep a state that cannot be cut in the middle, so they cannot be rewound.
        self.rewinds = not (lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle))

    @cached_property
    def controls(self) -> Mapping[str, int]:
        """The control tokens: their texts and ids. They do not stand for text, and only a template may write them."""
        if self._types is None:
            return {}
        types = self._types.values()
        ids = np.flatnonzero((types == lib.LLAMA_TOKEN_TYPE_CONTROL) | (types == lib.LLAMA_TOKEN_TYPE_UNKNOWN)).tolist()
        return {text: i for i in ids if (text := lib.llama_vocab_get_text(self._vocab, i).decode("utf-8", "replace"))}

    @cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer puts a space before each text, as SentencePiece does."""
        return b"".join(map(self.piece, self.tokenize("a")))[:1] == b" "

    def strips(self, token: int) -> tuple[bool, bool]:
        """Returns whether a control token removes the white space before it, and whether after it."""
        attributes = int(lib.llama_vocab_get_attr(self._vocab, token))
        return bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP), bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP)

    def tokenize(self, text: str) -> list[int]:
        """Returns the ids of plain text. BOS is not added, and control tokens in `text` stay text.

        Raises DecodeError for a text that is longer than any context.
        """
        if len(text) > LONGEST:
            raise DecodeError(f"{self.path}: a text has {len(text):,} characters, expected at most {LONGEST:,}")
        return on_deep_stack(len(text) * STACK, lambda: self._tokens(text.encode("utf-8", "surrogatepass")))

    def _tokens(self, data: bytes) -> list[int]:
        room = len(data) + 8  # a byte is at most one token; a leading space may be added
        while True:
            tokens = (lib.llama_token * room)()
            n = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, False)
            if n >= 0:
                return list(tokens[:n])
            room = -n

    def piece(self, token: int) -> bytes:
        """Returns the bytes that `token` stands for; none for a control token."""
        if (known := self._pieces.get(token)) is not None:
            return known
        if not 0 <= token < self.n_vocab:  # llama.cpp would end the process
            raise DecodeError(f"{self.path}: token {token} is not in its vocabulary of {self.n_vocab}")
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if n >= 0:
                return self._pieces.setdefault(token, buffer.raw[:n])
            room = -n

    def is_eog(self, token: int) -> bool:
        """Whether `token` ends a generation. llama.cpp decides this by the texts of the tokens."""
        if (known := self._ends.get(token)) is None:
            inside = 0 <= token < self.n_vocab  # elsewhere llama.cpp would end the process
            known = self._ends[token] = inside and bool(lib.llama_vocab_is_eog(self._vocab, token))
        return known

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end a generation."""
        return tuple(token for token in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, token))

    def lora(self, path: Path) -> lib.llama_adapter_lora_p:
        """Returns the LoRA adapter at `path`, which is loaded once for these weights. Raises ModelLoadError."""
        if path not in self._loras:
            library.recent.clear()
            adapter = lib.llama_adapter_lora_init(self.handle, os.fsencode(path))
            raise_from_callback()
            if not adapter:
                raise ModelLoadError(
                    f"{path}: llama.cpp could not apply this adapter to {self.path}: {library.reason()}"
                )
            self._must_match(gguf.read(path))
            self._loras[path] = adapter
        return self._loras[path]

    def _must_match(self, adapter: Header) -> None:
        """Refuses matrices for another number of experts: llama.cpp compares only rows and columns, and then aborts."""
        for tensor in adapter.tensors:
            target, part = tensor.name[:-7], tensor.name[-7:]
            if part in (".lora_a", ".lora_b") and self._shapes.get(target, ())[2:] != tensor.shape[2:]:
                found = f"{adapter.path}: tensor {tensor.name} has the shape {tensor.shape}"
                expected = f"expected one for the shape {self._shapes.get(target)} in {self.path}"
                raise ModelLoadError(f"{found}, {expected}")

    @cached_property
    def end(self) -> int | None:
        """The token that ends an answer where a template does not say one: EOS, or else EOT.

        llama.cpp guesses EOT from the texts of the tokens where the file does not say it, so it comes second.
        """
        ends = (int(lib.llama_vocab_eos(self._vocab)), int(lib.llama_vocab_eot(self._vocab)))
        return next((token for token in ends if self.is_eog(token)), None)

    def close(self) -> None:
        """Frees the weights and the adapters. Their contexts must be closed before."""
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None
