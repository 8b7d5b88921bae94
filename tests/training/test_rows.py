"""Tests of rows on disk: what is read is what was written, and an interrupted run keeps the rows that are whole."""

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eftlocal.errors import TrainingError
from eftlocal.training import rows as module
from eftlocal.training.devices import CPU
from eftlocal.training.losses import consistent
from eftlocal.training.rows import FILE, Rows, bytes_of, remove

DRAWN = np.random.default_rng(0).normal(0, 4, (2, 9, 50)).astype(np.float32)
TARGETS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5])
LOGS = torch.log_softmax(torch.from_numpy(DRAWN), -1)
ROW = 4 + 2 * 50  # bytes


def fixed(beta: float = 1.0) -> torch.Tensor:
    return LOGS[0] - beta * LOGS[1]


def written(folder: Path, n: int = 9, vocabulary: int = 50, beta: float = 1.0) -> Rows:
    made = Rows(folder, TARGETS, vocabulary, "a", beta)
    for at in range(made.have, n, 4):
        made.append(DRAWN[0, at : min(n, at + 4)], DRAWN[1, at : min(n, at + 4)])
    return made


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 tokens are a large vocabulary: a row has the 12 likeliest, and all rows the 4 that are trained most often."""
    for name, value in (("WHOLE", 10), ("KEPT", 12), ("SHARED", 4)):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_rows_are_what_base_and_reference_give_in_half_precision(tmp_path: Path, beta: float) -> None:
    found = written(tmp_path, beta=beta).added(2, 5, CPU)
    torch.testing.assert_close(found, fixed(beta)[2:7], rtol=1e-3, atol=1e-4)
    trained = np.arange(5), TARGETS[2:7]
    torch.testing.assert_close(found[trained], fixed(beta)[2:7][trained], rtol=1e-6, atol=1e-6)
    assert (tmp_path / FILE).stat().st_size == bytes_of(TARGETS, 50) == 9 * ROW


def losses(made: Rows, z: torch.Tensor, beta: float) -> tuple[NDArray[np.float64], torch.Tensor]:
    """Of rows on disk and of rows in memory: the loss, and its gradient."""
    found, gradients = [], []
    for added in (made.added(0, 9, CPU), fixed(beta)):
        mine = z.clone().requires_grad_()
        loss = consistent(mine, torch.from_numpy(TARGETS), added, beta)
        loss.backward()  # type: ignore[no-untyped-call]
        found.append(loss.item())
        assert mine.grad is not None
        gradients.append(mine.grad)
    return np.array(found), torch.stack(gradients)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_the_loss_of_stored_rows_is_that_of_rows_in_memory(tmp_path: Path, beta: float) -> None:
    z = torch.from_numpy(np.random.default_rng(1).normal(0, 4, (9, 50)).astype(np.float32))
    found, gradients = losses(written(tmp_path, beta=beta), z, beta)
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    torch.testing.assert_close(gradients[0], gradients[1], atol=5e-3, rtol=0)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_of_a_large_vocabulary_the_likeliest_and_the_trained_tokens_are_exact(
    tmp_path: Path, large: None, beta: float
) -> None:
    made = written(tmp_path, beta=beta)
    found, wanted = made.added(0, 9, CPU), fixed(beta)
    exact = (found - wanted).abs() < 1e-3 * wanted.abs() + 1e-4
    assert exact[:, [1, 5, 2, 3]].all(), "the four tokens that are trained most often, the lower first"
    assert exact[np.arange(9), TARGETS].all()
    likeliest = torch.maximum(LOGS[0], LOGS[1]).topk(12).indices
    assert exact.gather(1, likeliest).all()
    for row, known in zip(found, exact, strict=True):
        assert len(row[~known].unique()) == 1
    assert (tmp_path / FILE).stat().st_size == bytes_of(TARGETS, 50) == 9 * (4 + 2 * 4 + 4 + (2 + 2) * 12)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_all_other_tokens_have_the_bases_probability_while_tuned_is_the_reference(
    tmp_path: Path, large: None, beta: float
) -> None:
    found, _ = losses(written(tmp_path, beta=beta), LOGS[1], beta)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[1] == pytest.approx(-float(LOGS[0][np.arange(9), TARGETS].sum()), rel=1e-4)


def test_more_rows_of_a_vocabulary_than_are_shared_are_cut(tmp_path: Path) -> None:
    made = written(tmp_path, vocabulary=40)
    logs = torch.log_softmax(torch.from_numpy(DRAWN[:, :, :40]), -1)
    torch.testing.assert_close(made.added(0, 9, CPU), logs[0] - logs[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cut", [0, 1, ROW - 1, ROW, 3 * ROW + 7])
def test_what_is_whole_is_kept_after_an_interruption(tmp_path: Path, cut: int) -> None:
    written(tmp_path, n=7)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[: 7 * ROW - cut])
    assert Rows(tmp_path, TARGETS, 50, "a", 1.0).have == (7 * ROW - cut) // ROW
    torch.testing.assert_close(written(tmp_path).added(0, 9, CPU), fixed(), rtol=1e-3, atol=1e-4)


def test_rows_of_something_else_are_dropped(tmp_path: Path) -> None:
    written(tmp_path)
    assert Rows(tmp_path, TARGETS, 50, "a", 1.0).have == 9
    for targets, identity, beta in ((TARGETS, "b", 1.0), (TARGETS, "a", 0.5), (TARGETS[::-1].copy(), "a", 1.0)):
        assert Rows(tmp_path, targets, 50, identity, beta).have == 0
        written(tmp_path)
    (tmp_path / "rows.json").write_text("[")
    assert Rows(tmp_path, TARGETS, 50, "a", 1.0).have == 0


def test_rows_that_are_not_finite_are_told(tmp_path: Path) -> None:
    made = Rows(tmp_path, TARGETS, 50, "a", 1.0)
    wrong = DRAWN[0].copy()
    wrong[3, 3] = np.nan
    with pytest.raises(TrainingError, match="The reference gave logits that are not finite"):
        made.append(DRAWN[0], wrong)
    assert made.have == 0 and Rows(tmp_path, TARGETS, 50, "a", 1.0).have == 0


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file")
    with pytest.raises(TrainingError, match=r"could not be written: .*\nIt takes 0 MB"):
        Rows(tmp_path / "rows", TARGETS, 50, "a", 1.0)


def test_a_disk_without_room_is_told_before_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, n=7)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2 * ROW))
    assert Rows(tmp_path, TARGETS, 50, "a", 1.0).have == 7
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2 * ROW - 1))
    with pytest.raises(TrainingError, match="takes 0 MB, and 0 MB are free"):
        Rows(tmp_path, TARGETS, 50, "a", 1.0)


def test_removed_rows_leave_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove(tmp_path / "nowhere")
