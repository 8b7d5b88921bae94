"""MoFO, an optimizer that forgets little (arXiv 2407.20999): Adam, but only entries of large momentum move.

Each tensor keeps Adam's two moments for all its entries. At a step, only the fraction of the entries whose first moment
is largest in size is moved; the others stay where they are. With a fraction of 1 this is AdamW (arXiv 1711.05101).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

__all__ = ["MoFO", "largest", "least_by_partition", "least_by_topk"]


@dataclass(slots=True)
class MoFO:
    """The optimizer of some parameters, by name. `step` takes one step along their gradients.

    fraction  of each matrix that moves at a step; vectors (norms, biases) move as a whole
    decay     decoupled weight decay, of all entries
    first, second, taken  Adam's moments, and the number of steps: the whole state
    """

    parameters: Mapping[str, Tensor]
    fraction: float = 1.0
    decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    first: dict[str, Tensor] = field(init=False)
    second: dict[str, Tensor] = field(init=False)
    taken: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Moves each parameter that has a gradient."""
        self.taken += 1
        one, two = self.betas
        rate, root = lr / (1 - one**self.taken), math.sqrt(1 - two**self.taken)
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            first, second = self.first[name], self.second[name]
            first.lerp_(p.grad, 1 - one)
            second.mul_(two).addcmul_(p.grad, p.grad, value=1 - two)
            if self.decay:
                p.mul_(1 - lr * self.decay)
            update = first / second.sqrt().div_(root).add_(self.epsilon)
            if self.fraction < 1 and p.ndim > 1:
                update.mul_(largest(first, self.fraction))
            p.sub_(update, alpha=rate)


def largest(moment: Tensor, fraction: float) -> Tensor:
    """Which entries are among the largest in size, as booleans of the shape of `moment`.

    These are floor(fraction * n) entries, at least 1, and all that equal the smallest of them.
    """
    size = moment.abs()
    k = max(1, int(fraction * size.numel()))
    return size >= (least_by_topk if size.device.type == "cuda" else least_by_partition)(size, k)


def least_by_topk(size: Tensor, k: int) -> Tensor:
    """The smallest of the `k` largest. Of 28 million on an H100: 0.8 ms; torch.kthvalue took 200, and sort 1.5."""
    return torch.topk(size.flatten(), k, sorted=False).values.min()


def least_by_partition(size: Tensor, k: int) -> Tensor:
    """The same, found on the CPU: thirty times as fast as topk and kthvalue there. MPS has topk for few entries only.

    Numbers that are not negative order as their bits do, and integers are compared faster.
    """
    bits = size.view({4: torch.int32, 8: torch.int64}[size.element_size()]).flatten().cpu().numpy()
    least = np.partition(bits, len(bits) - k)[len(bits) - k : len(bits) - k + 1].copy()
    return torch.from_numpy(least).view(size.dtype).to(size.device)[0]
