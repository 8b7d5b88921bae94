"""Tests of what is written: llama.cpp computes with it what our network computed, and nothing else has changed."""

from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch

from eftlocal.errors import TrainingError
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf_header import Header
from eftlocal.training import output, parity, weights
from eftlocal.training.network import Network
from eftlocal.training.shape import shape_of
from eftlocal.training.tunable import Tunable, adapted, copied, pairs_of
from tests.families import quantized, write_model
from tests.training.test_parity import TOKENS, wide

__all__ = ["wide"]

RECORD = {"data": "abc", "settings": '{"lr": 0.001}'}


def tensors(header: Header) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(matrix) for name, matrix in weights.read(header).items()}


def moved(tunable: Tunable, by: float) -> dict[str, torch.Tensor]:
    """Parameters as if they had been trained."""
    generator = torch.Generator().manual_seed(3)
    return {n: p.detach() + by * torch.randn(p.shape, generator=generator) for n, p in tunable.parameters.items()}


def ours(network: Network) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(network.logits(network.hidden(torch.tensor([TOKENS])))[0].numpy())


def test_llama_cpp_applies_an_adapter_as_our_network_does(any_model: Path, tmp_path: Path) -> None:
    header = gguf.check(any_model)
    tunable = adapted(shape_of(header), tensors(header), rank=3, alpha=6.0, seed=0)
    np.testing.assert_array_equal(ours(tunable.network(tunable.parameters)), ours(copied_network(header)))  # B is 0
    network = tunable.network(values := moved(tunable, 0.1))
    path = tmp_path / "adapter.gguf"
    output.write_adapter(path, header, network.adapter, name="mine", record=RECORD)
    gguf.check_lora(path)
    z, plain = parity.llama_cpps(header, TOKENS, lora=path), parity.llama_cpps(header, TOKENS)
    assert np.abs(z - plain).max() > 0.3
    np.testing.assert_allclose(z, ours(network), atol=2e-2 if header.architecture == "gemma3" else 5e-4)
    assert len(pairs_of(values)) == 7 * shape_of(header).layers


def copied_network(header: Header) -> Network:
    return Network(shape_of(header), tensors(header))


@pytest.mark.parametrize("kind", ["F32", "Q4_1"])
def test_llama_cpp_computes_a_written_model_as_our_network_does(wide: Path, tmp_path: Path, kind: str) -> None:
    source = wide if kind == "F32" else quantized(wide, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1, tmp_path / "q4.gguf")
    header = gguf.check(source)
    tunable = copied(shape_of(header), tensors(header))
    values = moved(tunable, 0.01)
    path = tmp_path / "tuned.gguf"
    del values["token_embd.weight"]  # what is not given is copied as it is
    output.write_model(path, header, values, kind="f16", name="mine", record=RECORD)
    written = gguf.check(path)
    types = {tensor.name: tensor.type for tensor in written.tensors}
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.attn_norm.weight"] == "F32"
    assert types["token_embd.weight"] == kind and types["output.weight"] == "F16"
    found = parity.check(written, weights.read(written), TOKENS)
    np.testing.assert_allclose(
        parity.ours(written, weights.read(written), TOKENS), ours(tunable.network(values)), atol=0.05
    )
    assert found.divergence < 0.01


@pytest.mark.parametrize(
    ("kind", "matrix", "near"),
    [("f32", "F32", 1e-4), ("f16", "F16", 0.01), ("bf16", "BF16", 0.06), ("q8_0", "Q8_0", 0.2), ("q6_k", "Q6_K", 0.5),
     ("q4_k_m", "Q4_K", 1.5), ("q4_0", "Q4_0", 1.5)],
)  # fmt: skip
def test_each_type_is_written_and_loads(
    wide: Path, tmp_path: Path, kind: output.Kind, matrix: str, near: float
) -> None:
    header = gguf.check(wide)
    tunable = copied(shape_of(header), tensors(header))
    values = moved(tunable, 0.01)
    path = tmp_path / "out" / "tuned.gguf"
    path.parent.mkdir()
    output.write_model(path, header, values, kind=kind, name="mine", record=RECORD)
    assert [file.name for file in path.parent.iterdir()] == ["tuned.gguf"]  # nothing half is left beside it
    written = gguf.check(path)
    types = {tensor.name: tensor.type for tensor in written.tensors}
    assert types["blk.0.attn_q.weight"] == matrix and types["blk.0.attn_norm.weight"] == "F32"
    assert written.text("eftlocal.tune.settings") == '{"lr": 0.001}'
    z = parity.llama_cpps(written, TOKENS)
    assert np.abs(z - ours(tunable.network(values))).mean() < near
    first = path.read_bytes()
    output.write_model(path, header, values, kind=kind, name="mine", record=RECORD)
    assert path.read_bytes() == first


def test_a_model_is_written_in_its_references_type_but_not_in_fewer_than_eight_bits(wide: Path, tmp_path: Path) -> None:
    assert output.kind_of(gguf.check(wide)) == "f32"
    for ftype, kind in ((llama_cpp.LLAMA_FTYPE_MOSTLY_F16, "f16"), (llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, "q8_0")):
        assert output.kind_of(gguf.check(quantized(wide, ftype, tmp_path / f"{ftype}.gguf"))) == kind


def test_a_written_model_keeps_its_tokenizer_and_template_and_says_how_it_was_made(wide: Path, tmp_path: Path) -> None:
    header = gguf.check(wide)
    tunable = copied(shape_of(header), tensors(header))
    path = tmp_path / "tuned.gguf"
    output.write_model(path, header, tunable.parameters, kind="q8_0", name="mine", record=RECORD)
    written = gguf.check(path)
    changed = {"general.name", "general.file_type", "eftlocal.tune.data", "eftlocal.tune.settings"}
    for key, value in header.metadata.items():
        if key not in changed and isinstance(value, str | int | float):
            assert written.metadata[key] == value
    assert written.array("tokenizer.ggml.tokens").raw == header.array("tokenizer.ggml.tokens").raw  # type: ignore[union-attr]
    assert written.text("general.name") == "mine" and written.text("eftlocal.tune.settings") == '{"lr": 0.001}'


def test_a_value_beyond_half_precision_is_kept_whole(wide: Path, tmp_path: Path) -> None:
    header = gguf.check(wide)
    large = torch.full((512, 256), 1e6)
    changed = {"blk.0.ffn_up.weight": large}
    output.write_model(tmp_path / "x.gguf", header, changed, kind="f16", name="x", record={})
    written = gguf.check(tmp_path / "x.gguf")
    assert weights.read(written, ["blk.0.ffn_up.weight"])["blk.0.ffn_up.weight"].max() == 1e6


def test_all_tensors_are_trained_but_the_factors_of_rope(tmp_path: Path) -> None:
    header = gguf.check(write_model(tmp_path / "model.gguf", seed=2, rope_factors=True, tied=True))
    parameters = copied(shape_of(header), tensors(header)).parameters
    assert {t.name for t in header.tensors} - parameters.keys() == {"rope_freqs.weight"}
    assert all(p.requires_grad for p in parameters.values())


def test_a_disk_that_is_full_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = gguf.check(write_model(tmp_path / "model.gguf", seed=1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "write", full)
    with pytest.raises(TrainingError, match=r"tuned\.gguf: could not be written: No space left on device"):
        output.write_model(tmp_path / "tuned.gguf", header, {}, kind="f16", name="x", record={})
