"""Tests of MoFO: it is its rule, as numpy computes it by itself, and AdamW where all entries move."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlocal.training.mofo import MoFO, largest, least_by_partition, least_by_topk

SHAPES = {"matrix": (13, 7), "vector": (11,)}


def drawn(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def by_the_rule(
    start: NDArray[np.float64], gradients: list[NDArray[np.float64]], lr: float, fraction: float, decay: float
) -> NDArray[np.float64]:
    """The paper's algorithm 1, entry by entry in double precision: Adam, and a filter by the first moment."""
    theta, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        order = np.argsort(-np.abs(m), axis=None)
        moved = np.zeros(m.size, bool)
        moved[order[: max(1, math.floor(fraction * m.size))] if m.ndim > 1 else order] = True
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        theta = theta * (1 - lr * decay) - lr * np.where(moved.reshape(m.shape), step, 0)
    return theta


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.05, 0.001])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_run_is_the_papers_rule(fraction: float, decay: float) -> None:
    parameters = {name: p.double().requires_grad_() for name, p in drawn(0).items()}
    gradients = [drawn(seed) for seed in range(1, 21)]
    optimizer = MoFO(parameters, fraction=fraction, decay=decay)
    for gradient in gradients:
        for name, p in parameters.items():
            p.grad = gradient[name].double()
        optimizer.step(0.03)
    for name, start in drawn(0).items():
        wanted = by_the_rule(
            start.double().numpy(), [g[name].double().numpy() for g in gradients], 0.03, fraction, decay
        )
        np.testing.assert_allclose(parameters[name].detach().numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_all_entries_it_is_adamw(decay: float) -> None:
    ours = {name: p.requires_grad_() for name, p in drawn(0).items()}
    theirs = {name: p.requires_grad_() for name, p in drawn(0).items()}
    optimizer = MoFO(ours, fraction=1.0, decay=decay)
    adamw = torch.optim.AdamW(theirs.values(), lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
    for seed in range(1, 51):
        for name, gradient in drawn(seed).items():
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
        optimizer.step(0.01)
        adamw.step()
    for name, p in ours.items():
        torch.testing.assert_close(p, theirs[name], atol=1e-7, rtol=1e-6)


def test_only_the_fraction_of_a_matrix_moves_at_a_step() -> None:
    parameters = {name: p.requires_grad_() for name, p in drawn(0).items()}
    for name, gradient in drawn(1).items():
        parameters[name].grad = gradient
    MoFO(parameters, fraction=0.1).step(0.01)
    moved = {name: int((parameters[name] != start).sum()) for name, start in drawn(0).items()}
    assert moved == {"matrix": 9, "vector": 11}  # floor(0.1 * 91)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50), st.floats(0.001, 0.999))
def test_the_largest_are_those_of_a_sort(values: list[float], fraction: float) -> None:
    moment = torch.tensor(values)
    found = largest(moment, fraction)
    k = max(1, int(fraction * len(values)))
    least = sorted(map(abs, moment.tolist()), reverse=True)[k - 1]
    assert found.tolist() == [abs(value) >= least for value in moment.tolist()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 7, 500, 1000])
def test_a_gpus_way_to_the_largest_finds_what_the_cpus_does(k: int, dtype: torch.dtype) -> None:
    drawn = torch.randn(20, 50, generator=torch.Generator().manual_seed(k), dtype=dtype).abs()
    for size in (drawn, (3 * drawn).round(), torch.zeros(20, 50, dtype=dtype)):  # without and with ties
        assert torch.equal(least_by_topk(size, k), least_by_partition(size, k))
        assert float(least_by_topk(size, k)) == size.flatten().sort(descending=True).values[k - 1]
