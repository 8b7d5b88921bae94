"""Headers of well-known models without their weights, and files of them for dry loads in llama.cpp.

A dry load (`no_alloc`) does not read weights, so the data of a file may be empty space. llama.cpp then logs what it
would allocate for a model of 70 billion weights, on a machine that could not hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf

from eftlocal.runtime.gguf import Array, Header, Tensor
from eftlocal.runtime.gguf_header import TENSOR_TYPES

SIZES = {name: (block, n_bytes) for name, block, n_bytes in TENSOR_TYPES.values()}
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's sizes. `tied`: the embedding is also the output matrix, and the file has it once."""

    name: str
    architecture: str = "llama"
    n_layers: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    head: int = 0
    tied: bool = False
    quant: str = "Q4_K_M"
    n_ctx: int = 32_768
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_length(self) -> int:
        return self.head or self.n_embd // self.n_head

    def shapes(self) -> Shapes:
        """Returns the shape of each tensor, in ggml's order, by name in the order of a file."""
        norm = "token_embd_norm.weight" if self.architecture == "lfm2" else "output_norm.weight"
        ends: Shapes = {"token_embd.weight": (self.n_embd, self.n_vocab), norm: (self.n_embd,)}
        if not self.tied:
            ends["output.weight"] = (self.n_embd, self.n_vocab)
        for il in range(self.n_layers):
            ends |= {f"blk.{il}.{name}": shape for name, shape in LAYERS[self.architecture](self, il).items()}
        return ends

    def metadata(self) -> dict[str, Any]:
        arch = self.architecture
        keys = {
            "block_count": self.n_layers,
            "context_length": self.n_ctx,
            "embedding_length": self.n_embd,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "attention.key_length": self.head_length,
            "attention.value_length": self.head_length,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.dimension_count": self.head_length,
            "rope.freq_base": 10_000.0,
            "vocab_size": self.n_vocab,
            **self.extra,
        }
        return {"general.architecture": arch, **{f"{arch}.{key}": v for key, v in keys.items() if v is not None}}

    def tensors(self) -> Iterator[Tensor]:
        offset = 0
        for name, shape in self.shapes().items():
            kind = quantization(self, name, shape)
            block, n_bytes = SIZES[kind]
            size = math.prod(shape) // block * n_bytes
            yield Tensor(name, shape, kind, offset, size)
            offset += (size + 31) // 32 * 32

    def header(self) -> Header:
        """Returns the header that `gguf.check` would return for its file, without a real tokenizer."""
        tensors = tuple(self.tensors())
        path = Path(f"{self.name}.gguf")
        size = tensors[-1].offset + tensors[-1].n_bytes
        return Header(path=path, version=3, metadata=self.metadata(), tensors=tensors, file_bytes=size, shards=(path,))

    def write(self, folder: Path) -> Path:
        """Writes a file for a dry load, with a complete header and tokenizer and without data. Returns its path."""
        path = folder / f"{self.name}.gguf"
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata().items():
            if key == "general.architecture":
                continue
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            else:
                writer.add_array(key, value)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list([f"t{n}" for n in range(self.n_vocab)])
        writer.add_token_types([1] * self.n_vocab)
        writer.add_token_merges(["t 0"])
        for tensor in self.tensors():
            kind = gguf.GGMLQuantizationType[tensor.type]
            block, n_bytes = SIZES[tensor.type]
            stored = (*reversed(tensor.shape[1:]), tensor.shape[0] // block * n_bytes)  # rows of bytes
            if block == 1:
                writer.add_tensor_info(tensor.name, (*reversed(tensor.shape),), _numpy(kind), tensor.n_bytes, kind)
            else:
                writer.add_tensor_info(tensor.name, stored, _numpy(kind), tensor.n_bytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("r+b") as file:
            start = (file.seek(0, 2) + 31) // 32 * 32
            last = list(self.tensors())[-1]
            file.truncate(start + (last.offset + last.n_bytes + 31) // 32 * 32)
        return path


def _array(values: list[int]) -> Array:
    return Array("i32", len(values), b"".join(value.to_bytes(4, "little") for value in values))


def _numpy(kind: gguf.GGMLQuantizationType) -> Any:
    import numpy as np

    plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    return np.dtype(plain.get(kind, np.uint8))


def quantization(model: Model, name: str, shape: tuple[int, ...]) -> str:
    """Returns about the type that llama.cpp's quantizer would give a tensor."""
    if len(shape) == 1 or "norm" in name or "ssm_conv1d" in name or "shortconv.conv" in name or name.endswith("ssm_a"):
        return "F32"
    if "ffn_gate_inp" in name:
        return "F32"
    if model.quant != "Q4_K_M":
        return model.quant
    if shape[0] % 256:
        return "Q8_0" if shape[0] % 32 == 0 else "F16"
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return "Q6_K"
    if "attn_v" in name or "ffn_down" in name:
        il, n = int(name.split(".")[1]), model.n_layers
        return "Q6_K" if il < n // 8 or il >= 7 * n // 8 or (il - n // 8) % 3 == 2 else "Q4_K"
    return "Q4_K"


# --- layers by architecture ------------------------------------------------------------------------------------------


def _llama(m: Model, il: int) -> Shapes:
    q, kv = m.n_head * m.head_length, m.n_head_kv * m.head_length
    return {
        "attn_norm.weight": (m.n_embd,),
        "attn_q.weight": (m.n_embd, q),
        "attn_k.weight": (m.n_embd, kv),
        "attn_v.weight": (m.n_embd, kv),
        "attn_output.weight": (q, m.n_embd),
        "ffn_norm.weight": (m.n_embd,),
        "ffn_gate.weight": (m.n_embd, m.n_ff),
        "ffn_up.weight": (m.n_embd, m.n_ff),
        "ffn_down.weight": (m.n_ff, m.n_embd),
    }


def _qwen2(m: Model, il: int) -> Shapes:
    q, kv = m.n_head * m.head_length, m.n_head_kv * m.head_length
    return _llama(m, il) | {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}


def _qwen3(m: Model, il: int) -> Shapes:
    return _llama(m, il) | {"attn_q_norm.weight": (m.head_length,), "attn_k_norm.weight": (m.head_length,)}


def _gemma3(m: Model, il: int) -> Shapes:
    return _qwen3(m, il) | {"post_attention_norm.weight": (m.n_embd,), "post_ffw_norm.weight": (m.n_embd,)}


def _olmo2(m: Model, il: int) -> Shapes:
    shapes = _llama(m, il) | {
        "attn_q_norm.weight": (m.n_head * m.head_length,),
        "attn_k_norm.weight": (m.n_head_kv * m.head_length,),
        "post_attention_norm.weight": (m.n_embd,),
        "post_ffw_norm.weight": (m.n_embd,),
    }
    return {name: shape for name, shape in shapes.items() if name not in ("attn_norm.weight", "ffn_norm.weight")}


def _phi3(m: Model, il: int) -> Shapes:
    q, kv = m.n_head * m.head_length, m.n_head_kv * m.head_length
    return {
        "attn_norm.weight": (m.n_embd,),
        "attn_qkv.weight": (m.n_embd, q + 2 * kv),
        "attn_output.weight": (q, m.n_embd),
        "ffn_norm.weight": (m.n_embd,),
        "ffn_up.weight": (m.n_embd, 2 * m.n_ff),
        "ffn_down.weight": (m.n_ff, m.n_embd),
    }


def _qwen3moe(m: Model, il: int) -> Shapes:
    experts, n_ff = m.extra["expert_count"], m.extra["expert_feed_forward_length"]
    shapes = {name: shape for name, shape in _qwen3(m, il).items() if not name.startswith("ffn_") or "norm" in name}
    return shapes | {
        "ffn_gate_inp.weight": (m.n_embd, experts),
        "ffn_gate_exps.weight": (m.n_embd, n_ff, experts),
        "ffn_up_exps.weight": (m.n_embd, n_ff, experts),
        "ffn_down_exps.weight": (n_ff, m.n_embd, experts),
    }


def _deepseek2(m: Model, il: int) -> Shapes:
    rank, rope = m.extra["attention.kv_lora_rank"], m.extra["rope.dimension_count"]
    k, v = m.extra["attention.key_length_mla"], m.extra["attention.value_length_mla"]
    attention = {
        "attn_norm.weight": (m.n_embd,),
        "attn_q.weight": (m.n_embd, m.n_head * k),
        "attn_kv_a_mqa.weight": (m.n_embd, rank + rope),
        "attn_kv_a_norm.weight": (rank,),
        "attn_k_b.weight": (k - rope, rank, m.n_head),
        "attn_v_b.weight": (rank, v, m.n_head),
        "attn_output.weight": (m.n_head * v, m.n_embd),
        "ffn_norm.weight": (m.n_embd,),
    }
    if il < m.extra["leading_dense_block_count"]:
        return attention | {
            "ffn_gate.weight": (m.n_embd, m.n_ff),
            "ffn_up.weight": (m.n_embd, m.n_ff),
            "ffn_down.weight": (m.n_ff, m.n_embd),
        }
    experts, n_ff = m.extra["expert_count"], m.extra["expert_feed_forward_length"]
    shared = n_ff * m.extra["expert_shared_count"]
    return attention | {
        "ffn_gate_inp.weight": (m.n_embd, experts),
        "ffn_gate_exps.weight": (m.n_embd, n_ff, experts),
        "ffn_up_exps.weight": (m.n_embd, n_ff, experts),
        "ffn_down_exps.weight": (n_ff, m.n_embd, experts),
        "ffn_gate_shexp.weight": (m.n_embd, shared),
        "ffn_up_shexp.weight": (m.n_embd, shared),
        "ffn_down_shexp.weight": (shared, m.n_embd),
    }


def _mamba(m: Model, il: int) -> Shapes:
    inner, state, rank = m.extra["ssm.inner_size"], m.extra["ssm.state_size"], m.extra["ssm.time_step_rank"]
    return {
        "attn_norm.weight": (m.n_embd,),
        "ssm_in.weight": (m.n_embd, 2 * inner),
        "ssm_conv1d.weight": (m.extra["ssm.conv_kernel"], inner),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (inner, rank + 2 * state),
        "ssm_dt.weight": (rank, inner),
        "ssm_dt.bias": (inner,),
        "ssm_a": (state, inner),
        "ssm_d": (inner,),
        "ssm_out.weight": (inner, m.n_embd),
    }


def _lfm2(m: Model, il: int) -> Shapes:
    ffn = {name: shape for name, shape in _llama(m, il).items() if "ffn" in name} | {"attn_norm.weight": (m.n_embd,)}
    if kv := m.extra["attention.head_count_kv"][il]:
        q = m.n_head * m.head_length
        return ffn | {
            "attn_q.weight": (m.n_embd, q),
            "attn_k.weight": (m.n_embd, kv * m.head_length),
            "attn_v.weight": (m.n_embd, kv * m.head_length),
            "attn_output.weight": (q, m.n_embd),
            "attn_q_norm.weight": (m.head_length,),
            "attn_k_norm.weight": (m.head_length,),
        }
    return ffn | {
        "shortconv.conv.weight": (m.extra["shortconv.l_cache"], m.n_embd),
        "shortconv.in_proj.weight": (m.n_embd, 3 * m.n_embd),
        "shortconv.out_proj.weight": (m.n_embd, m.n_embd),
    }


def _qwen3next(m: Model, il: int) -> Shapes:
    shapes = {n: s for n, s in _qwen3moe(m, il).items() if "ffn" in n and "norm" not in n}
    n_ff = m.extra["expert_shared_feed_forward_length"]
    shapes |= {
        "attn_norm.weight": (m.n_embd,),
        "post_attention_norm.weight": (m.n_embd,),
        "ffn_gate_inp_shexp.weight": (m.n_embd,),
        "ffn_gate_shexp.weight": (m.n_embd, n_ff),
        "ffn_up_shexp.weight": (m.n_embd, n_ff),
        "ffn_down_shexp.weight": (n_ff, m.n_embd),
    }
    q, kv = m.n_head * m.head_length, m.n_head_kv * m.head_length
    if il % 4 == 3:
        return shapes | {
            "attn_q.weight": (m.n_embd, 2 * q),
            "attn_k.weight": (m.n_embd, kv),
            "attn_v.weight": (m.n_embd, kv),
            "attn_output.weight": (q, m.n_embd),
            "attn_q_norm.weight": (m.head_length,),
            "attn_k_norm.weight": (m.head_length,),
        }
    heads, groups, state = m.extra["ssm.time_step_rank"], m.extra["ssm.group_count"], m.extra["ssm.state_size"]
    inner, keys = m.extra["ssm.inner_size"], groups * state
    return shapes | {
        "attn_qkv.weight": (m.n_embd, 2 * keys + inner),
        "attn_gate.weight": (m.n_embd, inner),
        "ssm_conv1d.weight": (m.extra["ssm.conv_kernel"], 2 * keys + inner),
        "ssm_dt.bias": (heads,),
        "ssm_a": (heads,),
        "ssm_ba.weight": (m.n_embd, 2 * heads),
        "ssm_norm.weight": (inner // heads,),
        "ssm_out.weight": (inner, m.n_embd),
    }


LAYERS = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "qwen3moe": _qwen3moe,
    "deepseek2": _deepseek2,
    "mamba": _mamba,
    "lfm2": _lfm2,
    "qwen3next": _qwen3next,
}

# --- the models ------------------------------------------------------------------------------------------------------

SMOLLM2_135M = Model(
    name="SmolLM2-135M", n_layers=30, n_embd=576, n_ff=1536, n_head=9, n_head_kv=3, n_vocab=49_152, tied=True,
    quant="Q8_0", n_ctx=8192,
)  # fmt: skip
SMOLLM2_1_7B = Model(
    name="SmolLM2-1.7B", n_layers=24, n_embd=2048, n_ff=8192, n_head=32, n_head_kv=32, n_vocab=49_152, tied=True,
    n_ctx=8192,
)  # fmt: skip
QWEN25_1_5B = Model(
    name="Qwen2.5-1.5B", architecture="qwen2", n_layers=28, n_embd=1536, n_ff=8960, n_head=12, n_head_kv=2,
    n_vocab=151_936, tied=True,
)  # fmt: skip
QWEN25_7B = Model(
    name="Qwen2.5-7B", architecture="qwen2", n_layers=28, n_embd=3584, n_ff=18_944, n_head=28, n_head_kv=4,
    n_vocab=152_064,
)  # fmt: skip
LLAMA2_7B = Model(
    name="Llama-2-7B", n_layers=32, n_embd=4096, n_ff=11_008, n_head=32, n_head_kv=32, n_vocab=32_000, n_ctx=4096
)
LLAMA2_70B = Model(
    name="Llama-2-70B", n_layers=80, n_embd=8192, n_ff=28_672, n_head=64, n_head_kv=8, n_vocab=32_000, n_ctx=4096
)
LLAMA3_8B = Model(name="Llama-3.1-8B", n_layers=32, n_embd=4096, n_ff=14_336, n_head=32, n_head_kv=8, n_vocab=128_256)
QWEN3_4B = Model(
    name="Qwen3-4B", architecture="qwen3", n_layers=36, n_embd=2560, n_ff=9728, n_head=32, n_head_kv=8, head=128,
    n_vocab=151_936, tied=True,
)  # fmt: skip
GEMMA3_4B = Model(
    name="Gemma-3-4B", architecture="gemma3", n_layers=34, n_embd=2560, n_ff=10_240, n_head=8, n_head_kv=4, head=256,
    n_vocab=262_208, tied=True, extra={"attention.sliding_window": 1024},
)  # fmt: skip
OLMO2_7B = Model(
    name="OLMo-2-7B", architecture="olmo2", n_layers=32, n_embd=4096, n_ff=11_008, n_head=32, n_head_kv=32,
    n_vocab=100_352, n_ctx=4096,
)  # fmt: skip
PHI3_MINI = Model(
    name="Phi-3-mini", architecture="phi3", n_layers=32, n_embd=3072, n_ff=8192, n_head=32, n_head_kv=32,
    n_vocab=32_064, n_ctx=4096,
)  # fmt: skip
QWEN3_30B_A3B = Model(
    name="Qwen3-30B-A3B", architecture="qwen3moe", n_layers=48, n_embd=2048, n_ff=6144, n_head=32, n_head_kv=4,
    head=128, n_vocab=151_936,
    extra={"expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 768},
)  # fmt: skip
DEEPSEEK_V2_LITE = Model(
    name="DeepSeek-V2-Lite", architecture="deepseek2", n_layers=27, n_embd=2048, n_ff=10_944, n_head=16, n_head_kv=1,
    n_vocab=102_400,
    extra={
        "attention.key_length": 576, "attention.value_length": 512, "attention.kv_lora_rank": 512,
        "attention.key_length_mla": 192, "attention.value_length_mla": 128, "rope.dimension_count": 64,
        "leading_dense_block_count": 1, "expert_count": 64, "expert_used_count": 6, "expert_shared_count": 2,
        "expert_feed_forward_length": 1408, "expert_weights_scale": 1.0,
    },
)  # fmt: skip
MAMBA_2_8B = Model(
    name="Mamba-2.8B", architecture="mamba", n_layers=64, n_embd=2560, n_ff=0, n_head=0, n_head_kv=0, head=1,
    n_vocab=50_280, tied=True,
    extra={
        "ssm.conv_kernel": 4, "ssm.inner_size": 5120, "ssm.state_size": 16, "ssm.time_step_rank": 160,
        "attention.key_length": None, "attention.value_length": None, "rope.dimension_count": None,
    },
)  # fmt: skip
LFM2_1_2B = Model(
    name="LFM2-1.2B", architecture="lfm2", n_layers=16, n_embd=2048, n_ff=8192, n_head=32, n_head_kv=8, n_vocab=65_536,
    tied=True,
    extra={
        "attention.head_count_kv": [8 if il in (2, 5, 8, 10, 12, 14) else 0 for il in range(16)],
        "shortconv.l_cache": 3,
    },
)  # fmt: skip
QWEN3_NEXT_80B = Model(
    name="Qwen3-Next-80B-A3B", architecture="qwen3next", n_layers=48, n_embd=2048, n_ff=5120, n_head=16, n_head_kv=2,
    head=256, n_vocab=151_936,
    extra={
        "expert_count": 512, "expert_used_count": 10, "expert_feed_forward_length": 512,
        "expert_shared_feed_forward_length": 512, "rope.dimension_count": 64, "ssm.conv_kernel": 4,
        "ssm.inner_size": 4096, "ssm.state_size": 128, "ssm.time_step_rank": 32, "ssm.group_count": 16,
    },
)  # fmt: skip
