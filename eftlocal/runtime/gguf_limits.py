"""Checks the numbers in a model's metadata on which llama.cpp would end the process.

`check_numbers` refuses what is known to end it. `unproven` says whether a header has anything else that llama.cpp may
assert, so that the file must be tried in another process first (runtime/trial.py).
"""

import math
import re
from collections.abc import Iterable
from typing import Final

from eftlocal.errors import ModelFileError
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_header import Header

__all__ = ["check_numbers", "unproven"]

# Numbers that llama.cpp asserts, so that it aborts on others, or that it multiplies in 32 bits, so that large ones wrap
# around and pass its own checks (src/llama-model.cpp, load_hparams). In the file, the architecture's name precedes the
# key.
LIMITS: Final = {
    "block_count": (1, 512),  # LLAMA_MAX_LAYERS
    "attention.head_count": (0, 65_535),
    "attention.head_count_kv": (0, 65_535),
    "attention.key_length": (0, 65_535),
    "attention.value_length": (0, 65_535),
    "attention.sliding_window": (0, 1 << 30),
    "expert_count": (0, 1024),  # LLAMA_MAX_EXPERTS
}
EPSILONS: Final = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
SCALINGS: Final = ("none", "linear", "yarn", "longrope")  # LLAMA_ROPE_SCALING_TYPES

# Architectures of which all assertions were read and tried: those of the catalogue, and the commonest others.
SAME_SIZES: Final = ("llama", "qwen2", "qwen3", "qwen3moe", "olmo2", "smollm3")  # key, value and rope have one size
ATTENTION: Final = (*SAME_SIZES, "gemma", "gemma2", "gemma3")
SLIDING: Final = {"gemma2": 2, "gemma3": 6, "olmo2": 4}  # every n-th layer sees all tokens, if the file says no number
PROVEN: Final = (*ATTENTION, "mamba")
PROVEN_KEYS: Final = {
    *LIMITS,
    *(f"attention.{epsilon}" for epsilon in EPSILONS),
    *(f"rope.scaling.{part}" for part in ("type", "factor", "attn_factor", "original_context_length", "finetuned")),
    *(f"ssm.{part}" for part in ("conv_kernel", "inner_size", "state_size", "time_step_rank", "dt_b_c_rms")),
    *("context_length", "embedding_length", "feed_forward_length", "vocab_size", "tensor_data_layout"),
    *("attention.sliding_window_pattern", "attn_logit_softcapping", "final_logit_softcapping"),
    *("rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear"),
    *("expert_used_count", "expert_feed_forward_length", "expert_group_count", "expert_group_used_count"),
}
PROVEN_TENSORS: Final = re.compile(r"(blk\.\d+\.)?[a-z][a-z0-9_]*(\.weight|\.bias)?")
PROVEN_TOKENIZERS: Final = ("gpt2", "llama")


def check_numbers(header: Header) -> None:
    """Checks the numbers on which llama.cpp would abort the process or never finish. Raises ModelFileError."""
    for key, (least, most) in LIMITS.items():
        _must_lie(header, key, _integers(header, key), least, most)
    _check_rope(header)
    _check_experts(header)
    for epsilon in EPSILONS:
        value = header.metadata.get(f"{header.architecture}.attention.{epsilon}")
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise _wrong(header, f"attention.{epsilon}", value, "0 or more")
    layers = max(_integers(header, "block_count"), default=1)
    _must_lie(header, "nextn_predict_layers", _integers(header, "nextn_predict_layers"), 0, layers)
    if header.architecture in ATTENTION:
        _check_heads(header, layers)
    if header.architecture in SLIDING:
        _check_sliding(header, layers)


def unproven(header: Header) -> str | None:
    """Says what of the header is not known to be safe: llama.cpp may abort on it. None if all is known."""
    prefix = f"{header.architecture}."
    if header.architecture not in PROVEN:
        return f"the architecture {header.architecture}"
    if (tokenizer := header.text("tokenizer.ggml.model")) not in PROVEN_TOKENIZERS:
        return f"the tokenizer {tokenizer}"
    for key, value in header.metadata.items():
        if key.startswith(prefix) and key.removeprefix(prefix) not in PROVEN_KEYS:
            return key
        layered = key.startswith(prefix) and not key.endswith(".sliding_window_pattern") and isinstance(value, Array)
        if layered and len(set(_integers(header, key.removeprefix(prefix)))) != 1:
            return f"{key}, which differs between layers"
    return next((tensor.name for tensor in header.tensors if not PROVEN_TENSORS.fullmatch(tensor.name)), None)


# --- what llama.cpp asserts -------------------------------------------------------------------------------------------


def _check_rope(header: Header) -> None:
    heads = max(_integers(header, "attention.head_count"), default=0)
    for swa in ("", "_swa"):  # the sliding-window layers may have values of their own
        sizes = _integers(header, f"attention.key_length{swa}") or _integers(header, "attention.key_length")
        if not sizes and heads:
            sizes = [size // heads for size in _integers(header, "embedding_length")]
        rotated = _integers(header, f"rope.dimension_count{swa}")
        _must_lie(header, f"rope.dimension_count{swa}", rotated, 2, max(sizes, default=65_535))
        if odd := [n for n in rotated if n % 2]:
            raise _wrong(header, f"rope.dimension_count{swa}", odd[0], "an even number")
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if isinstance(scaling, str) and scaling not in SCALINGS:
        raise _wrong(header, "rope.scaling.type", scaling, f"one of {', '.join(SCALINGS)}")


def _check_experts(header: Header) -> None:
    experts = max(_integers(header, "expert_count"), default=0)
    used = _integers(header, "expert_used_count") or [0]
    _must_lie(header, "expert_used_count", used, min(experts, 1), experts)
    groups = max(_integers(header, "expert_group_count"), default=0)
    _must_lie(header, "expert_group_count", [groups], 0, max(experts - 1, 0))
    if groups > 1:
        if experts % groups:
            raise _wrong(header, "expert_group_count", groups, f"a divisor of the {experts} experts")
        _must_lie(header, "expert_group_used_count", _integers(header, "expert_group_used_count") or [0], 1, groups - 1)


def _check_heads(header: Header, layers: int) -> None:
    """Checks the attention heads, which llama.cpp divides by, and their sizes, which its graphs assert."""
    heads = _of_layers(_integers(header, "attention.head_count") or [0], layers)
    keys = _of_layers(_integers(header, "attention.head_count_kv") or heads, layers)
    for n, n_kv in zip(heads, keys, strict=False):
        _must_lie(header, "attention.head_count", [n], 1, 65_535)
        if n_kv < 1 or n % n_kv:
            raise _wrong(header, "attention.head_count_kv", n_kv, f"a divisor of the {n} heads")
    size = max(_integers(header, "embedding_length"), default=0) // heads[0]
    key, value = (max(_integers(header, f"attention.{part}_length"), default=size) for part in ("key", "value"))
    rotated = max(_integers(header, "rope.dimension_count"), default=key)
    if rotated < 2 or rotated % 2:
        raise _wrong(header, "attention.key_length", rotated, "an even number from 2")
    if header.architecture in SAME_SIZES:
        _must_lie(header, "attention.value_length", [value], key, key)
        _must_lie(header, "rope.dimension_count", [rotated], key, key)


def _check_sliding(header: Header, layers: int) -> None:
    """Checks that a model with a sliding window has a layer that slides (llama_hparams::is_swa_any)."""
    default_window = 4096 if header.architecture == "gemma2" else 0
    if not max(_integers(header, "attention.sliding_window"), default=default_window):
        return
    key = "attention.sliding_window_pattern"
    pattern = header.metadata.get(f"{header.architecture}.{key}", SLIDING[header.architecture])
    if isinstance(pattern, Array) and pattern.type != "string":
        if not any(pattern.values()[:layers].tolist()):
            raise _wrong(header, key, "false for each layer", "true for one or more, since there is a sliding window")
    elif pattern == 1 and not isinstance(pattern, bool):
        raise _wrong(header, key, 1, "0, or 2 or more, since there is a sliding window")


# --- values -----------------------------------------------------------------------------------------------------------


def _integers(header: Header, key: str) -> list[int]:
    """Returns the value of one of the architecture's keys as a list: one integer, or one for each layer."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if isinstance(value, Array) and value.type in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"):
        return [int(n) for n in value.values().tolist()]
    return [value] if isinstance(value, int) else []


def _of_layers(values: list[int], layers: int) -> list[int]:
    return values * layers if len(values) == 1 else values


def _must_lie(header: Header, key: str, values: Iterable[int], least: int, most: int) -> None:
    for value in values:
        if not least <= value <= most:
            raise _wrong(header, key, value, f"{least:,} to {most:,}" if least < most else f"{least:,}")


def _wrong(header: Header, key: str, value: float | str, expected: str) -> ModelFileError:
    name = f"{header.architecture}.{key}"
    found = repr(value) if isinstance(value, str) and " " not in value else value
    shown = found if isinstance(found, str) else f"{found:,}"
    return ModelFileError(f"{header.path}: damaged: {name} is {shown}, expected {expected}")
