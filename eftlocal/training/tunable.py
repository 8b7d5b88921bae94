"""What of a model is trained: a LoRA adapter beside its matrices, or copies of its tensors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from eftlocal.training.network import Adapter, Network, Weights
from eftlocal.training.shape import ROPE_FACTORS, Shape

__all__ = ["Tunable", "adapted", "copied", "pairs_of"]

A, B = ".lora_a", ".lora_b"


@dataclass(frozen=True, slots=True)
class Tunable:
    """Parameters by name, and the network that they make. `network` may be called with any values of them."""

    parameters: Mapping[str, Tensor]
    network: Callable[[Mapping[str, Tensor]], Network]


def adapted(
    shape: Shape,
    weights: Weights,
    *,
    rank: int,
    alpha: float,
    seed: int,
    checkpointed: bool = False,
    half: bool = False,
) -> Tunable:
    """A LoRA adapter for each matrix inside the layers, which changes nothing at first (arXiv 2106.09685).

    A is drawn uniformly, as torch initializes a linear layer, and B is 0. `half`: see Network.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Tensor] = {}
    for name, weight in sorted(weights.items()):
        if weight.ndim != 2 or not name.startswith("blk."):
            continue
        outputs, inputs = weight.shape
        bound = 1 / math.sqrt(inputs)
        drawn = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        parameters[f"{name}{A}"] = drawn.to(weight.device).requires_grad_()
        parameters[f"{name}{B}"] = torch.zeros(outputs, rank, device=weight.device).requires_grad_()

    fixed = {n: w.bfloat16() if half and w.ndim == 2 and n.startswith("blk.") else w for n, w in weights.items()}

    def network(values: Mapping[str, Tensor]) -> Network:
        return Network(shape, fixed, Adapter(pairs_of(values), alpha / rank), checkpointed, half)

    return Tunable(parameters, network)


def pairs_of(parameters: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """The pairs (A, B) of an adapter, by the name of their matrix."""
    names = [name.removesuffix(A) for name in parameters if name.endswith(A)]
    return {name: (parameters[f"{name}{A}"], parameters[f"{name}{B}"]) for name in names}


def copied(shape: Shape, weights: Weights, *, checkpointed: bool = False, half: bool = False) -> Tunable:
    """Copies of all tensors but RoPE's factors, with embedding and output. `half`: see Network.

    On the demo family the emulator's loss with frozen embeddings was 1.6 times as high (consistent MoFO, 1e-3).
    """
    names = [name for name in sorted(weights) if name != ROPE_FACTORS]
    parameters = {name: weights[name].detach().clone().requires_grad_() for name in names}
    return Tunable(parameters, partial(_replaced, shape, weights, checkpointed, half))


def _replaced(shape: Shape, weights: Weights, checkpointed: bool, half: bool, values: Mapping[str, Tensor]) -> Network:
    return Network(shape, {**weights, **values}, checkpointed=checkpointed, half=half)
