"""A GGUF model in torch: the computation of llama.cpp on the file's own tensors, which gradients can go through.

The layout of queries and keys is the file's: nothing is permuted. parity.py compares the result with llama.cpp's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from eftlocal.training.devices import CPU
from eftlocal.training.shape import ROPE_FACTORS, Shape
from eftlocal.training.weights import Matrix

__all__ = ["Adapter", "Network", "Weights"]

Weights = Mapping[str, Tensor]  # by GGUF's names; matrices are (outputs, inputs)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter (arXiv 2106.09685): scale * B A is added to each matrix.

    pairs  name of the matrix -> A (rank, inputs) and B (outputs, rank)
    scale  alpha / rank
    """

    pairs: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Network:
    """A model's weights with an adapter, as functions of tokens. Nothing is copied; gradients reach the tensors given.

    checkpointed  layers are computed again for the gradient, which takes less memory and a third more time
    half          matrices inside the layers are multiplied in bfloat16; all else is float32, as sums, norms and logits
    """

    shape: Shape
    weights: Weights
    adapter: Adapter = Adapter()
    checkpointed: bool = False
    half: bool = False

    @classmethod
    def of(cls, shape: Shape, matrices: Mapping[str, Matrix], device: torch.device = CPU) -> Self:
        """The network of a model's tensors as weights.read gives them, on a device. On the CPU nothing is copied."""
        return cls(shape, {name: torch.from_numpy(matrix).to(device) for name, matrix in matrices.items()})

    @property
    def device(self) -> torch.device:
        return self.weights["token_embd.weight"].device

    def hidden(self, tokens: Tensor) -> Tensor:
        """tokens (rows, length) -> (rows, length, width), after the last norm. Each token sees itself and those before.

        Rows that are shorter may be padded on the right with any token.
        """
        x = functional.embedding(tokens, self.weights["token_embd.weight"]) * self.shape.embedding_scale
        length = tokens.shape[1]
        rotations = {pair: self._rotation(length, *pair) for pair in self._pairs()}
        for layer in range(self.shape.layers):
            cos, sin = rotations[self.shape.bases[layer], self.shape.scales[layer]]
            step = partial(self._layer, layer, cos=cos, sin=sin)
            x = checkpoint(step, x, use_reentrant=False) if self.checkpointed and x.requires_grad else step(x)
        return self._norm("output_norm", x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary). Take only the positions that are needed: a row may be a megabyte."""
        name = "output" if "output.weight" in self.weights else "token_embd"
        z = functional.linear(hidden, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))
        return self.shape.softcap * torch.tanh(z / self.shape.softcap) if self.shape.softcap else z

    # --- a layer ------------------------------------------------------------------------------------------------------

    def _layer(self, i: int, x: Tensor, *, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self._after(f"blk.{i}.post_attention_norm", self._attention(i, x, cos, sin))
        h = self._norm(f"blk.{i}.ffn_norm", x)
        gate = self._linear(f"blk.{i}.ffn_gate", h)
        gate = functional.gelu(gate, approximate="tanh") if self.shape.gelu else functional.silu(gate)
        h = self._linear(f"blk.{i}.ffn_down", gate * self._linear(f"blk.{i}.ffn_up", h))
        return x + self._after(f"blk.{i}.post_ffw_norm", h)

    def _attention(self, i: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape, (rows, length, _) = self.shape, x.shape
        h = self._norm(f"blk.{i}.attn_norm", x)

        def heads(part: str, n: int) -> Tensor:  # (rows, n, length, head)
            return self._linear(f"blk.{i}.attn_{part}", h).view(rows, length, n, shape.head).transpose(1, 2)

        q = self._rotated(self._after(f"blk.{i}.attn_q_norm", heads("q", shape.heads)), cos, sin)
        k = self._rotated(self._after(f"blk.{i}.attn_k_norm", heads("k", shape.kv_heads)), cos, sin)
        v = heads("v", shape.kv_heads)
        group = shape.heads // shape.kv_heads
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mask = self._mask(i, length, x.device)
        if self.half:
            q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=shape.attention_scale
        )
        return self._linear(f"blk.{i}.attn_output", mixed.transpose(1, 2).reshape(rows, length, -1).to(x.dtype))

    def _mask(self, i: int, length: int, device: torch.device) -> Tensor | None:
        """Which tokens a layer sees, (length, length); None where it sees all before."""
        window = self.shape.window
        if window is None or not self.shape.windowed[i] or length <= window:
            return None
        behind = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        return (behind >= 0) & (behind < window)

    # --- RoPE ---------------------------------------------------------------------------------------------------------

    def _pairs(self) -> set[tuple[float, float]]:
        return set(zip(self.shape.bases, self.shape.scales, strict=True))

    def _rotation(self, length: int, base: float, scale: float) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (length, head / 2). ggml_rope_ext divides the angles by the factors of Llama 3.1."""
        frequencies = base ** (-torch.arange(0, self.shape.head, 2, dtype=torch.float64) / self.shape.head)
        if ROPE_FACTORS in self.weights:
            frequencies = frequencies / self.weights[ROPE_FACTORS].detach().cpu()
        angles = torch.outer(torch.arange(length, dtype=torch.float64), scale * frequencies)
        return angles.cos().float().to(self.device), angles.sin().float().to(self.device)

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.shape.rotation == "halves":
            first, second = x.chunk(2, -1)  # (..., length, head / 2)
            return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)
        first, second = x.view(*x.shape[:-1], -1, 2).unbind(-1)
        return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _linear(self, name: str, x: Tensor) -> Tensor:
        out = self._product(x, self.weights[f"{name}.weight"])
        if (bias := self.weights.get(f"{name}.bias")) is not None:
            out = out + bias
        if (pair := self.adapter.pairs.get(f"{name}.weight")) is not None:
            a, b = pair
            out = out + self.adapter.scale * self._product(self._product(x, a), b)
        return out

    def _product(self, x: Tensor, matrix: Tensor) -> Tensor:
        if self.half:
            return functional.linear(x.bfloat16(), matrix.bfloat16()).to(x.dtype)
        return functional.linear(x, matrix)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weights[f"{name}.weight"], self.shape.epsilon)

    def _after(self, name: str, x: Tensor) -> Tensor:
        """The norm of a part's output, where the model has one."""
        return self._norm(name, x) if f"{name}.weight" in self.weights else x
