"""Compares our computation with llama.cpp's, so that a model is never trained that is not the one in the file.

Two comparisons. The first layers, written as an F32 file, must give the same logits but for rounding: each constant and
each tensor's use is right then. The file itself must give nearly the same distributions: llama.cpp also quantizes the
activations where weights are quantized (and rounds them for F16 and BF16), which no computation on the weights shows.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from eftlocal.errors import TrainingError
from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.gguf_write import Key, NewTensor, keys_of, write
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.memory import MAX_ROWS
from eftlocal.training.devices import CPU
from eftlocal.training.network import Network
from eftlocal.training.shape import shape_of
from eftlocal.training.weights import Matrix

__all__ = ["Parity", "check", "first_layers", "llama_cpps", "ours"]

LAYERS: Final = 2  # enough to show what a layer does with another one's output; a window needs more (first_layers)
# Largest difference of two logits, relative to their standard deviation. Measured: 1e-5, and 4e-3 for a GELU, which
# llama.cpp takes from a table of half precision.
EXACT, EXACT_GELU = 1e-3, 2e-2
# Mean divergence in nats. Measured on random models and SmolLM2-135M: 3e-6 (F16), 1e-4 (BF16), 2e-3 to 4e-3 (all other
# types, on which llama.cpp quantizes the activations).
LOOSE: Final = {"F32": 1e-4, "F16": 1e-4, "BF16": 3e-3}
LOOSE_QUANTIZED: Final = 3e-2


@dataclass(frozen=True, slots=True)
class Parity:
    """How far our logits are from llama.cpp's.

    exact       largest difference of two logits of the first layers in F32, relative to their standard deviation
    divergence  mean Kullback-Leibler divergence of the file's distributions, in nats
    """

    exact: float
    divergence: float


def check(header: Header, weights: Mapping[str, Matrix], tokens: Sequence[int], device: torch.device = CPU) -> Parity:
    """Compares a model, computed on `device`, with llama.cpp's computation of its file on the CPU.

    `header` is from gguf.check, `weights` from weights.read; `tokens` are a hundred of real text. Raises TrainingError
    if they differ by more than rounding explains.
    """
    with tempfile.TemporaryDirectory(prefix="eftlocal-") as folder:
        try:
            part = first_layers(header, weights, Path(folder) / "first-layers.gguf")
        except OSError as error:
            raise TrainingError(
                f"{folder}: the first layers could not be written for the comparison with llama.cpp: {error.strerror}.",
                "Set TMPDIR to a folder with more room.",
            ) from None
        z, expected = ours(part, weights, tokens, device), llama_cpps(part, tokens)
    exact = float(np.abs(z - expected).max() / expected.std())
    if not exact <= (EXACT_GELU if shape_of(header).gelu else EXACT):
        raise _differs(header, f"logits of its first layers differ by {exact:.2g} of their standard deviation")
    z, expected = ours(header, weights, tokens, device), llama_cpps(header, tokens)
    found = Parity(exact, _divergence(expected, z))
    if not found.divergence <= _loose(header):
        most = f"expected {_loose(header):g} or less"
        raise _differs(header, f"the mean divergence is {found.divergence:.2g} nats, {most}")
    return found


def ours(header: Header, weights: Mapping[str, Matrix], tokens: Sequence[int], device: torch.device = CPU) -> Matrix:
    """Our logits after each token, (tokens, vocabulary)."""
    names = {tensor.name for tensor in header.tensors}
    network = Network.of(shape_of(header), {n: matrix for n, matrix in weights.items() if n in names}, device)
    with torch.no_grad():
        z = network.logits(network.hidden(torch.tensor([tokens], device=device)))
    return np.asarray(z[0].cpu().numpy())


def llama_cpps(header: Header, tokens: Sequence[int], lora: Path | None = None) -> Matrix:
    """llama.cpp's logits after each token, (tokens, vocabulary), with an exact cache.

    They are the CPU's: on an NVIDIA GPU, llama.cpp multiplies F32 weights in TF32, which has 10 bits after the point.
    """
    model = Model(header, Offload())
    try:
        adapter = None if lora is None else (lora, 1.0)
        context = Context(model, n_ctx=len(tokens), n_threads=torch.get_num_threads(), lora=adapter, kv_type="f32")
        try:
            chunks = [tokens[i : i + MAX_ROWS] for i in range(0, len(tokens), MAX_ROWS)]
            return np.concatenate([context.feed([Feed(0, chunk, len(chunk))]).copy() for chunk in chunks])
        finally:
            context.close()
    finally:
        model.close()


def first_layers(header: Header, weights: Mapping[str, Matrix], path: Path) -> Header:
    """Writes a model of the first layers to `path`, in F32. Returns its header. Raises OSError.

    With a sliding window, the layers go up to the first that sees all tokens.
    """
    windowed = shape_of(header).windowed
    n = min(len(windowed), max(LAYERS, windowed.index(False) + 1 if any(windowed) and not all(windowed) else 0))
    keys = keys_of(header)
    keys[f"{header.architecture}.block_count"] = Key("u32", n)
    keys["general.file_type"] = Key("u32", 0)
    pattern = f"{header.architecture}.attention.sliding_window_pattern"
    if pattern in keys and isinstance(array := keys[pattern].value, Array):
        size = len(array.raw) // array.count
        keys[pattern] = Key("array", replace(array, count=n, raw=array.raw[: n * size]))
    kept = [name for name in weights if not name.startswith("blk.") or int(name.split(".")[1]) < n]
    write(path, keys, [NewTensor.of(name, weights[name]) for name in kept])
    return gguf.check(path)


def _divergence(expected: Matrix, found: Matrix) -> float:
    """The mean Kullback-Leibler divergence from the rows `expected` to the rows `found`, in nats."""
    p, q = (z - np.logaddexp.reduce(z, 1, keepdims=True) for z in (expected.astype(np.float64), found))
    return max(0.0, float((np.exp(p) * (p - q)).sum(1).mean()))  # rounding may make it negative


def _loose(header: Header) -> float:
    """The largest divergence that is accepted, by the types of the file's matrices."""
    types = {tensor.type for tensor in header.tensors if len(tensor.shape) > 1}
    return max(LOOSE.get(kind, LOOSE_QUANTIZED) for kind in types)


def _differs(header: Header, how: str) -> TrainingError:
    return TrainingError(
        f"{header.path}: our computation of this model is not llama.cpp's: {how}.",
        "It cannot be trained. Please report this, with the name of the file.",
    )
