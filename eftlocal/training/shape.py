"""The sizes and constants of a model that can be trained, read from its header: llama, qwen2, qwen3 and gemma3.

What llama.cpp does with each is in its src/models/ARCHITECTURE.cpp and src/llama-model.cpp.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from eftlocal.errors import TrainingError
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_header import Header

__all__ = ["ARCHITECTURES", "Shape", "shape_of"]

# Which elements of a head are rotated together: neighbours (ggml's rope type NORM), or those half a head apart (NEOX).
Rotation = Literal["neighbours", "halves"]

ARCHITECTURES: Final[dict[str, Rotation]] = {
    "llama": "neighbours",
    "qwen2": "halves",
    "qwen3": "halves",
    "gemma3": "halves",
}

ENDS: Final = {"token_embd.weight", "output_norm.weight"}
ENDS_OPTIONAL: Final = {"output.weight", "output.bias"}
LAYER: Final = {
    *("attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"),
    *("ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"),
}
HEAD_NORMS: Final = {"attn_q_norm.weight", "attn_k_norm.weight"}
BIASES: Final = {f"attn_{part}.bias" for part in ("q", "k", "v", "output")}
FFN_BIASES: Final = {f"ffn_{part}.bias" for part in ("gate", "up", "down")}
MORE: Final = {  # tensors that every layer of the architecture has
    "qwen3": HEAD_NORMS,
    "gemma3": HEAD_NORMS | {"post_attention_norm.weight", "post_ffw_norm.weight"},
}
OPTIONAL: Final = {"llama": BIASES | FFN_BIASES, "qwen2": BIASES, "qwen3": BIASES, "gemma3": set[str]()}
ROPE_FACTORS: Final = "rope_freqs.weight"  # llama alone

GEMMA_WINDOWED, GEMMA_27B = 6, 62  # every sixth layer sees all tokens; the layers of the only one with another scale
LOCAL_ROPE_BASE: Final = 10_000.0  # llama_hparams::rope_freq_base_train_swa


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a model, and the constants of its computation.

    head             elements of one head, of queries, keys and values alike
    rotation         which elements of a head RoPE rotates together
    bases, scales    of RoPE, for each layer: angles are position * scale * base^(-2i / head)
    window           tokens that a layer of a sliding window sees; None without one
    windowed         for each layer, whether it sees only the window
    attention_scale  what products of queries and keys are multiplied by
    embedding_scale  what embeddings are multiplied by
    gelu             whether the FFN's gate is a GELU (tanh), and not a SiLU
    softcap          of the logits; 0 for none
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    epsilon: float
    rotation: Rotation
    bases: tuple[float, ...]
    scales: tuple[float, ...]
    window: int | None
    windowed: tuple[bool, ...]
    attention_scale: float
    embedding_scale: float = 1.0
    gelu: bool = False
    softcap: float = 0.0


def shape_of(header: Header) -> Shape:
    """The shape of a model. `header` is from gguf.check. Raises TrainingError for one that cannot be trained."""
    name = header.architecture
    if name not in ARCHITECTURES:
        known = f"models of the architectures {', '.join(ARCHITECTURES)} can be"
        raise TrainingError(f"{header.path}: is a {name} model, which cannot be trained; {known}.")
    layers, width = _whole(header, "block_count"), _whole(header, "embedding_length")
    heads = _whole(header, "attention.head_count")
    head = _whole(header, "attention.key_length", width // heads)
    _must_agree(header, head)
    _must_have_its_tensors(header, layers)
    window, windowed = _windows(header, layers)
    base, scale = _number(header, "rope.freq_base", 10_000.0), _rope_scale(header)
    local = _number(header, "rope.freq_base_swa", LOCAL_ROPE_BASE)
    gemma = name == "gemma3"
    per_head = width / heads if gemma and layers == GEMMA_27B else head
    return Shape(
        architecture=name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=_whole(header, "attention.head_count_kv", heads),
        head=head,
        epsilon=_number(header, "attention.layer_norm_rms_epsilon"),
        rotation=ARCHITECTURES[name],
        bases=tuple(local if is_local else base for is_local in windowed),
        scales=tuple(1.0 if is_local else scale for is_local in windowed),
        window=window,
        windowed=windowed,
        attention_scale=1 / math.sqrt(per_head),
        embedding_scale=math.sqrt(width) if gemma else 1.0,
        gelu=gemma,
        softcap=_number(header, "final_logit_softcapping", 0.0) if gemma else 0.0,
    )


def _windows(header: Header, layers: int) -> tuple[int | None, tuple[bool, ...]]:
    """The size of the sliding window, and which layers see only that. Of these architectures, gemma3 alone has one."""
    window = _whole(header, "attention.sliding_window", 0) if header.architecture == "gemma3" else 0
    if not window:
        return None, (False,) * layers
    key = "attention.sliding_window_pattern"
    pattern = header.array(f"{header.architecture}.{key}")
    if pattern is not None:
        return window, tuple(bool(value) for value in pattern.values()[:layers].tolist())
    every = _whole(header, key, GEMMA_WINDOWED)
    return window, tuple(every == 0 or i % every < every - 1 for i in range(layers))


def _rope_scale(header: Header) -> float:
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "linear")
    if kind == "none":
        return 1.0
    if kind != "linear":
        raise TrainingError(
            f"{header.path}: has RoPE scaling of the type {kind}, which cannot be trained.",
            "A file of this model for its own context length has none.",
        )
    factor = _number(header, "rope.scaling.factor", _number(header, "rope.scale_linear", 0.0))
    return 1 / factor if factor else 1.0


def _must_agree(header: Header, head: int) -> None:
    """Refuses sizes that llama.cpp supports for other architectures alone."""
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := _whole(header, key, head)) != head:
            raise TrainingError(f"{header.path}: {key} is {found}, expected {head}, the size of a head.")


def _must_have_its_tensors(header: Header, layers: int) -> None:
    """Refuses a file with a tensor that our computation does not use, or without one that it needs."""
    name = header.architecture
    needed, optional = LAYER | MORE.get(name, set()), OPTIONAL[name]
    found = {tensor.name for tensor in header.tensors}
    factors = {ROPE_FACTORS} if name == "llama" else set()
    known = ENDS | ENDS_OPTIONAL | factors
    known |= {f"blk.{i}.{part}" for i in range(layers) for part in needed | optional}
    if unknown := sorted(found - known):
        experts = any(re.search("_exps|_gate_inp", each) for each in unknown)
        what = "experts" if experts else unknown[0]
        raise TrainingError(f"{header.path}: has {what}, which our training does not know.")
    missing = sorted((ENDS | {f"blk.{i}.{part}" for i in range(layers) for part in needed}) - found)
    if missing:
        raise TrainingError(f"{header.path}: {missing[0]} is missing, which a {name} model has.")


def _number(header: Header, key: str, default: float | None = None) -> float:
    """A number of the architecture's metadata. Raises TrainingError when it is missing, or one for each layer."""
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    what = "is missing" if value is None else "differs between layers" if isinstance(value, Array) else "is no number"
    raise TrainingError(f"{header.path}: {header.architecture}.{key} {what}, so the model cannot be trained.")


def _whole(header: Header, key: str, default: int | None = None) -> int:
    return int(_number(header, key, default))
