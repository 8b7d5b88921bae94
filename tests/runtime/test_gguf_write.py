"""Tests of writing GGUF files: the gguf package and llama.cpp read what was written, and a failure leaves nothing."""

from pathlib import Path

import gguf as package
import numpy as np
import pytest

from eftlocal.runtime import gguf
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_write import Key, NewTensor, keys_of, write
from eftlocal.runtime.llama.model import Model
from tests.families import Family


def tensors_of(path: Path) -> list[NewTensor]:
    return [NewTensor.of(t.name, np.array(t.data, np.float32)) for t in package.GGUFReader(path).tensors]


def test_a_copy_has_the_same_keys_types_and_tensors(family: Family, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    write(copy, keys_of(gguf.check(family.padded)), tensors_of(family.padded))
    one, other = (package.GGUFReader(path) for path in (family.padded, copy))
    fields = [{n: (f.types, f.contents()) for n, f in r.fields.items() if n[:5] != "GGUF."} for r in (one, other)]
    assert fields[0] == fields[1]
    for a, b in zip(one.tensors, other.tensors, strict=True):
        assert (a.name, a.tensor_type, list(a.shape)) == (b.name, b.tensor_type, list(b.shape))
        np.testing.assert_array_equal(a.data, b.data)
    model = Model(gguf.check(copy))
    assert model.tokenize("Hello") == Model(gguf.check(family.padded)).tokenize("Hello")
    model.close()


def test_keys_of_every_type_are_read_back(family: Family, tmp_path: Path) -> None:
    numbers = Array("f32", 2, np.array([0.5, -1], "<f4").tobytes())
    keys = {
        "a.u8": Key("u8", 255), "a.i64": Key("i64", -(2**40)), "a.f32": Key("f32", 0.5), "a.bool": Key("bool", True),
        "a.text": Key("string", "é\n"), "a.list": Key("array", numbers), "a.f64": Key("f64", 0.1),
    }  # fmt: skip
    write(tmp_path / "keys.gguf", {**keys_of(gguf.check(family.tuned)), **keys}, tensors_of(family.tuned))
    header = gguf.check(tmp_path / "keys.gguf")
    for name, (kind, value) in keys.items():
        if isinstance(value, Array):
            found = header.array(name)
            assert found is not None and found.values().tolist() == [0.5, -1]
        else:
            assert header.metadata[name] == value and header.types[name] == kind


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(family: Family, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")

    def full() -> np.ndarray:
        raise OSError(28, "No space left on device")

    tensors = [*tensors_of(family.tuned), NewTensor("more", (4,), "F32", full)]
    with pytest.raises(OSError, match="No space"):
        write(path, keys_of(gguf.check(family.tuned)), tensors)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
