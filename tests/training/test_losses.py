"""Tests of losses: each is its definition in double precision, and a batch's is the sum of its examples'."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eftlocal.training.examples import NOTHING, Example
from eftlocal.training.losses import consistent, preferred, supervised
from eftlocal.training.network import Network
from eftlocal.training.objectives import Consistent, Objective, Preferences, Supervised, logprobs_of
from eftlocal.training.trainer import mean_loss, parts
from tests.families import write_model
from tests.training.test_network import network

GENERATOR = np.random.default_rng(0)


def log_softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def rows(n: int = 6, vocabulary: int = 17) -> torch.Tensor:
    return torch.from_numpy(GENERATOR.normal(0, 3, (n, vocabulary)))


def example(*lengths: int) -> Example:
    """A row with answers of these lengths, each after three tokens that are not trained."""
    targets: list[int] = []
    for length in lengths:
        targets += [NOTHING] * 3 + GENERATOR.integers(0, 256, length).tolist()
    return Example(GENERATOR.integers(0, 256, len(targets)).astype(np.int32), np.array(targets, np.int32))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, -1.5])
def test_the_consistent_loss_is_the_emulators_cross_entropy(beta: float) -> None:
    z, base, reference = rows(), rows(), rows()
    targets = torch.from_numpy(GENERATOR.integers(0, 17, 6))
    logs = [log_softmax(each.numpy()) for each in (z, base, reference)]
    whole = logs[1] + beta * (logs[0] - logs[2])  # log p_base + beta (log p_tuned - log p_reference) - log Z
    wanted = -log_softmax(whole)[np.arange(6), targets.numpy()].sum()
    assert float(consistent(z, targets, base - beta * reference, beta)) == pytest.approx(wanted)
    # No row's level counts, so rows may be stored as log-probabilities.
    shifted = consistent(z + 3, targets, torch.log_softmax(base, -1) - beta * (reference - 7), beta)
    assert float(shifted) == pytest.approx(wanted)


def test_padding_that_one_model_has_does_not_count() -> None:
    z, fixed = rows(vocabulary=20), rows(vocabulary=17)
    targets = torch.from_numpy(GENERATOR.integers(0, 17, 6))
    cut = consistent(z[:, :17], targets, fixed, 0.5)
    assert float(consistent(z, targets, fixed, 0.5)) == pytest.approx(float(cut))


def test_with_the_reference_as_base_and_beta_1_it_is_supervised_training() -> None:
    z, base = rows(), rows()
    targets = torch.from_numpy(GENERATOR.integers(0, 17, 6))
    assert float(consistent(z, targets, base - base, 1.0)) == pytest.approx(float(supervised(z, targets)))


def test_preferences_are_dpos_loss() -> None:
    after, before = GENERATOR.normal(-20, 5, (2, 4)), GENERATOR.normal(-20, 5, (2, 4))
    margins = (after[0] - before[0]) - (after[1] - before[1])
    wanted = -np.log(1 / (1 + np.exp(-0.1 * margins))).sum()
    chosen, rejected, chosen_before, rejected_before = (torch.from_numpy(each) for each in (*after, *before))
    assert float(preferred(chosen, rejected, chosen_before, rejected_before, 0.1)) == pytest.approx(wanted)


# --- objectives -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return network(write_model(tmp_path_factory.mktemp("model") / "model.gguf", seed=1), torch.float64)


class Stored:
    """Rows in memory."""

    def __init__(self, base: torch.Tensor, reference: torch.Tensor, beta: float) -> None:
        self.both, self.beta = (base, reference), beta

    def rows(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        base, reference = (each[first : first + count] for each in self.both)
        return base, reference

    def added(self, first: int, count: int, device: torch.device) -> torch.Tensor:
        base, reference = self.rows(first, count)
        return (base - self.beta * reference).to(device)


def slowly(model: Network, one: Example, *, beta: float = 1.0, fixed: Sequence[torch.Tensor] | None = None) -> float:
    """The loss of one example, token by token, each after a run of its own over all that comes before."""
    total, n = 0.0, 0
    for at, target in enumerate(one.targets.tolist()):
        if target == NOTHING:
            continue
        z = model.logits(model.hidden(torch.tensor([one.tokens[: at + 1].tolist()])))[0, -1].detach()
        if fixed is not None:
            z = fixed[0][n] + beta * (z - fixed[1][n])
        total -= float(torch.log_softmax(z, -1)[target])
        n += 1
    return total


def test_a_batch_is_the_sum_of_its_examples_token_by_token(model: Network) -> None:
    examples = [example(3), example(1, 4), example(2), example(5, 2, 1)]
    objective = Supervised(examples)
    assert [objective.weight(i) for i in range(4)] == [3, 5, 2, 8]
    wanted = [slowly(model, one) for one in examples]
    assert float(objective.total(model, [2, 0, 3])) == pytest.approx(wanted[2] + wanted[0] + wanted[3], rel=1e-6)
    assert mean_loss(model, objective) == pytest.approx(sum(wanted) / 18, rel=1e-6)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_stored_rows_belong_to_their_tokens(model: Network, beta: float) -> None:
    examples = [example(3), example(1, 4), example(2)]
    stored = Stored(rows(10, 316), rows(10, 316), beta)
    objective = Consistent(examples, stored, beta, starts=[0, 3, 8])
    wanted = [
        slowly(model, one, beta=beta, fixed=stored.rows(start, one.trained))
        for one, start in zip(examples, [0, 3, 8], strict=True)
    ]
    assert float(objective.total(model, [2, 1])) == pytest.approx(wanted[2] + wanted[1], rel=1e-6)


def test_pairs_keep_their_sides(model: Network) -> None:
    pairs = [(example(3), example(2)), (example(1), example(4)), (example(2), example(2))]
    before = torch.from_numpy(GENERATOR.normal(-20, 5, (3, 2)))
    objective = Preferences(pairs, before, beta=0.1, likelihood=0.3)
    wanted = 0.0
    for item in (2, 0):
        chosen, rejected = (-slowly(model, side) for side in pairs[item])
        margin = (chosen - float(before[item, 0])) - (rejected - float(before[item, 1]))
        wanted += float(np.log1p(np.exp(-0.1 * margin))) - 0.3 * chosen / pairs[item][0].trained
    assert float(objective.total(model, [2, 0])) == pytest.approx(wanted, rel=1e-5)
    assert logprobs_of(model, [pairs[1][0]]).tolist() == pytest.approx([-slowly(model, pairs[1][0])], rel=1e-6)


def test_gradients_of_each_objective_are_those_of_finite_differences(model: Network) -> None:
    examples = [example(3), example(1, 4), example(2), example(4)]
    objectives: list[Objective] = [
        Supervised(examples),
        Consistent(examples, Stored(rows(14, 316), rows(14, 316), 0.7), 0.7, starts=[0, 3, 8, 10]),
        Preferences([(examples[0], examples[1]), (examples[2], examples[3])], rows(2, 2), beta=0.5, likelihood=0.2),
    ]
    name = "blk.0.ffn_up.weight"
    for objective in objectives:
        weight = model.weights[name].clone().requires_grad_()
        objective.total(Network(model.shape, {**model.weights, name: weight}), [0, 1]).backward()  # type: ignore[no-untyped-call]
        direction = torch.from_numpy(GENERATOR.normal(0, 1, weight.shape)) * 1e-6
        losses = []
        for sign in (1, -1):
            moved = {**model.weights, name: weight.detach() + sign * direction}
            losses.append(float(objective.total(Network(model.shape, moved), [0, 1])))
        assert weight.grad is not None
        slope = float((weight.grad * direction).sum())
        assert (losses[0] - losses[1]) / 2 == pytest.approx(slope, rel=1e-4), type(objective).__name__


def test_parts_hold_all_items_once_and_stay_small(model: Network) -> None:
    objective = Supervised([example(n) for n in (1000, 900, 1, 2, 3000, 5)])
    found = list(parts(objective, [3, 0, 1, 2, 4, 5], 2048))
    assert found == [[3, 0], [1, 2], [4], [5]]  # 1,003 tokens twice are fewer than 2,048, and three times more
    assert list(parts(objective, [], 2048)) == []
