"""Tests of what can be trained: a model with anything that our computation does not know is refused, by name."""

from pathlib import Path

import gguf as writer_of
import numpy as np
import pytest

from eftlocal.errors import TrainingError
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf_write import Key, NewTensor, keys_of, write
from eftlocal.training import weights
from eftlocal.training.shape import shape_of
from tests.families import Family, write_model
from tests.training.conftest import KINDS


def altered(path: Path, keys: dict[str, Key] | None = None, drop: str = "", add: str = "") -> Path:
    """The model at `path` with other keys, without one tensor, or with one more."""
    header = gguf.check(path)
    tensors = {name: matrix for name, matrix in weights.read(header).items() if name != drop}
    if add:
        tensors[add] = np.ones((4, 4), np.float32)
    target = path.with_name("altered.gguf")
    write(target, {**keys_of(header), **(keys or {})}, [NewTensor.of(n, m) for n, m in tensors.items()])
    return target


def test_the_shape_is_what_the_file_says(tmp_path: Path) -> None:
    made = shape_of(gguf.check(KINDS["gemma3"](tmp_path / "model.gguf")))
    assert (made.layers, made.width, made.heads, made.kv_heads, made.head) == (7, 32, 4, 2, 8)
    assert made.windowed == (True,) * 5 + (False, True) and made.window == 8
    assert made.gelu and made.embedding_scale == pytest.approx(32**0.5)
    with_scaling = {"llama.rope.scaling.type": Key("string", "linear"), "llama.rope.scaling.factor": Key("f32", 4.0)}
    llama = altered(write_model(tmp_path / "llama.gguf", seed=1), with_scaling)
    assert shape_of(gguf.check(llama)).scales == (0.25, 0.25)


def test_another_architecture_is_refused(family: Family) -> None:
    with pytest.raises(TrainingError, match="is a mamba model, which cannot be trained; models of the architectures"):
        shape_of(gguf.check(family.recurrent))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add": "blk.0.ffn_gate_inp.weight"}, "has experts, which our training does not know"),
        ({"add": "blk.1.attn_q_norm.weight"}, r"has blk.1.attn_q_norm.weight, which our"),
        ({"drop": "blk.1.ffn_up.weight"}, "blk.1.ffn_up.weight is missing"),
        ({"keys": {"llama.rope.scaling.type": Key("string", "yarn")}}, "RoPE scaling of the type yarn"),
        ({"keys": {"llama.rope.dimension_count": Key("u32", 8)}}, "rope.dimension_count is 8, expected 16"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = altered(write_model(tmp_path / "model.gguf", seed=1), **changes)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=message):
        shape_of(gguf.read(path))


def test_a_type_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = gguf.check(write_model(tmp_path / "model.gguf", seed=1))
    monkeypatch.delitem(writer_of.quants._type_traits, writer_of.GGMLQuantizationType.F32, raising=False)

    def unknown(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(writer_of.quants, "dequantize", unknown)
    with pytest.raises(TrainingError, match=r"is of type F32, which cannot be read\nUse another file"):
        weights.read(header)
