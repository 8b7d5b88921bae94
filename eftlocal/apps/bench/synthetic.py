"""Makes a synthetic large base: it computes exactly what a small llama model computes, at the cost of a large one.

Embedding, heads and FFN are widened with zeros, and layers that add nothing are appended to the real ones. An RMS norm
over D numbers instead of d, of which the new ones are 0, finds a mean square that is smaller by d / D. With its weights
multiplied by sqrt(d / D) and its epsilon by d / D, its output is the same.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import ModelFileError, SettingError
from eftlocal.runtime.llama.library import QUANTIZED, quantize

__all__ = ["parse_size", "widen"]

FFN = 4  # width of the FFN divided by that of the embedding, as in large models
LEAST_LAYERS = 8  # with fewer layers, the memory access would not be like that of a large model
WIDTHS = (4096, 2048, 1024, 512)  # embedding widths to try
UNITS = {"M": 1e6, "G": 1e9}


def parse_size(text: str) -> tuple[int, str]:
    """Read `300M`, `1.5G` or `300M:Q4_K_M`: (bytes of the file in F16, type of its weights). Raises SettingError."""
    size, _, kind = text.partition(":")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])", size)
    if found is None or (kind or "F16") not in QUANTIZED:
        raise SettingError(
            f"The synthetic base is {text!r}; it must be a file size in F16, and a type if it is not F16.",
            f"Examples: 300M, 300M:Q4_K_M. Types: {', '.join(QUANTIZED)}.",
        )
    return int(float(found[1]) * UNITS[found[2]]), kind or "F16"


def widen(source: Path, target: Path, n_bytes: int, kind: str) -> None:
    """Write a model to `target` that computes what `source` (a llama model) computes.

    It has about `n_bytes` in F16, and its weights are stored as `kind`. Raises SettingError if the gguf package is
    missing or `n_bytes` is too small, and ModelFileError if `source` has another architecture.
    """
    try:
        import gguf
    except ImportError:
        raise SettingError(
            "A synthetic base needs the gguf package, which is not installed.", "pip install gguf"
        ) from None
    reader = gguf.GGUFReader(source)
    values = {name: field.contents() for name, field in reader.fields.items()}
    if values["general.architecture"] != "llama":
        raise ModelFileError(f"{source}: only a llama can be widened; this is {values['general.architecture']}.")
    d, n_layers = int(values["llama.embedding_length"]), int(values["llama.block_count"])
    head = int(values.get("llama.attention.key_length", d // int(values["llama.attention.head_count"])))
    group = int(values["llama.attention.head_count"]) // int(values["llama.attention.head_count_kv"])
    wide, layers = _shape(n_bytes, d, n_layers)
    heads_kv = wide // head // group
    tensors = {t.name: np.asarray(gguf.quants.dequantize(t.data, t.tensor_type), np.float32) for t in reader.tensors}

    changed: dict[str, Any] = {
        "general.name": f"{source.stem} widened",
        "llama.embedding_length": wide,
        "llama.block_count": layers,
        "llama.feed_forward_length": FFN * wide,
        "llama.attention.head_count": heads_kv * group,
        "llama.attention.head_count_kv": heads_kv,
        "llama.attention.layer_norm_rms_epsilon": values["llama.attention.layer_norm_rms_epsilon"] * d / wide,
        "general.file_type": 1,
    }
    unquantized = target if kind == "F16" else target.with_suffix(".f16.gguf")
    writer = gguf.GGUFWriter(unquantized, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, changed.get(name, values[name]), field.types[0], inner)
    for name in ("llama.attention.key_length", "llama.attention.value_length"):
        if name not in values:  # else they would follow from the new width
            writer.add_uint32(name, head)
    for name, tensor in _widened(tensors, d, wide, layers, heads_kv * group * head, heads_kv * head).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if unquantized is not target:
        quantize(unquantized, target, kind)
        unquantized.unlink()


def _shape(n_bytes: int, d: int, n_layers: int) -> tuple[int, int]:
    """(embedding width D, layers): the widest with LEAST_LAYERS or more. A layer has (4 + 3 FFN) D^2 weights."""
    for wide in WIDTHS:
        layers = round(n_bytes / 2 / ((4 + 3 * FFN) * wide**2))
        if wide >= d and layers >= max(LEAST_LAYERS, n_layers):
            return wide, layers
    raise SettingError(f"A synthetic base of {n_bytes / 1e6:.0f} MB is too small for {n_layers} layers of width {d}.")


def _widened(
    tensors: dict[str, NDArray[np.float32]], d: int, wide: int, layers: int, q: int, kv: int
) -> dict[str, NDArray[Any]]:
    """The tensors, (outputs, inputs), in their new sizes; matrices are F16."""
    scale = np.float32(np.sqrt(d / wide))
    n_vocab = len(tensors["token_embd.weight"])
    sizes = {
        "token_embd": (n_vocab, wide),
        "output": (n_vocab, wide),
        "attn_q": (q, wide),
        "attn_k": (kv, wide),
        "attn_v": (kv, wide),
        "attn_output": (wide, q),
        "ffn_gate": (FFN * wide, wide),
        "ffn_up": (FFN * wide, wide),
        "ffn_down": (wide, FFN * wide),
    }
    found: dict[str, NDArray[Any]] = {}
    for name, tensor in tensors.items():
        part = name.split(".")[-2]
        if part.endswith("norm"):
            found[name] = np.pad(tensor * scale, (0, wide - d))
        elif part in sizes:
            more = [(0, new - old) for new, old in zip(sizes[part], tensor.shape, strict=True)]
            found[name] = np.pad(tensor, more).astype(np.float16)
        else:  # RoPE factors
            found[name] = tensor
    first = {name: tensor for name, tensor in found.items() if name.startswith("blk.0.")}
    for layer in range(1 + max(int(n.split(".")[1]) for n in found if n.startswith("blk.")), layers):
        for name, tensor in first.items():  # a new layer has weights, but its output is 0
            silent = name.split(".")[2] in ("attn_output", "ffn_down")
            found[name.replace("blk.0.", f"blk.{layer}.")] = np.zeros_like(tensor) if silent else tensor
    return found
