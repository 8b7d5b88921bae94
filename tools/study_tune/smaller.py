"""A smaller model of the same vocabulary: some layers of a llama model, taught by the whole on text that it writes.

There is no corpus here. The whole model is asked for nothing but what a conversation begins with, so it writes the
question, too (the way of Magpie, arXiv 2406.08464), and text without a conversation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from eftlocal.runtime.gguf_header import Header
from eftlocal.runtime.gguf_write import Key, NewTensor, keys_of, write
from eftlocal.training.network import Network
from eftlocal.training.trainer import Recipe, Trainer
from eftlocal.training.tunable import copied


@torch.no_grad()
def written(model: Network, starts: Sequence[Sequence[int]], length: int, seed: int, share: float = 0.95) -> Tensor:
    """Texts of `length` tokens, (rows, length), each drawn from the nucleus `share` after its start.

    All starts have the same length. This is Network's computation for llama with a cache of keys and values.
    """
    shape, device = model.shape, model.device
    assert shape.architecture == "llama" and shape.rotation == "neighbours"
    rows, given = len(starts), len(starts[0])
    tokens = torch.zeros(rows, length, dtype=torch.long, device=device)
    tokens[:, :given] = torch.tensor(starts, device=device)
    size = (shape.layers, rows, shape.kv_heads, length, shape.head)
    keys, values = (torch.zeros(size, device=device, dtype=_kind(model)) for _ in range(2))
    generator = torch.Generator(device).manual_seed(seed)
    angles = torch.outer(
        torch.arange(length, device=device),
        shape.bases[0] ** (-torch.arange(0, shape.head, 2, device=device) / shape.head),
    )
    for at in range(length - 1):
        z = _one(model, tokens[:, at], at, keys, values, angles[at])
        if at + 1 >= given:
            tokens[:, at + 1] = _drawn(z.float(), share, generator)
    return tokens


def _one(model: Network, token: Tensor, at: int, keys: Tensor, values: Tensor, angle: Tensor) -> Tensor:
    """The logits after the token at the place `at`, (rows, vocabulary)."""
    w, shape, rows = model.weights, model.shape, len(token)
    kind = keys.dtype
    cos, sin = angle.cos().to(kind), angle.sin().to(kind)

    def turned(x: Tensor) -> Tensor:  # (rows, heads, head)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, w[f"{name}.weight"])

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), w[f"{name}.weight"], shape.epsilon)

    x = w["token_embd.weight"][token]
    group = shape.heads // shape.kv_heads
    for i in range(shape.layers):
        h = norm(f"blk.{i}.attn_norm", x)
        q = turned(linear(f"blk.{i}.attn_q", h).view(rows, shape.heads, shape.head))
        keys[i, :, :, at] = turned(linear(f"blk.{i}.attn_k", h).view(rows, shape.kv_heads, shape.head))
        values[i, :, :, at] = linear(f"blk.{i}.attn_v", h).view(rows, shape.kv_heads, shape.head)
        # the heads of a group share keys: they are the queries of one head
        mixed = functional.scaled_dot_product_attention(
            q.view(rows, shape.kv_heads, group, shape.head),
            keys[i, :, :, : at + 1],
            values[i, :, :, : at + 1],
            scale=shape.attention_scale,
        )
        x = x + linear(f"blk.{i}.attn_output", mixed.reshape(rows, -1))
        h = norm(f"blk.{i}.ffn_norm", x)
        x = x + linear(
            f"blk.{i}.ffn_down", functional.silu(linear(f"blk.{i}.ffn_gate", h)) * linear(f"blk.{i}.ffn_up", h)
        )
    return linear("output" if "output.weight" in w else "token_embd", norm("output_norm", x))


def _drawn(z: Tensor, share: float, generator: torch.Generator) -> Tensor:
    likely, which = z.softmax(-1).topk(min(512, z.shape[-1]))
    before = likely.cumsum(-1) - likely
    likely = likely.masked_fill(before > share, 0)
    return which.gather(1, torch.multinomial(likely, 1, generator=generator))[:, 0]


def _kind(model: Network) -> torch.dtype:
    return model.weights["token_embd.weight"].dtype


def half(model: Network) -> Network:
    """The model in bfloat16, for text that is only read."""
    return Network(model.shape, {name: tensor.bfloat16() for name, tensor in model.weights.items()})


# --- layers -----------------------------------------------------------------------------------------------------------


def some_layers(model: Network, kept: Sequence[int]) -> Network:
    """A model of some of the layers."""
    names = {f"blk.{old}.": f"blk.{new}." for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in model.weights.items():
        block = ".".join(name.split(".")[:2]) + "."
        if not name.startswith("blk."):
            weights[name] = tensor.clone()
        elif block in names:
            weights[name.replace(block, names[block], 1)] = tensor.clone()
    n, shape = len(kept), model.shape
    shape = replace(shape, layers=n, bases=shape.bases[:n], scales=shape.scales[:n], windowed=shape.windowed[:n])
    return Network(shape, weights)


@dataclass(frozen=True, slots=True)
class Taught:
    """An objective: to say of each token of the texts (rows, length) what the whole model says."""

    texts: Tensor
    whole: Network

    def __len__(self) -> int:
        return len(self.texts)

    def size(self, item: int) -> int:
        return self.texts.shape[1]

    def weight(self, item: int) -> int:
        return self.texts.shape[1]

    def losses(self, network: Network, items: Sequence[int]) -> Sequence[Tensor]:
        return [self.total(network, items)]

    def total(self, network: Network, items: Sequence[int]) -> Tensor:
        tokens = self.texts[list(items)].to(network.device)
        with torch.no_grad():
            expected = self.whole.logits(self.whole.hidden(tokens)).flatten(0, 1).log_softmax(-1)
        found = network.logits(network.hidden(tokens)).flatten(0, 1).log_softmax(-1)
        return functional.kl_div(found, expected, log_target=True, reduction="sum")


def taught(
    whole: Network, kept: Sequence[int], texts: Tensor, *, lr: float, batch: int, fed: int, told: Callable[[str], None]
) -> tuple[Network, float, float]:
    """Some layers, taught on the texts. Returns them and the divergence on texts kept back, before and after."""
    small = some_layers(whole, kept)
    back = max(1, len(texts) // 20)
    tunable = copied(small.shape, small.weights)
    judge = Taught(texts[:back], whole)
    recipe = Recipe(epochs=1, batch=batch, lr=lr, fed=fed, looks=10, patience=10)
    trainer = Trainer(tunable, Taught(texts[back:], whole), recipe, judge)
    before = math.nan
    with torch.no_grad():
        before = sum(float(judge.total(small, [i])) for i in range(back)) / sum(map(judge.weight, range(back)))
    for step in trainer.run():
        if step.held_out is not None:
            told(f"teaching: step {step.step} of {step.steps}, divergence {step.held_out:.3f} (before {before:.3f})")
    return Network(small.shape, {name: p.detach() for name, p in trainer.best.items()}), before, trainer.best_loss


def save(path: Path, header: Header, model: Network, name: str) -> None:
    """Writes it with the whole model's tokenizer and template, matrices in F16."""
    keys = keys_of(header)
    keys[f"{header.architecture}.block_count"] = Key("u32", model.shape.layers)
    keys["general.file_type"] = Key("u32", 1)
    keys["general.name"] = Key("string", name)
    tensors = []
    for tensor, values in model.weights.items():
        array = values.detach().cpu().float().numpy()
        if array.ndim > 1:
            half = array.astype(np.float16)
            tensors.append(NewTensor(tensor, array.shape[::-1], "F16", lambda half=half: half))  # type: ignore[misc]
        else:
            tensors.append(NewTensor.of(tensor, array))
    write(path, keys, tensors)
