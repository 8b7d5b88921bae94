"""Tests of the torch model: its logits are llama.cpp's, and its gradients are those of finite differences."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from eftlocal.runtime import gguf
from eftlocal.training import parity, weights
from eftlocal.training.network import Adapter, Network
from eftlocal.training.shape import shape_of
from tests.families import smollm2 as smollm2_file

TOKENS = np.random.default_rng(0).integers(0, 256, 100).tolist()


def network(path: Path, dtype: torch.dtype = torch.float32) -> Network:
    header = gguf.check(path)
    return Network(shape_of(header), {n: torch.from_numpy(w).to(dtype) for n, w in weights.read(header).items()})


def test_logits_are_llama_cpps(any_model: Path) -> None:
    header = gguf.check(any_model)
    z = parity.ours(header, weights.read(header), TOKENS)
    # gemma3's GELU comes from a table of half precision in llama.cpp: 4e-3 was measured, and 7e-5 for the others
    atol = 1e-2 if header.architecture == "gemma3" else 2e-4
    np.testing.assert_allclose(z, parity.llama_cpps(header, TOKENS), atol=atol)


def test_rows_of_a_batch_do_not_see_each_other_nor_their_padding(any_model: Path) -> None:
    model = network(any_model)
    rows = [TOKENS[:40], TOKENS[50:65]]
    padded = torch.tensor([rows[0], rows[1] + [0] * 25])
    together = model.logits(model.hidden(padded))
    for row, tokens in enumerate(rows):
        alone = model.logits(model.hidden(torch.tensor([tokens])))[0]
        torch.testing.assert_close(together[row, : len(tokens)], alone, atol=1e-4, rtol=0)


def test_gradients_are_those_of_finite_differences(any_model: Path) -> None:
    model = network(any_model, torch.float64)
    tokens, targets = torch.tensor([TOKENS[:24]]), torch.tensor(TOKENS[1:25])

    def loss(at: Network) -> torch.Tensor:
        return functional.cross_entropy(at.logits(at.hidden(tokens))[0], targets)

    moved = {name: w.clone().requires_grad_() for name, w in model.weights.items() if name != "rope_freqs.weight"}
    loss(Network(model.shape, {**model.weights, **moved})).backward()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for name, weight in moved.items():
        assert weight.grad is not None, f"{name} has no gradient"
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        direction *= 1e-5 / direction.norm()

        def at(sign: float, name: str = name, direction: torch.Tensor = direction) -> float:
            shifted = {**model.weights, name: model.weights[name] + sign * direction}
            with torch.no_grad():
                return float(loss(Network(model.shape, shifted)))

        slope = (at(1) - at(-1)) / 2
        assert slope == pytest.approx(float((weight.grad * direction).sum()), rel=1e-4, abs=1e-12), name


def test_computing_layers_again_changes_no_gradient(any_model: Path) -> None:
    model = network(any_model)
    gradients: list[Sequence[torch.Tensor]] = []
    for checkpointed in (False, True):
        moved = {name: w.clone().requires_grad_() for name, w in model.weights.items()}
        again = Network(model.shape, moved, checkpointed=checkpointed)
        again.logits(again.hidden(torch.tensor([TOKENS]))).square().mean().backward()  # type: ignore[no-untyped-call]
        gradients.append([w.grad for w in moved.values() if w.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_an_adapter_is_the_sum_of_its_matrices(any_model: Path) -> None:
    model, generator = network(any_model), torch.Generator().manual_seed(1)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator).div(columns**0.5)

    names = [name for name, w in model.weights.items() if w.ndim == 2 and name.startswith("blk")]
    pairs = {n: (drawn(3, model.weights[n].shape[1]), drawn(model.weights[n].shape[0], 3)) for n in names}
    adapted = Network(model.shape, model.weights, Adapter(pairs, scale=0.5))
    merged = {**model.weights, **{n: model.weights[n] + 0.5 * b @ a for n, (a, b) in pairs.items()}}
    tokens = torch.tensor([TOKENS])
    z, plain = adapted.logits(adapted.hidden(tokens)), model.logits(model.hidden(tokens))
    whole = Network(model.shape, merged)
    torch.testing.assert_close(z, whole.logits(whole.hidden(tokens)), atol=2e-4, rtol=0)
    assert (z - plain).abs().max() > 0.1


@pytest.mark.slow
def test_smollm2_is_computed_as_llama_cpp_does() -> None:
    header = gguf.check(smollm2_file())
    found = parity.check(header, weights.read(header), TOKENS)
    assert found.exact < 1e-4 and found.divergence < 1e-2
