"""What is minimized: losses of the tokens that must follow, under the small model or the emulator that it steers.

Rows of logits are (tokens, vocabulary). Each loss is a sum over tokens (or pairs), so that parts of a batch add up.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["answer_logprobs", "consistent", "preferred", "supervised"]


def supervised(z: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the model's own distribution."""
    return functional.cross_entropy(z, targets, reduction="sum")


def consistent(z: Tensor, targets: Tensor, fixed: Tensor, beta: float) -> Tensor:
    """Cross-entropy of the emulator's distribution, with base and reference fixed (arXiv 2407.01155, equation 6).

    fixed: their part of its logits, base - beta reference. z, of tuned, is cut to the vocabulary that all three share.
    """
    return functional.cross_entropy(torch.add(fixed, z[:, : fixed.shape[-1]], alpha=beta), targets, reduction="sum")


def preferred(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor, beta: float) -> Tensor:
    """DPO's loss (arXiv 2305.18290, equation 7) of pairs of answers, each given by its log-probability.

    `_before` are the reference's log-probabilities.
    """
    margin = (chosen - chosen_before) - (rejected - rejected_before)
    return -functional.logsigmoid(beta * margin).sum()


def answer_logprobs(z: Tensor, targets: Tensor, owners: Tensor, n: int) -> Tensor:
    """The log-probability of each of `n` answers. owners (tokens,): which answer each row belongs to."""
    each = -functional.cross_entropy(z, targets, reduction="none")
    return torch.zeros(n, dtype=each.dtype, device=each.device).index_add(0, owners, each)
