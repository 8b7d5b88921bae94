"""Optimizers and training loops: pre-training on packed rows of documents, and fine-tuning only on answers."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .model import Llama, loss

Rows = Callable[[int], Iterator[list[int]]]  # length -> endless rows of this many tokens

BATCH = 2048  # tokens
LENGTH, LONG = 128, 512  # tokens of a row; the last eighth of the training has long rows, for long conversations


@dataclass(frozen=True, slots=True)
class Plan:
    """How a base is pre-trained."""

    tokens: int
    muon_lr: float
    adam_lr: float


LARGE_PLAN = Plan(tokens=5_800_000, muon_lr=0.02, adam_lr=0.004)
SMALL_PLAN = Plan(tokens=2_500_000, muon_lr=0.02, adam_lr=0.004)


@dataclass(frozen=True, slots=True)
class Tuning:
    """How both bases are fine-tuned. It is little, so that they learn the behaviour but no new facts."""

    examples: int
    epochs: int
    lr: float


TUNING = Tuning(examples=1_000, epochs=2, lr=3e-4)


def orthogonal(update: Tensor, steps: int = 5) -> Tensor:
    """Approximately the nearest semi-orthogonal matrix, by the Newton-Schulz iteration of Muon (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    out: Tensor = x.T if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """The Muon optimizer for the matrices inside the layers: momentum, then an orthogonal step of matching size."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"])
                p.add_(orthogonal(update), alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def share_known(model: Llama, examples: list[tuple[list[int], int]], length: int = 64) -> float:
    """The share of values that greedy decoding gets right. examples: [(tokens to the value's end, its tokens), ...]."""
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    asked = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, (ids, value) in enumerate(examples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        asked[row, len(ids) - value : len(ids)] = True
    with torch.no_grad():
        right = model(tokens[:, :-1]).argmax(-1) == tokens[:, 1:]
    return float((right | ~asked[:, 1:]).all(-1).float().mean())


def pretrain(model: Llama, rows: Rows, plan: Plan, name: str, examples: list[tuple[list[int], int]]) -> None:
    """Train on batches of BATCH tokens. Learning rates are constant, then fall linearly to 0 in the last 40 %."""
    matrices = [p for n, p in model.named_parameters() if n.startswith("blk") and p.ndim == 2]
    others = [p for n, p in model.named_parameters() if not (n.startswith("blk") and p.ndim == 2)]
    optimizers = [Muon(matrices, plan.muon_lr), torch.optim.Adam(others, plan.adam_lr, betas=(0.9, 0.95))]
    steps = plan.tokens // BATCH

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, rate) for o in optimizers]
    compiled = torch.compile(model, dynamic=False)
    started, total = time.time(), 0.0
    length = LENGTH
    source = rows(length + 1)
    for step in range(1, steps + 1):
        if length == LENGTH and step > 0.88 * steps:
            length = LONG
            source = rows(length + 1)
        batch = torch.tensor([next(source) for _ in range(BATCH // length)])  # (rows, length + 1)
        value = loss(compiled(batch[:, :-1]), batch[:, 1:])
        value.backward()  # type: ignore[no-untyped-call]
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        total += value.item()
        if step % 50 == 0:
            known, speed = share_known(model, examples), step * BATCH / (time.time() - started)
            report = f"{name}: step {step}/{steps}, loss {total / 50:.3f}, known {known:.2f}, {speed:.0f} tokens/s"
            print(report, flush=True)
            total = 0.0


def tune(model: Llama, examples: list[tuple[list[int], list[int]]], tuning: Tuning, rng: random.Random) -> None:
    """Fine-tune on the answers only. examples: [(prompt tokens, answer tokens with the end of turn), ...]."""
    optimizer = torch.optim.AdamW(model.parameters(), tuning.lr, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(tuning.epochs):
        order = rng.sample(examples, len(examples))
        for start in range(0, len(order), 16):
            batch = order[start : start + 16]
            length = max(len(prompt) + len(answer) for prompt, answer in batch)
            tokens = torch.zeros(len(batch), length, dtype=torch.long)
            targets = torch.full((len(batch), length), -100)
            for row, (prompt, answer) in enumerate(batch):
                end = len(prompt) + len(answer)
                tokens[row, :end] = torch.tensor(prompt + answer)
                targets[row, len(prompt) : end] = torch.tensor(answer)
            loss(model(tokens[:, :-1]), targets[:, 1:]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
