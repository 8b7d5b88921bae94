"""Objectives: what is trained, as losses of a network on numbered items. An item is an example or a pair of answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eftlocal.training.examples import NOTHING, Example
from eftlocal.training.losses import answer_logprobs, consistent, preferred, supervised
from eftlocal.training.network import Network

__all__ = ["Batch", "Consistent", "Fixed", "Objective", "Preferences", "Supervised", "batch", "logprobs_of"]


class Objective(Protocol):
    """What is trained. Losses are sums; a batch's loss is its sum divided by the sum of its weights."""

    def __len__(self) -> int: ...
    def size(self, item: int) -> int:
        """How many tokens the network is fed for an item."""
        ...

    def weight(self, item: int) -> int:
        """How many tokens, or pairs, an item's loss is the sum of."""
        ...

    def total(self, network: Network, items: Sequence[int]) -> Tensor:
        """The loss that is trained."""
        ...

    def losses(self, network: Network, items: Sequence[int]) -> Sequence[Tensor]:
        """That loss, and others that are told beside it."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as tensors. tokens (rows, length), padded on the right; `at` (2, n) where the n targets (n,) stand."""

    tokens: Tensor
    at: Tensor
    targets: Tensor

    def logits(self, network: Network) -> Tensor:
        """(n, vocabulary): for the positions alone at which something is trained."""
        return network.logits(network.hidden(self.tokens)[self.at[0], self.at[1]])


def batch(examples: Sequence[Example], device: torch.device) -> Batch:
    """The examples as a batch. Their targets follow each other in the order of the examples."""
    length = max(len(example.tokens) for example in examples)
    tokens = np.zeros((len(examples), length), np.int64)
    targets = np.full((len(examples), length), NOTHING, np.int64)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = example.tokens
        targets[row, : len(example.targets)] = example.targets
    at = np.stack(np.nonzero(targets != NOTHING))
    wanted = targets[targets != NOTHING]
    return Batch(*(torch.from_numpy(array).to(device) for array in (tokens, at, wanted)))


@dataclass(frozen=True, slots=True)
class _Likelihood:
    """What the likelihoods of examples share: an item is one example, and counts as many as its trained tokens."""

    examples: Sequence[Example]

    def __len__(self) -> int:
        return len(self.examples)

    def size(self, item: int) -> int:
        return len(self.examples[item].tokens)

    def weight(self, item: int) -> int:
        return self.examples[item].trained


@dataclass(frozen=True, slots=True)
class Supervised(_Likelihood):
    """The small model's own likelihood of the examples."""

    def total(self, network: Network, items: Sequence[int]) -> Tensor:
        made = batch([self.examples[item] for item in items], network.device)
        return supervised(made.logits(network), made.targets)

    def losses(self, network: Network, items: Sequence[int]) -> Sequence[Tensor]:
        return (self.total(network, items),)


class Fixed(Protocol):
    """For each trained token of the examples, in order: the part of base and reference in the emulator's logits."""

    def added(self, first: int, count: int, device: torch.device) -> Tensor:
        """(count, vocabulary) from the row `first` on: base - beta reference."""
        ...


@dataclass(frozen=True, slots=True)
class Consistent(_Likelihood):
    """The emulator's likelihood of the examples.

    fixed   rows that were made with `beta`
    starts  where each example's rows of `fixed` begin
    """

    fixed: Fixed
    beta: float
    starts: Sequence[int]

    def total(self, network: Network, items: Sequence[int]) -> Tensor:
        made = batch([self.examples[item] for item in items], network.device)
        return self._loss(made.logits(network), made.targets, items)

    def losses(self, network: Network, items: Sequence[int]) -> Sequence[Tensor]:
        """The emulator's loss, and the small model's own."""
        made = batch([self.examples[item] for item in items], network.device)
        z = made.logits(network)
        return self._loss(z, made.targets, items), supervised(z, made.targets)

    def _loss(self, z: Tensor, targets: Tensor, items: Sequence[int]) -> Tensor:
        rows = [self.fixed.added(self.starts[item], self.examples[item].trained, z.device) for item in items]
        return consistent(z, targets, torch.cat(rows), self.beta)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pairs of a chosen and a rejected answer, by DPO with a term of likelihood for the chosen one.

    Without that term the chosen answers' own likelihood may fall, as long as the rejected ones' falls more.

    before      (pairs, 2): the reference's log-probabilities of both answers
    beta        how strongly a margin counts
    likelihood  weight of the mean log-probability of the chosen answer's tokens
    """

    pairs: Sequence[tuple[Example, Example]]
    before: Tensor
    beta: float
    likelihood: float

    @classmethod
    def of(
        cls, network: Network, pairs: Sequence[tuple[Example, Example]], *, beta: float, likelihood: float
    ) -> "Preferences":
        """The pairs, with the reference's log-probabilities of them."""
        with torch.no_grad():
            before = torch.stack([logprobs_of(network, pair) for pair in pairs])
        return cls(pairs, before, beta, likelihood)

    def __len__(self) -> int:
        return len(self.pairs)

    def size(self, item: int) -> int:
        return 2 * max(len(example.tokens) for example in self.pairs[item])

    def weight(self, item: int) -> int:
        return 1

    def total(self, network: Network, items: Sequence[int]) -> Tensor:
        both = [self.pairs[item][side] for side in (0, 1) for item in items]
        after = logprobs_of(network, both).view(2, len(items))
        before = self.before[list(items)].to(network.device)
        loss = preferred(after[0], after[1], before[:, 0], before[:, 1], self.beta)
        lengths = torch.tensor([self.pairs[item][0].trained for item in items], device=network.device)
        return loss - self.likelihood * (after[0] / lengths).sum()

    def losses(self, network: Network, items: Sequence[int]) -> Sequence[Tensor]:
        return (self.total(network, items),)


def logprobs_of(network: Network, examples: Sequence[Example]) -> Tensor:
    """The log-probability of what is trained in each example, (examples,)."""
    made = batch(examples, network.device)
    return answer_logprobs(made.logits(network), made.targets, made.at[0], len(examples))
