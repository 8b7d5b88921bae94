"""Tests of the comparison with llama.cpp: what is right passes, for each type, and every kind of mistake is noticed."""

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch

from eftlocal.errors import TrainingError
from eftlocal.runtime import gguf
from eftlocal.training import parity, shape, weights
from eftlocal.training.network import Network
from tests.families import quantized, write_model
from tests.training.conftest import KINDS

TOKENS = np.random.default_rng(0).integers(0, 256, 100).tolist()
TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q6_K", "Q3_K_M", "Q2_K", "IQ4_NL", "IQ4_XS")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are long enough for every type."""
    return write_model(tmp_path_factory.mktemp("wide") / "wide.gguf", seed=1, d_model=256)


def checked(path: Path) -> parity.Parity:
    header = gguf.check(path)
    return parity.check(header, weights.read(header), TOKENS)


def test_each_architecture_is_llama_cpps(any_model: Path) -> None:
    found = checked(any_model)
    assert found.exact < 1e-2 and found.divergence < 1e-5


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_of_weights_is_read_as_llama_cpp_reads_it(wide: Path, tmp_path: Path, kind: str) -> None:
    path = quantized(wide, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), tmp_path / f"{kind}.gguf")
    found = checked(path)
    assert found.exact < 1e-3 and found.divergence < parity.LOOSE.get(kind, parity.LOOSE_QUANTIZED) / 4


def test_llama_cpp_converts_a_quantized_file_to_our_numbers(wide: Path, tmp_path: Path) -> None:
    small = quantized(wide, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, tmp_path / "q4.gguf")
    whole = quantized(small, llama_cpp.LLAMA_FTYPE_ALL_F32, tmp_path / "f32.gguf")
    ours, theirs = weights.read(gguf.check(small)), weights.read(gguf.check(whole))
    assert {tensor.type for tensor in gguf.check(small).tensors} >= {"Q4_K", "Q6_K"}
    assert ours.keys() == theirs.keys()
    for name, matrix in ours.items():
        np.testing.assert_array_equal(matrix, theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("llama", "ARCHITECTURES", {"llama": "halves"}),
        ("qwen3", "ARCHITECTURES", {"qwen3": "neighbours"}),
        ("gemma3", "GEMMA_WINDOWED", 5),
        ("gemma3", "LOCAL_ROPE_BASE", 9_000.0),
    ],
)
def test_a_wrong_constant_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, name: str, value: object
) -> None:
    monkeypatch.setattr(shape, name, value)
    with pytest.raises(TrainingError, match=r"not llama\.cpp's: logits of its first layers"):
        checked(KINDS[kind](tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("llama 3.1", "rope_freqs.weight"), ("qwen2", "blk.1.attn_q.bias"), ("qwen3", "blk.1.attn_k_norm.weight")],
)
def test_a_tensor_that_is_not_used_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, tensor: str
) -> None:
    def without(shape: shape.Shape, matrices: dict[str, weights.Matrix], device: torch.device) -> Network:
        return made(shape, {name: matrix for name, matrix in matrices.items() if name != tensor}, device)

    made = Network.of
    monkeypatch.setattr(Network, "of", without)
    with pytest.raises(TrainingError, match=r"not llama\.cpp's"):
        checked(KINDS[kind](tmp_path / "model.gguf"))


def test_wrong_values_in_a_late_layer_are_noticed_on_the_file_itself(tmp_path: Path) -> None:
    header = gguf.check(write_model(tmp_path / "deep.gguf", seed=1, n_layers=4))
    read = weights.read(header)
    read["blk.3.attn_v.weight"] = 1.3 * read["blk.3.attn_v.weight"]
    with pytest.raises(TrainingError, match="mean divergence"):
        parity.check(header, read, TOKENS)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parity, "write", full)
    with pytest.raises(TrainingError, match=r"No space left on device.\nSet TMPDIR"):
        checked(write_model(tmp_path / "model.gguf", seed=1))
