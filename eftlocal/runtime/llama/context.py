"""The context of one member: its KV cache, which takes tokens, returns logits, and can be rewound and forked.

llama.cpp aborts the process on a bad call, so each limit (batch, context, token range) is checked before a call.
"""

import ctypes
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from eftlocal.arithmetic.arrays import Logits
from eftlocal.errors import DecodeError, ModelLoadError, SettingError
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama import copies, library
from eftlocal.runtime.llama.copies import SavedSequence
from eftlocal.runtime.llama.interrupt import ABORT, FLAG, Stopped, interruptible, raise_from_callback
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.memory import CPU_BATCH, GPU_BATCH, MAX_ROWS

VIEWS = 64  # how many arrays over a context's logits are kept
MAX_THREADS = 512  # GGML_MAX_N_THREADS; with far more, starting the threads ends the process
ABORTED = 2  # llama_decode: its abort callback ended it
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ in llama.cpp's src/llama-cparams.h
KV_TYPES = {"f32": lib.GGML_TYPE_F32, "f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}


Cell = tuple[int, int, int]  # a token, its position, its sequence


class Context:
    """The KV cache of one member, for several sequences: feed tokens, get logits, rewind, fork.

    It counts how many tokens of each sequence it holds for certain. After a feed that failed or was interrupted, the
    count covers only the tokens decoded completely. What lies beyond it is removed before the sequence is used again.
    Not thread-safe: make one call at a time. Different contexts may run at the same time.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_seq: int = 1,
        n_threads: int = 1,
        lora: tuple[Path, float] | None = None,
        kv_type: str = "f16",
    ) -> None:
        """Creates a cache for `n_seq` sequences of `n_ctx` tokens each, with keys and values stored as `kv_type`.

        f32 also turns flash attention off. Logits then do not depend on how tokens are batched, to about 1e-5.
        Raises ModelLoadError, and SettingError for a number of threads that llama.cpp does not support.
        """
        if not 1 <= n_threads <= MAX_THREADS:
            raise SettingError(f"threads is {n_threads}; it must be between 1 and {MAX_THREADS}.")
        library.recent.clear()
        self.model = model
        self.n_batch = GPU_BATCH if model.on_device else CPU_BATCH
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx * n_seq
        params.n_batch = params.n_ubatch = max(self.n_batch, n_seq)
        params.n_seq_max = n_seq
        params.n_outputs_max = self.max_rows = min(params.n_batch, max(MAX_ROWS, n_seq))
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        params.type_k = params.type_v = KV_TYPES[kv_type]
        if kv_type == "f32":
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.swa_full = True  # otherwise a sliding window forgets tokens and cannot be rewound
        params.kv_unified = False  # each sequence has its own cells and attends only to those
        handle = None
        try:
            with interruptible():
                handle = lib.llama_init_from_model(model.handle, params)
        except KeyboardInterrupt:
            if handle:
                lib.llama_free(handle)
            raise
        if not handle:
            raise _not_created(model.path, f"{n_ctx} tokens x {n_seq}", kv_type)
        self._handle = handle
        lib.llama_set_abort_callback(handle, ctypes.cast(ABORT, lib.ggml_abort_callback), ctypes.addressof(FLAG))
        self._memory = lib.llama_get_memory(handle)
        self.n_ctx = min(n_ctx, int(lib.llama_n_ctx_seq(handle)))
        self.n_seq = n_seq
        self._held = [0] * n_seq  # how many tokens of each sequence were decoded completely
        self._torn = [False] * n_seq  # whether the cache may contain more than those
        self.n_fed = 0  # tokens decoded since the start
        if lora is not None:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(
                ctypes.cast(model.lora(lora[0]), lib.llama_adapter_lora_p_ctypes)
            )
            if lib.llama_set_adapters_lora(handle, adapters, 1, (ctypes.c_float * 1)(lora[1])) != 0:
                raise ModelLoadError(f"{lora[0]}: llama.cpp could not set this adapter on {model.path}")
        self._n_threads = n_threads
        self._views: dict[tuple[int, int], Logits] = {}  # arrays over llama.cpp's buffer, by address and rows
        self._tokens = np.zeros(params.n_batch, np.int32)
        self._positions = np.zeros(params.n_batch, np.int32)
        self._sequences = np.zeros(params.n_batch, np.int32)
        self._wanted = np.zeros(params.n_batch, np.int8)
        self._batch = _batch(self._tokens, self._positions, self._sequences, self._wanted)

    @property
    def rewinds(self) -> bool:
        """Whether a sequence can be cut anywhere."""
        return self.model.rewinds

    def held(self, sequence: int) -> int:
        """Returns how many tokens of `sequence` the cache holds for certain. It may be fewer after an error."""
        return self.rewind(sequence, self._held[sequence])  # an incomplete recurrent state is lost as a whole

    def rewind(self, sequence: int, n: int) -> int:
        """Keeps the first `n` tokens of `sequence`. Returns how many it keeps.

        These are fewer than `n` when the cache holds fewer, and 0 when a recurrent state cannot be cut.
        """
        if n >= self._held[sequence] and not self._torn[sequence]:
            return self._held[sequence]
        n = min(n, self._held[sequence])
        self._held[sequence], self._torn[sequence] = n, True  # torn until done: Ctrl-C may interrupt here
        if n == 0 or not lib.llama_memory_seq_rm(self._memory, sequence, n, -1):
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)  # a whole sequence can always be removed
            self._held[sequence] = n = 0
        self._torn[sequence] = False
        return n

    def fork(self, source: int, target: int, n: int) -> int:
        """Copies the first `n` tokens of the sequence `source` to `target`. Returns how many `target` then holds."""
        self.rewind(source, self._held[source])  # an incomplete tail must not be copied
        self.rewind(target, 0)
        self._torn[target] = True
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._held[target], self._torn[target] = self._held[source], False
        return self.rewind(target, n)

    def saved(self) -> dict[int, SavedSequence]:
        """Returns a copy of each sequence that holds tokens. `restore` puts it into another context of this model."""
        return {
            sequence: copies.taken(self._handle, sequence, n=n, n_seq=self.n_seq, room=MAX_SEQUENCES)
            for sequence in range(self.n_seq)
            if (n := self.held(sequence))
        }

    def restore(self, saved: Mapping[int, SavedSequence]) -> None:
        """Puts copies of sequences into this context, which is new. One that llama.cpp does not take stays empty."""
        for sequence, copy in saved.items():
            if copy.n <= self.n_ctx and copy.n_seq <= self.n_seq:
                self._torn[sequence] = True
                if copies.put(self._handle, sequence, copy, n_seq=self.n_seq):
                    self._held[sequence], self._torn[sequence] = copy.n, False
                else:
                    self.rewind(sequence, 0)

    def expect(self, sequence: int, prompt: Sequence[int]) -> None:
        """Nothing: tokens are decoded when they are fed."""

    def more(self, sequence: int, tokens: Sequence[int], known: int) -> None:
        """Nothing: rows are whole."""

    def set_threads(self, n: int) -> None:
        """Sets the number of threads for the following decodes."""
        if n != self._n_threads:
            lib.llama_set_n_threads(self._handle, n, n)
            self._n_threads = n

    def feed(self, feeds: Sequence[Feed]) -> Logits:
        """Decodes tokens that continue each sequence. Returns the logits asked for, (rows, n_vocab) float32.

        The rows are in the order of `feeds`. They are a view into llama.cpp's buffer, which the next feed overwrites. A
        long feed is decoded in chunks of n_batch.

        Raises DecodeError when llama.cpp refuses a batch, and Stopped (interrupt.py). All sequences stay usable.
        """
        for sequence in {f.sequence for f in feeds}:
            self.rewind(sequence, self._held[sequence])
        quiet, wanted = self._lay_out(feeds)
        rows = len(wanted)
        # llama.cpp decodes sequences with the same number of tokens together. When the numbers differ, the tokens
        # without logits (a prompt's) are decoded first. Mixed with 16 rows of others, a prompt's first token would make
        # 17 rows, which cost as much as 20.
        alike = len({len(feed.tokens) for feed in feeds}) <= 1
        parts = [quiet + wanted] if alike else [part for part in (quiet, wanted) if part]
        for part in parts:
            start, last = 0, rows if part is parts[-1] else 0
            while start < len(part):
                # All wanted rows must be in the last decode, because each decode overwrites the rows of the one before.
                left, room = len(part) - start, len(self._tokens)
                stop = len(part) if left <= room else min(start + room, len(part) - last)
                self._decode(part[start:stop], max(0, stop - (len(part) - last)))
                start = stop
        return self._logits([sequence for _, _, sequence in wanted])

    def _lay_out(self, feeds: Sequence[Feed]) -> tuple[list[Cell], list[Cell]]:
        """Returns the cells to decode: those without logits, and those with logits, in the order of `feeds`.

        Raises DecodeError for too many tokens, an unknown token or too many rows of logits.
        """
        quiet: list[Cell] = []
        wanted: list[Cell] = []
        for sequence, tokens, rows, _ in feeds:
            held = self._held[sequence]
            if held + len(tokens) > self.n_ctx:
                raise DecodeError(
                    f"{self.model.path}: {held} + {len(tokens)} tokens do not fit in a context of {self.n_ctx}"
                )
            for i, token in enumerate(tokens):
                if not 0 <= token < self.model.n_vocab:
                    raise DecodeError(
                        f"{self.model.path}: token {token} is not in its vocabulary of {self.model.n_vocab}"
                    )
                (wanted if i >= len(tokens) - rows else quiet).append((token, held + i, sequence))
        if len(wanted) > self.max_rows:  # more would abort the process
            raise DecodeError(
                f"{self.model.path}: {len(wanted)} rows of logits were asked for, but at most {self.max_rows} fit"
            )
        return quiet, wanted

    def _decode(self, cells: list[Cell], rows: int) -> None:
        """Decodes the cells, with logits for the last `rows`. The batch is in ascending order of sequences."""
        n = len(cells)
        flags = [0] * (n - rows) + [1] * rows
        if n > 1:  # llama.cpp computes sequences together only in ascending order
            order = sorted(range(n), key=lambda i: cells[i][2])
            cells, flags = [cells[i] for i in order], [flags[i] for i in order]
        tokens, positions, sequences = zip(*cells, strict=True)
        self._tokens[:n], self._positions[:n] = tokens, positions
        self._sequences[:n], self._wanted[:n] = sequences, flags
        self._batch.n_tokens = n
        for sequence in sequences:
            self._torn[sequence] = True
        code = lib.llama_decode(self._handle, self._batch)
        raise_from_callback()
        if code == ABORTED:
            raise Stopped
        if code != 0:
            raise DecodeError(
                f"{self.model.path}: llama.cpp could not decode {n} tokens (code {code}): {library.reason()}"
            )
        for sequence, position in dict(zip(sequences, positions, strict=True)).items():  # the last position of each
            self._held[sequence], self._torn[sequence] = position + 1, False
        self.n_fed += n

    def _logits(self, sequences: list[int]) -> Logits:
        """Returns the logits of the last decode, in the order of `sequences`."""
        rows = len(sequences)
        if rows == 0:
            return np.empty((0, self.model.n_vocab), np.float32)
        pointer = lib.llama_get_logits(self._handle)
        address = ctypes.addressof(pointer.contents)
        if (logits := self._views.get((address, rows))) is None:
            if len(self._views) >= VIEWS:  # the buffer moves a few times while it grows
                self._views.clear()
            logits = self._views[address, rows] = np.ctypeslib.as_array(pointer, (rows, self.model.n_vocab))
        if all(a <= b for a, b in pairwise(sequences)):
            return logits
        return logits[np.argsort(np.argsort(sequences, kind="stable"))]  # the batch was in ascending order

    def close(self) -> None:
        """Frees the cache."""
        if self._handle:
            lib.llama_free(self._handle)
            self._handle = None


def _not_created(path: Path, size: str, kv_type: str) -> ModelLoadError:
    """Returns the error for a context that llama.cpp refused, with a hint for its reason."""
    problem = f"{path}: llama.cpp could not create a context of {size}"
    if blocks := [line for line in library.recent if "with block size" in line]:  # llama_init_from_model
        hint = "Use --kv-type f16: this model's heads cannot be stored in the blocks of that type."
        return ModelLoadError(f"{problem} with a KV cache of type {kv_type}: {blocks[0]}", hint)
    return ModelLoadError(f"{problem}: {library.reason()}", "A smaller context (--ctx) needs less memory.")


def _batch(
    tokens: NDArray[np.int32], positions: NDArray[np.int32], sequences: NDArray[np.int32], wanted: NDArray[np.int8]
) -> lib.llama_batch:
    """Returns a llama_batch over our own arrays, so that numpy fills it at once instead of token by token."""
    integers, n = ctypes.POINTER(ctypes.c_int32), len(tokens)
    first = sequences.ctypes.data
    rows = (integers * n)(*(ctypes.cast(first + 4 * i, integers) for i in range(n)))
    ones = (ctypes.c_int32 * n)(*([1] * n))
    return lib.llama_batch(
        n_tokens=0,
        token=tokens.ctypes.data_as(integers),
        embd=None,
        pos=positions.ctypes.data_as(integers),
        n_seq_id=ctypes.cast(ones, integers),
        seq_id=ctypes.cast(rows, ctypes.POINTER(integers)),
        logits=wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
    )
