"""Tests of rows on disk: what is read is what was written, and an interrupted run keeps the rows that are whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from eftlocal.errors import TrainingError
from eftlocal.training.losses import consistent
from eftlocal.training.rows import FILES, Rows, bytes_of, remove

DRAWN = np.random.default_rng(0).normal(0, 4, (2, 9, 50)).astype(np.float32)
WANTED = torch.log_softmax(torch.from_numpy(DRAWN), -1)


def written(folder: Path, n: int = 9, vocabulary: int = 50) -> Rows:
    made = Rows(folder, 9, vocabulary, "a")
    for at in range(made.have, n, 4):
        made.append(DRAWN[0, at : min(n, at + 4)], DRAWN[1, at : min(n, at + 4)])
    return made


def test_rows_are_log_probabilities_in_half_precision(tmp_path: Path) -> None:
    made = written(tmp_path)
    base, reference = made.rows(2, 5)
    torch.testing.assert_close(base, WANTED[0, 2:7], rtol=1e-3, atol=0)
    torch.testing.assert_close(reference, WANTED[1, 2:7], rtol=1e-3, atol=0)
    assert sum((tmp_path / name).stat().st_size for name in FILES) == bytes_of(9, 50) == 1800


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_the_loss_of_stored_rows_is_that_of_rows_in_memory(tmp_path: Path, beta: float) -> None:
    made = written(tmp_path)
    z = torch.from_numpy(np.random.default_rng(1).normal(0, 4, (9, 50)).astype(np.float32)).requires_grad_()
    targets = torch.arange(9)
    losses: list[float] = []
    gradients: list[torch.Tensor] = []
    for base, reference in (made.rows(0, 9), (torch.from_numpy(DRAWN[0]), torch.from_numpy(DRAWN[1]))):
        z.grad = None
        loss = consistent(z, targets, base, reference, beta)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        assert z.grad is not None
        gradients.append(z.grad.clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    torch.testing.assert_close(gradients[0], gradients[1], atol=5e-3, rtol=0)


def test_more_rows_of_a_vocabulary_than_are_shared_are_cut(tmp_path: Path) -> None:
    made = written(tmp_path, vocabulary=40)
    torch.testing.assert_close(
        made.rows(0, 9)[0], torch.log_softmax(torch.from_numpy(DRAWN[0, :, :40]), -1), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("cut", [0, 1, 99, 100, 350])
def test_what_is_whole_is_kept_after_an_interruption(tmp_path: Path, cut: int) -> None:
    written(tmp_path, n=7)
    for name, more in ((FILES[0], 0), (FILES[1], cut)):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: 700 - more])
    made = Rows(tmp_path, 9, 50, "a")
    assert made.have == (700 - cut) // 100
    made = written(tmp_path)
    torch.testing.assert_close(made.rows(0, 9)[1], WANTED[1], rtol=1e-3, atol=0)


def test_rows_of_something_else_are_dropped(tmp_path: Path) -> None:
    written(tmp_path)
    assert Rows(tmp_path, 9, 50, "a").have == 9
    assert Rows(tmp_path, 9, 50, "b").have == 0
    written(tmp_path)
    (tmp_path / "rows.json").write_text("[")
    assert Rows(tmp_path, 9, 50, "a").have == 0


def test_rows_that_are_not_finite_are_told(tmp_path: Path) -> None:
    made = Rows(tmp_path, 9, 50, "a")
    wrong = DRAWN[0].copy()
    wrong[3, 3] = np.nan
    with pytest.raises(TrainingError, match="The reference gave logits that are not finite"):
        made.append(DRAWN[0], wrong)
    assert made.have == 0 and Rows(tmp_path, 9, 50, "a").have == 0


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows").write_text("a file")
    with pytest.raises(TrainingError, match=r"could not be written: .*\nThey take 1 MB"):
        Rows(tmp_path / "rows", 9, 50, "a")


def test_removed_rows_leave_nothing(tmp_path: Path) -> None:
    written(tmp_path)
    remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove(tmp_path / "nowhere")
