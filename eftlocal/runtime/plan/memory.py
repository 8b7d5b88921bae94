"""Estimates how much memory a model takes, from its GGUF header alone: before it is loaded or even downloaded.

Weights and caches follow llama.cpp's own arithmetic (src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp). Compute
buffers follow what its graphs hold at a time, fitted to dry loads of models from 135M to 70B (tests/runtime/plan). A
dry load would be exact, but it takes up to 0.3 s for each model and needs the file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final, Self

from eftlocal.runtime.gguf import Header, Tensor
from eftlocal.runtime.plan import dimensions

__all__ = ["CPU_BATCH", "GPU_BATCH", "MAX_ROWS", "Cache", "Need", "Sizes", "layer_bytes"]

CPU_BATCH: Final = 128  # tokens in a chunk of prefill: enough for full speed, few enough to stop soon at Ctrl-C
GPU_BATCH: Final = 512
MAX_ROWS: Final = 128  # rows of logits in one decode: with a vocabulary of 152,064 tokens these take 78 MB

MAX_LAYERS: Final = 512  # LLAMA_MAX_LAYERS
CELLS: Final = 256  # llama.cpp rounds a sequence's context up to a multiple of this
ROWS: Final[Mapping[str, tuple[int, int]]] = {"f32": (1, 4), "f16": (1, 2), "q8_0": (32, 34)}  # values -> bytes
FLOAT: Final = 4

# Bytes that llama.cpp's tokenizer takes for each token and each merge, measured as the growth of the process.
TOKEN_BYTES, MERGE_BYTES = 160, 150

INPUTS: Final = (
    "token_embd.",
    "per_layer_token_embd.",
    "position_embd.",
    "token_types.",
)  # always on the CPU, which only looks rows up in them
RECURRENT: Final = (".ssm_", ".shortconv.", ".time_mix_")


@dataclass(frozen=True, slots=True)
class Need:
    """The bytes needed in one place: in the host's memory, or in a device's.

    weights    counted on the host too. There they are mapped from the file, and the system could read them again when
               needed; but each token needs all weights, so that would be far too slow
    kv         the KV cache of all sequences at full context, or the recurrent states
    compute    the buffers of a decode
    output     the rows of logits
    tokenizer  llama.cpp's vocabulary
    """

    weights: int = 0
    kv: int = 0
    compute: int = 0
    output: int = 0
    tokenizer: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, f.name) for f in fields(self))

    def __add__(self, other: "Need") -> "Need":
        return Need(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def sum(cls, needs: Iterable["Need"]) -> "Need":
        total = cls()
        for need in needs:
            total += need
        return total


@dataclass(frozen=True, slots=True)
class Cache:
    """The size of a context: `n_seq` sequences of `n_ctx` tokens each, with keys and values stored as `kv_type`."""

    n_ctx: int
    n_seq: int = 1
    kv_type: str = "f16"

    @property
    def cells(self) -> int:
        """How many tokens one sequence has room for, rounded up as llama.cpp does."""
        return -(-self.n_ctx // CELLS) * CELLS

    @property
    def flash(self) -> bool:
        """Whether flash attention is on, which does not store all scores; llama/context.py turns it off for f32."""
        return self.kv_type != "f32"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sizes:
    """The sizes of one model that its memory depends on. Layers are numbered as `blk.N`; the output follows the last.

    layers     bytes of each layer's weights
    inputs     bytes of the weights before the layers
    embedding  bytes of the embedding, which is part of `inputs`
    output     bytes of the weights after the layers
    tied       whether the embedding is also the output matrix
    keys       for each layer, how many numbers one token's key and value take
    states     for each layer, the bytes of one sequence's recurrent state
    largest    bytes of the largest weight of a layer: a device copies it when it helps with a layer of the host
    read       bytes of weights that one token reads (of experts, only those used)
    """

    layers: tuple[int, ...]
    inputs: int
    embedding: int
    output: int
    tied: bool
    keys: tuple[tuple[int, int], ...]
    states: tuple[int, ...]
    largest: int
    read: int
    n_vocab: int
    n_merges: int
    n_embd: int
    n_head: int
    inner: int  # floats of one token inside a layer, at the widest place
    query: int  # floats of one token's query

    @classmethod
    def of(cls, header: Header) -> Self:
        """Computes the sizes of a model from its header (from `gguf.check`, so that it covers all shards)."""
        keys = dimensions.Keys(header)
        n_layers = min(max(keys.number("block_count"), 0), MAX_LAYERS)
        # llama.cpp does not load the last layers of a model that only predict further tokens.
        used = max(n_layers - keys.number("nextn_predict_layers"), 0)
        names = {tensor.name: tensor.shape for tensor in header.tensors}
        inputs = largest = read = 0
        n_experts, experts = keys.number("expert_count"), keys.largest("expert_used_count")
        loaded = [tensor for tensor in header.tensors if _layer(tensor.name, -1) < used]
        for tensor in loaded:
            size = tensor.n_bytes
            if tensor.name.startswith(INPUTS):
                inputs += size
                continue
            read += size * experts // n_experts if "_exps." in tensor.name and n_experts else size
            if tensor.name.startswith("blk."):
                largest = max(largest, size)
        *layers, output = layer_bytes(loaded, n_layers)
        tied = "output.weight" not in names
        matrix = sum(t.n_bytes for t in header.tensors if t.name == "token_embd.weight")
        if tied:
            read += matrix
        tokens, merges = header.array("tokenizer.ggml.tokens"), header.array("tokenizer.ggml.merges")
        shape = names.get("token_embd.weight", (0, 0))
        widths = [dimensions.cache_width(keys, names, il) if il < used else (0, 0) for il in range(n_layers)]
        own = max(used - keys.number("attention.shared_kv_layers"), 0)  # the last layers use an earlier one's cache
        widths[own:] = [(0, 0)] * (n_layers - own)
        recurrent = {_layer(name, n_layers) for name in names if any(kind in name for kind in RECURRENT)}
        state = FLOAT * dimensions.state(keys)
        return cls(
            layers=tuple(layers),
            inputs=inputs,
            embedding=matrix,
            output=output,
            tied=tied,
            keys=tuple(widths),
            states=tuple(state if il in recurrent and il < used else 0 for il in range(n_layers)),
            largest=largest,
            read=read,
            n_vocab=len(tokens) if tokens is not None else shape[-1],
            n_merges=len(merges) if merges is not None else 0,
            n_embd=keys.number("embedding_length") or shape[0],
            n_head=keys.largest("attention.head_count"),
            inner=dimensions.inner(keys),
            query=dimensions.query(keys),
        )

    @property
    def n_layers(self) -> int:
        """The number of layers that can be on a device: the model's layers and its output."""
        return len(self.layers) + 1

    @cached_property
    def weights(self) -> int:
        return sum(self.layers) + self.inputs + self.output

    # --- what a member needs ------------------------------------------------------------------------------------------

    def kv(self, cache: Cache, layers: Iterable[int]) -> int:
        """The bytes of keys, values and recurrent states in these layers."""
        values, size = ROWS[cache.kv_type]
        # Without flash attention, llama.cpp makes the values of all layers as wide as the widest.
        widest = 0 if cache.flash else max((v for _, v in self.keys), default=0)
        total = 0
        for il in layers:
            if il >= len(self.layers):
                continue
            k, v = self.keys[il]
            row = k // values * size + (widest if v and widest else v) // values * size
            total += cache.n_seq * (cache.cells * row + self.states[il])
        return total

    def compute(self, cache: Cache, batch: int, *, whole: bool = True, logits: bool = True) -> int:
        """The bytes of the buffers of a decode of `batch` tokens.

        `whole` includes the embeddings, as on the CPU. `logits` includes the output layer.
        """
        batch = min(batch, cache.cells * cache.n_seq)
        rows = min(batch, max(MAX_ROWS, cache.n_seq))
        k, v = max(self.keys, default=(0, 0))
        mask = self._mask(cache, batch)
        residual = (4 if whole else 3) * self.n_embd
        attention = self.query + k + v + (0 if cache.flash else self.n_embd)
        if not cache.flash:
            attention += self.n_head * cache.cells
        layer = FLOAT * batch * (residual + max(self.inner, attention)) + mask
        return max(layer, FLOAT * (rows * self.n_vocab + 2 * batch * self.n_embd) if logits else 0)

    def held_for_devices(self, cache: Cache, batch: int) -> int:
        """The bytes of the host's buffers for a decode with all layers on devices."""
        batch = min(batch, cache.cells * cache.n_seq)
        k, v = (0, 0) if cache.flash else max(self.keys, default=(0, 0))
        return FLOAT * batch * (2 * self.n_embd + k + v) + self._mask(cache, batch)

    def _mask(self, cache: Cache, batch: int) -> int:
        return batch * cache.cells * (2 if cache.flash else FLOAT) if any(k for k, _ in self.keys) else 0

    def logits(self, cache: Cache) -> int:
        """The bytes of the buffer of logits: one row for each sequence. It grows when more rows are asked for."""
        return FLOAT * cache.n_seq * self.n_vocab

    @cached_property
    def tokenizer(self) -> int:
        return TOKEN_BYTES * self.n_vocab + MERGE_BYTES * self.n_merges


def layer_bytes(tensors: Iterable[Tensor], n_layers: int) -> list[int]:
    """Returns the bytes of each layer's weights and, last, of the output. The input embeddings are left out."""
    found = [0] * (n_layers + 1)
    for tensor in tensors:
        if not tensor.name.startswith(INPUTS):
            found[min(_layer(tensor.name, n_layers), n_layers)] += tensor.n_bytes
    return found


def _layer(name: str, other: int) -> int:
    """Returns the layer that a tensor belongs to; `other` when it does not belong to one."""
    parts = name.split(".", 2)
    return int(parts[1]) if parts[0] == "blk" and parts[1].isdecimal() else other
