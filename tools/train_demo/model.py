"""A small llama model in torch, for training the four models of the demo."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one model. `hidden` is the width of the gated feed-forward layer."""

    width: int
    layers: int
    heads: int
    hidden: int

    @property
    def head(self) -> int:
        return self.width // self.heads


LARGE = Shape(width=256, layers=4, heads=8, hidden=704)
SMALL = Shape(width=48, layers=2, heads=3, hidden=128)


def rotations(length: int, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding, each (length, head / 2)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head, 2).float() / head)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x, (..., length, head). This is llama.cpp's NORM rope: export permutes nothing."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]  # (..., length, head / 2)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Block(nn.Module):
    """One layer: attention and a SiLU-gated feed-forward part. Each has a norm before it and a residual connection."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, hidden = shape.width, shape.hidden
        self.attn_norm = nn.RMSNorm(width, eps=EPSILON)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=EPSILON)
        self.ffn_gate = nn.Linear(width, hidden, bias=False)
        self.ffn_up = nn.Linear(width, hidden, bias=False)
        self.ffn_down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, width = x.shape
        h = self.attn_norm(x)
        split = (rows, length, self.shape.heads, self.shape.head)
        q = rotate(self.attn_q(h).view(split).transpose(1, 2), cos, sin)  # (rows, heads, length, head)
        k = rotate(self.attn_k(h).view(split).transpose(1, 2), cos, sin)
        v = self.attn_v(h).view(split).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(rows, length, width))
        h = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return out


class Llama(nn.Module):
    """A llama model with tied embeddings. Parameters have the names that GGUF uses."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(vocabulary, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=EPSILON)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02 if name.startswith("token_embd") else shape.width**-0.5 / 2)
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                nn.init.zeros_(weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (rows, length) -> logits (rows, length, vocabulary)."""
        cos, sin = rotations(tokens.shape[1], self.shape.head)
        x = self.token_embd(tokens)
        for block in self.blk:
            x = block(x, cos, sin)
        return functional.linear(self.output_norm(x), self.token_embd.weight)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over the targets (rows, length) that are not -100."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
