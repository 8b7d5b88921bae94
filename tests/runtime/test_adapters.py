"""Adapters: what llama.cpp uses of them is told as it is, and what would end the process is refused before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf as writer
import numpy as np
import pytest
from numpy.typing import NDArray

from eftlocal.apps.store.show import show
from eftlocal.catalog import models as catalog
from eftlocal.errors import ModelFileError
from eftlocal.runtime import gguf
from eftlocal.runtime.adapters import must_fit, unused
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from tests.builders import load, write_catalog
from tests.families import Family, write_model

Tensors = Mapping[str, NDArray[np.float32]]
RANDOM = np.random.default_rng(5)


def pair(name: str, *shape: int) -> dict[str, NDArray[np.float32]]:
    """The two parts of an adapter for a matrix of (outputs, inputs), or for a vector."""
    outputs, inputs = shape if len(shape) == 2 else (1, *shape)
    a, b = RANDOM.normal(0, 1, (2, inputs)), RANDOM.normal(0, 1, (outputs, 2))
    return {f"{name}.lora_a": a.astype(np.float32), f"{name}.lora_b": b.astype(np.float32)}


def write(path: Path, tensors: Tensors, architecture: str = "llama") -> Path:
    file = writer.GGUFWriter(path, architecture)
    file.add_type(writer.GGUFType.ADAPTER)
    file.add_string(writer.Keys.Adapter.TYPE, "lora")
    file.add_float32(writer.Keys.Adapter.LORA_ALPHA, 4.0)
    for name, tensor in tensors.items():
        file.add_tensor(name, tensor)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def logits(model: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    made = Model(gguf.check(model))
    context = Context(made, n_ctx=32, n_threads=1, lora=None if adapter is None else (adapter, 1.0), kv_type="f32")
    rows = np.array(context.feed([Feed(0, [1, 2, 3], 1)]))
    context.close()
    made.close()
    return rows


@pytest.mark.parametrize("architecture", ["llama", "mamba", "gemma3"])
def test_a_tensor_is_unused_exactly_if_an_adapter_for_it_changes_no_logit(tmp_path: Path, architecture: str) -> None:
    model = write_model(tmp_path / "model.gguf", seed=1, n_layers=1, architecture=architecture)
    header, plain = gguf.check(model), logits(model)
    matrix = "blk.0.ssm_in.weight" if architecture == "mamba" else "blk.0.attn_q.weight"
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight":  # its pair stands the other way round
            continue
        shape = tuple(reversed(tensor.shape)) if len(tensor.shape) == 2 else tensor.shape
        adapter = write(tmp_path / "lora.gguf", pair(tensor.name, *shape), architecture)
        ignored = bool(unused(gguf.check_lora(adapter), header))
        assert np.array_equal(logits(model, adapter), plain) == ignored, tensor.name
    whole = {"blk.0.attn_norm.weight": np.ones(64, np.float32)}
    shapes = {tensor.name: tuple(reversed(tensor.shape)) for tensor in header.tensors}
    adapter = write(tmp_path / "lora.gguf", {**pair(matrix, *shapes[matrix]), **whole}, architecture)
    assert unused(gguf.check_lora(adapter), header) == ["blk.0.attn_norm.weight"]
    assert not np.array_equal(logits(model, adapter), plain)


def test_an_adapter_of_another_model_is_refused_before_anything_loads(family: Family, tmp_path: Path) -> None:
    adapter = write(tmp_path / "lora.gguf", {**pair("blk.9.attn_q.weight", 64, 64), **pair("blk.9.x", 64, 64)})
    with pytest.raises(ModelFileError, match=r"does not have blk\.9\.attn_q\.weight and 1 more"):
        must_fit(gguf.check_lora(adapter), gguf.check(family.reference))
    must_fit(gguf.check_lora(family.lora), gguf.check(family.reference))


def test_an_adapter_of_an_embedding_that_is_the_output_too_is_refused(tmp_path: Path) -> None:
    # llama.cpp ends the process: GGML_ASSERT(ggml_can_mul_mat(a, b)).
    untied = gguf.check(write_model(tmp_path / "model.gguf", seed=1))
    tied = type(untied)(**{f: getattr(untied, f) for f in untied.__slots__} | {
        "tensors": tuple(t for t in untied.tensors if t.name != "output.weight")
    })  # fmt: skip
    adapter = gguf.check_lora(write(tmp_path / "lora.gguf", pair("token_embd.weight", 2, 64)))
    must_fit(adapter, untied)
    with pytest.raises(ModelFileError, match=r"token embedding of model\.gguf, which is its output, too:"):
        must_fit(adapter, tied)


def test_what_is_not_used_of_an_adapter_is_told_at_load_and_by_show(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "blk.1.attn_norm.weight", "output_norm.weight")
    tensors = {**pair("blk.0.attn_q.weight", 64, 64), **{k: v for name in names for k, v in pair(name, 64).items()}}
    adapter = write(tmp_path / "part.gguf", tensors)
    models: dict[str, Path | Mapping[str, Any]] = {
        "base": family.base,
        "tuned": {"path": str(family.reference), "lora": {"path": str(adapter)}},
        "reference": family.reference,
    }
    note = (
        "part.gguf, the adapter of tuned, works only in part: llama.cpp does not apply what it changes in "
        "blk.0.attn_norm.weight, blk.0.ffn_norm.weight, blk.1.attn_norm.weight and 1 more."
    )
    with load(tmp_path, models) as made:
        assert made.notes == (note,)
    rewards = [{"tuned": "tuned", "reference": "reference"}]
    views = dict.fromkeys(("base", "tuned", "reference"), "raw")
    path = write_catalog(tmp_path, models, base="base", rewards=rewards, views=views)
    assert show(catalog.load(path), "e", as_json=False) == 0
    assert f"note: {note}\n" in capsys.readouterr().out
    assert show(catalog.load(path), "e", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [note]
    models["tuned"] = {"path": str(family.reference), "lora": {"path": str(family.lora)}}
    with load(tmp_path, models) as made:
        assert made.notes == ()
