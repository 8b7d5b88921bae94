"""Tests of the choice of bfloat16: by a measurement alone, and what it changes is small."""

import pytest
import torch

from eftlocal.training import precision
from eftlocal.training.network import Network
from eftlocal.training.objectives import Supervised
from eftlocal.training.precision import Precision, choose, measured
from eftlocal.training.tunable import Tunable, adapted, copied
from tests.families import Family
from tests.training.test_losses import example
from tests.training.test_network import network


@pytest.fixture
def model(family: Family, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(precision, "LEAST", 1)
    return network(family.reference, torch.float32)


@pytest.mark.parametrize(("whole", "half", "chosen"), [(3.0, 1.0, True), (1.1, 1.0, False), (1.0, 7.0, False)])
def test_bfloat16_is_taken_where_it_is_clearly_faster(model: Network, whole: float, half: float, chosen: bool) -> None:
    seen: list[bool] = []

    def seconds(layer: Network) -> float:
        seen.append(layer.half)
        slow = 9.0 if len(seen) <= 2 else 1.0  # the first time of each does not count
        return slow * (half if layer.half else whole)

    found = choose(model, seconds)
    assert found == Precision(chosen, whole / half)
    assert seen == [False, True] * (len(seen) // 2) and len(seen) > 4
    assert ("in bfloat16" in str(found)) is chosen


def test_one_layer_is_measured_and_the_model_stays_as_it_is(model: Network) -> None:
    before = {name: weight.clone() for name, weight in model.weights.items()}
    found = choose(model, measured)
    assert found.speedup is not None and 0 < found.speedup < 1000
    for name, weight in model.weights.items():
        assert torch.equal(weight, before[name]) and weight.grad is None and not weight.requires_grad


@pytest.mark.parametrize("method", ["lora", "full"])
def test_in_bfloat16_loss_and_gradient_are_nearly_those_of_float32(model: Network, method: str) -> None:
    """Logits and all that is trained are float32; a product of bfloat16 is exact to three digits."""

    def made(half: bool) -> Tunable:
        if method == "full":
            return copied(model.shape, model.weights, half=half)
        return adapted(model.shape, model.weights, rank=4, alpha=8, seed=0, half=half)

    objective = Supervised([example(20), example(30)])
    losses, gradients = [], []
    for half in (False, True):
        tunable = made(half)
        values = tunable.parameters
        with torch.no_grad():  # else all gradients of A are 0
            for i, (name, value) in enumerate(sorted(values.items())):
                if name.endswith(".lora_b"):
                    value.normal_(0, 0.1, generator=torch.Generator().manual_seed(i))
        built = tunable.network(values)
        assert built.half is half and built.logits(built.hidden(torch.zeros(1, 2).long())).dtype == torch.float32
        loss = objective.total(built, [0, 1])
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        assert all(p.dtype == torch.float32 and p.grad is not None for p in values.values())
        gradients.append(torch.cat([p.grad.flatten() for p in values.values() if p.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=5e-3) and losses[1] != losses[0]
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.05


def test_a_tiny_model_is_computed_in_float32_without_a_measurement(family: Family) -> None:
    found = choose(network(family.reference), lambda layer: 1 / 0)
    assert found == Precision(False, None) and str(found) == "all in float32"
