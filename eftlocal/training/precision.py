"""Whether the matrices inside the layers are multiplied in bfloat16 or in float32, by what is faster here.

A CPU without instructions for bfloat16 is seven times slower with it; with them, a step is nearly twice as fast.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from eftlocal.training.network import Network

__all__ = ["Precision", "choose", "measured"]

TOKENS: Final = 256
ROUNDS: Final = 8  # of each, or as many as fit in LONGEST
LONGEST: Final = 2.0  # seconds
LEAST: Final = 500_000  # entries of the largest matrix of a layer: with less, neither is faster for certain
WORTH_IT: Final = 1.15  # so much faster it must be: embedding and logits, which stay float32, take their time as before


@dataclass(frozen=True, slots=True)
class Precision:
    """half: whether to use bfloat16; speedup: how many times as fast a layer was with it, None if not measured."""

    half: bool
    speedup: float | None

    def __str__(self) -> str:
        if self.speedup is None:
            return "all in float32"
        ratio = f"{self.speedup:.2g} times as fast"
        return (
            f"layers in bfloat16, which is {ratio} here" if self.half else f"all in float32; bfloat16 is {ratio} here"
        )


def choose(network: Network, seconds: Callable[[Network], float]) -> Precision:
    """bfloat16 where a layer is clearly faster with it. `seconds` measures a network once, as `measured` does.

    Both are measured in turn, and the fastest time of each counts: whatever else runs here only makes them slower.
    """
    first = _first_layer(network)
    if max(weight.numel() for name, weight in first.weights.items() if name.startswith("blk.")) < LEAST:
        return Precision(False, None)
    pair = [replace(first, half=half, checkpointed=False) for half in (False, True)]
    best = [float("inf")] * 2
    began = time.perf_counter()
    for taken in range(ROUNDS + 1):
        found = [seconds(each) for each in pair]
        if taken:  # the first time, the device or the library still prepares
            best = [min(both) for both in zip(best, found, strict=True)]
            if time.perf_counter() - began > LONGEST:
                break
    whole, half = best
    return Precision(whole > WORTH_IT * half, whole / half)


def _first_layer(network: Network) -> Network:
    weights = {n: w for n, w in network.weights.items() if not n.startswith("blk.")}
    inside = {n: w.detach().clone() for n, w in network.weights.items() if n.startswith("blk.0.")}
    for weight in inside.values():
        weight.requires_grad_()
    return replace(network, shape=replace(network.shape, layers=1), weights={**weights, **inside})


def measured(network: Network) -> float:
    """The seconds that some tokens take, forwards and backwards."""
    tokens = torch.zeros(1, TOKENS, dtype=torch.int64, device=network.device)
    _finish(network.device)
    started = time.perf_counter()
    network.hidden(tokens).sum().backward()  # type: ignore[no-untyped-call]
    _finish(network.device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
