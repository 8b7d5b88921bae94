"""Tests of reading GGUF files: a valid file gives its header, any other a ModelFileError, fast and in little memory."""

import os
import struct
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gguf as writer_package
import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from eftlocal.errors import ModelFileError
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf import check, check_lora, parse, read
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_header import TENSOR_TYPES
from tests.families import Family

TOKENS = [f"tok{i}" for i in range(40)]


def write(
    path: Path,
    *,
    tensors: int = 3,
    more: Mapping[str, NDArray[np.generic]] = MappingProxyType({}),
    tokens: list[str] = TOKENS,
    model: str = "gpt2",
    leave_out: str = "",
    parts_of: int = 0,
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> Path:
    """Writes a small model and returns its path.

    `parts_of` splits it into shards of so many tensors. `more` are further tensors, `sizes` further metadata, and
    `leave_out` names a part of the tokenizer that is left out.
    """
    writer = GGUFWriter(path, "llama", split_max_tensors=parts_of)
    writer.add_name("tiny")
    for key, value in {"block_count": 1, "embedding_length": 64, "attention.head_count": 4, **sizes}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float64("test.f64", 0.5)
    writer.add_bool("test.bool", True)
    writer.add_array("test.layers", [4, 4, 2])
    if leave_out != "model":
        writer.add_tokenizer_model(model)
    if leave_out != "tokens":
        writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - (leave_out == "types")))
    if leave_out != "merges":
        writer.add_token_merges(["a b", "c d"])
    for i in range(tensors):
        writer.add_tensor(f"blk.{i}.weight", np.full((2, 5 + i), i, np.float32))
    for name, values in more.items():
        writer.add_tensor(name, values)
    return finished(writer)


def finished(writer: GGUFWriter) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert isinstance(writer.path, Path)
    return writer.path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def problem(path: Path, call: object = check) -> str:
    """Returns the message for a wrong file. It must be one line and name the file."""
    assert callable(call)
    with pytest.raises(ModelFileError) as caught:
        call(path)
    message = caught.value.message
    assert "\n" not in message and path.name in message
    return message


# --- whole files ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_header_says_what_the_gguf_package_reads(smollm2: Path) -> None:
    header, other = read(smollm2), writer_package.GGUFReader(smollm2)
    assert (header.version, header.architecture, header.file_bytes) == (3, "llama", smollm2.stat().st_size)
    tokens = header.array("tokenizer.ggml.tokens")
    assert tokens is not None and (len(header.tensors), len(tokens)) == (272, 49_152)
    assert header.tensor_bytes == sum(int(tensor.n_bytes) for tensor in other.tensors)
    for mine, theirs in zip(header.tensors, other.tensors, strict=True):
        assert (mine.name, mine.shape) == (theirs.name, tuple(theirs.shape.tolist()))
        assert (mine.type, mine.offset, mine.n_bytes) == (theirs.tensor_type.name, theirs.data_offset, theirs.n_bytes)
    assert set(header.metadata) == {key for key in other.fields if not key.startswith("GGUF.")}
    for key, value in header.metadata.items():
        field = other.fields[key]
        if not isinstance(value, Array):
            assert value == field.contents()
        elif value.type == "string":
            assert value.strings() == [bytes(field.parts[i]) for i in field.data]
        else:
            assert value.values().tolist() == field.contents()


def test_values_of_every_kind(tiny: Path) -> None:
    header = check(tiny)
    assert header.metadata["test.f64"] == 0.5 and header.metadata["test.bool"] is True
    layers = header.array("test.layers")
    assert layers is not None and len(layers) == 3 and layers.values().tolist() == [4, 4, 2]
    assert header.text("general.name") == "tiny" and header.text("test.bool") == "" and header.text("none") == ""
    assert header.shards == (tiny,) and [tensor.name for tensor in header.tensors][:1] == ["blk.0.weight"]


def test_block_sizes_are_ggmls_own() -> None:
    for number, (name, block, size) in TENSOR_TYPES.items():
        if name in ("Q8_1", "Q2_0"):  # the gguf package has a wrong size for Q8_1, and does not have Q2_0 yet
            continue
        kind = writer_package.GGMLQuantizationType(number)
        assert (name, (block, size)) == (kind.name, writer_package.GGML_QUANT_SIZES[kind])


def test_string_arrays_are_found_whatever_the_strings(tmp_path: Path) -> None:
    odd = ["", "a" * 300, "", "", "nul\0inside", "\0" * 9, "x" * 70_000, *(f"t{i}" for i in range(5000)), "é" * 127, ""]
    for strings in (odd, odd[:1], [""] * 3000, ["b" * 255] * 700 + ["c" * 256]):
        writer = GGUFWriter(tmp_path / "odd.gguf", "llama")
        writer.add_array("test.strings", strings)
        array = read(finished(writer)).array("test.strings")
        assert array is not None and array.strings() == [text.encode() for text in strings]


def test_the_first_bytes_are_enough_for_a_header(tiny: Path) -> None:
    data, total = tiny.read_bytes(), 10_000_000_000
    whole = read(tiny)
    end = whole.tensors[0].offset
    got = parse(data[:end], total, tiny)
    assert (got.tensors, got.metadata.keys(), got.file_bytes) == (whole.tensors, whole.metadata.keys(), total)
    have, rounds = 4, 0
    while have < end:  # as a client with range requests does
        try:
            parse(data[:have], total, tiny)
            break
        except gguf.HeaderIncompleteError as error:
            assert have < error.needed <= end
            have, rounds = error.needed, rounds + 1
    assert rounds > 10


def test_the_file_is_not_held_open(tiny: Path) -> None:
    header = check(tiny)
    assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd) == str(tiny)]  # noqa: PTH208
    assert str(tiny) not in Path("/proc/self/maps").read_text()
    assert header.array("tokenizer.ggml.tokens") is not None


def _target(fd: str) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return ""


# --- wrong files ------------------------------------------------------------------------------------------------------


def test_what_is_no_gguf_file_at_all(tmp_path: Path) -> None:
    cases = {
        b"": "is empty (0 bytes)",
        b"Hello, I am no model.\n" * 9: "is a text file",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n": "is a Git LFS pointer",
        b"<!doctype html><html>": "is a text file",
        b"GG": "found b'GG'",
        b"tjgg" + bytes(60): "GGML format from before August 2023",
        struct.pack("<Q", 90) + b'{"a":' + bytes(80): "is a safetensors file",
        b"PK\x03\x04" + bytes(60): "PyTorch or zip",
        b"\xff" * 99: "is in an unknown format, expected a GGUF file",
    }
    for data, said in cases.items():
        path = tmp_path / "odd.gguf"
        path.write_bytes(data)
        assert said in problem(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "no such file" in problem(tmp_path / "none.gguf")
    assert "is a folder" in problem(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "is not a regular file" in problem(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="cannot be read"):
        check(Path("a\0b.gguf"))


def test_a_file_without_permission(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: str) -> None:  # tests may run as root, which may read every file
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in problem(tiny)


def test_a_file_cut_anywhere_is_refused(tiny: Path, tmp_path: Path) -> None:
    data, path = tiny.read_bytes(), tmp_path / "cut.gguf"
    end = max(tensor.offset + tensor.n_bytes for tensor in read(tiny).tensors)
    for size in range(end):
        with pytest.raises(ModelFileError, match=r"cut\.gguf: [^\n]*expected [^\n]*$"):
            parse(data[:size], size, path)
    path.write_bytes(data[: end - 1])
    assert f"has {end - 1:,} bytes, expected {end:,}" in problem(path)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_give_a_header_or_an_error_and_quickly(tiny: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(tiny.read_bytes())
    for at, change in flips:
        data[at % len(data)] ^= change
    path = tiny.with_name("flipped.gguf")
    path.write_bytes(data)
    start = time.perf_counter()
    try:
        header = check(path)
        assert all(0 <= tensor.offset <= len(data) - tensor.n_bytes for tensor in header.tensors)
    except ModelFileError as error:
        assert "\n" not in error.message
    assert time.perf_counter() - start < 1


def _claims() -> dict[str, bytes]:
    """Headers that claim more than any file has."""
    start, huge = b"GGUF" + struct.pack("<I", 3), 1 << 60
    key = struct.pack("<Q", 1) + b"k"
    return {
        "tensors": start + struct.pack("<QQ", huge, 0),
        "keys": start + struct.pack("<QQ", 0, huge),
        "key length": start + struct.pack("<QQQ", 0, 1, huge),
        "string": start + struct.pack("<QQ", 0, 1) + key + struct.pack("<IQ", 8, huge),
        "array": start + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 4, huge),
        "array of strings": start + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 8, huge),
        "array of arrays": start + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQIQ", 9, 9, huge, 9, huge),
        "dimensions": start + struct.pack("<QQ", 1, 0) + key + struct.pack("<I", 1 << 31),
        "shape": start + struct.pack("<QQ", 1, 0) + key + struct.pack("<IQQIQ", 2, huge, huge, 0, 0),
        "size": start + struct.pack("<QQ", 1, 0) + key + struct.pack("<IQIQ", 1, huge, 0, 0),
        "string in a string array": start + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQQ", 9, 8, 1, huge),
    }


@pytest.mark.parametrize("claim", _claims())
@pytest.mark.parametrize("size", [0, 1 << 36])
def test_absurd_claims_cost_nothing(claim: str, size: int, tmp_path: Path) -> None:
    """One of the files is a sparse one of 64 GB, in which a large claim may seem possible."""
    path = tmp_path / "absurd.gguf"
    path.write_bytes(_claims()[claim] + bytes(64))
    if size:
        os.truncate(path, size)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        problem(path)
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 0.5 and peak < 3 << 20


@pytest.mark.slow
def test_a_large_file_of_zeros_behind_a_plausible_claim_is_refused_in_bounded_time_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "zeros.gguf"
    key = struct.pack("<Q", 1) + b"k"
    for value in (
        struct.pack("<IIQ", 9, 8, 200_000),
        struct.pack("<IIQ", 9, 0, 50 << 20),
        struct.pack("<IQ", 8, 50 << 20),
    ):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 14, 1 << 12) + key + value)
        os.truncate(path, 1 << 36)
        tracemalloc.start()
        try:
            problem(path)
            assert tracemalloc.get_traced_memory()[1] < 3 << 20
        finally:
            tracemalloc.stop()


def _patched(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    data = source.read_bytes()
    assert old in data and len(old) == len(new)
    target.write_bytes(data.replace(old, new, 1))
    return target


def test_damage_that_llama_cpp_would_refuse_or_die_of(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    uint32, one, header = struct.pack("<I", 4), struct.pack("<I", 1), b"GGUF" + struct.pack("<I", 3)
    name = b"llama.block_count"
    tensor = b"blk.1.weight" + struct.pack("<I", 2)
    shape = struct.pack("<QQ", 6, 2)
    cases = {
        (header, b"GGUF" + struct.pack(">I", 3)): "is a big-endian GGUF file, expected a little-endian one",
        (header, b"GGUF" + struct.pack("<I", 1)): "has GGUF version 1, expected 2 or 3",
        (header, b"GGUF" + struct.pack("<I", 9)): "has GGUF version 9, expected 2 or 3",
        (name + uint32, b"general.alignment" + uint32): "of the data, expected 40",  # with alignment 1
        (name + uint32 + one, b"general.alignment" + uint32 + bytes(4)): "general.alignment is 0, expected a power of",
        (name + uint32, b"general.file_type" + struct.pack("<I", 77)): "is of type 77, expected one of u8",
        (b"test.bool", b"test.bo\xff\xff"): "",  # llama.cpp accepts any bytes as a key
        (tensor, b"blk.1.weight" + struct.pack("<I", 5)): "tensor blk.1.weight has 5 dimensions, expected at most 4",
        (tensor, b"blk.0.weight" + struct.pack("<I", 2)): "two tensors have the same name",
        (tensor + shape, tensor + struct.pack("<QQ", 0, 2)): "tensor blk.1.weight has shape (0, 2)",
        (
            tensor + shape,
            tensor + struct.pack("<QQ", 7, 9),
        ): "tensor blk.2.weight starts at byte 128 of the data, expected 320",
        (tensor + shape + bytes(4), tensor + shape + struct.pack("<I", 4)): "is of ggml type 4, expected one that",
        (tensor + shape + bytes(4), tensor + shape + struct.pack("<I", 2)): "expected rows of a multiple of 32",
    }
    for (old, new), said in cases.items():
        patched = _patched(tiny, path, old, new)
        if said:
            assert said in problem(patched, read)
        else:
            assert [tensor.name for tensor in read(patched).tensors] == [tensor.name for tensor in read(tiny).tensors]


def test_names_in_a_file_write_no_control_codes_to_a_terminal(tiny: Path, tmp_path: Path) -> None:
    evil = _patched(tiny, tmp_path / "evil.gguf", b"blk.1.weight" + bytes([2]), b"blk\x1b[2J\night" + bytes([9]))
    assert "tensor blk\\x1b[2J\\night has 9 dimensions" in problem(evil)


def test_keys_of_a_type_that_llama_cpp_does_not_expect(tmp_path: Path) -> None:
    for key, said in {
        "general.type": "general.type is of type u32, expected string",
        "split.no": "split.no is of type u32, expected u16",
        "tokenizer.chat_template": "tokenizer.chat_template is of type u32, expected string",
    }.items():
        writer = GGUFWriter(tmp_path / "typed.gguf", "llama")
        writer.add_uint32(key, 1)
        assert said in problem(finished(writer), read)


# --- what kind of file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "architecture", "said"),
    [
        ("adapter", "llama", "is a LoRA adapter, expected a whole model"),
        ("mmproj", "clip", "is a projector for images or sound"),
        ("imatrix", "", "is an importance matrix"),
        ("model", "controlvector", "is a control vector"),
        ("model", "llama", "is a vocab-only file"),
        ("model", "", "has no architecture"),
    ],
)
def test_files_that_are_something_else(kind: str, architecture: str, said: str, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "else.gguf", architecture)
    writer.add_type(kind)
    if said != "is a vocab-only file":
        writer.add_tensor("x", np.zeros(4, np.float32))
    assert said in problem(finished(writer))


def test_a_tokenizer_that_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.gguf"
    for leave_out, said in {
        "model": "has no tokenizer: tokenizer.ggml.model is missing",
        "tokens": "tokenizer.ggml.tokens is missing",
        "types": "tokenizer.ggml.token_type has 39 entries, expected 40 or more",
        "merges": "tokenizer.ggml.merges is missing",
    }.items():
        assert said in problem(write(path, leave_out=leave_out))
    assert "token 'b' is listed twice, as 1 and 3" in problem(write(path, tokens=["a", "b", "c", "b"]))
    assert "token 'b' is listed twice, as 1 and 2" in problem(write(path, tokens=["a", "b", "b\0c"]))
    tokens = check(write(path, tokens=["a", "", ""])).array("tokenizer.ggml.tokens")
    assert tokens is not None and tokens.strings() == [b"a", b"", b""]


def test_an_empty_token_has_the_name_that_llama_cpp_gives_it(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    same = "token '[EMPTY_1]' is listed twice, as 1 and 2, since llama.cpp gives an empty token this name"
    assert same in problem(write(path, tokens=["a", "", "[EMPTY_1]"]))
    assert same in problem(write(path, tokens=["a", "\0b", "[EMPTY_1]\0c"]))  # each text ends at its NUL
    assert "listed twice, as 0 and 2, since" in problem(write(path, tokens=["[EMPTY_2]", "a", ""]))
    assert check(write(path, tokens=["a", "", "[EMPTY_3]", "[EMPTY_01]", ""])).tensors


def test_a_sentencepiece_vocabulary_has_a_token_for_each_byte(tmp_path: Path) -> None:
    path, spelled = tmp_path / "bytes.gguf", [f"<0x{byte:02X}>" for byte in range(256)]
    assert check(write(path, tokens=["a", *spelled], model="llama")).tensors
    assert check(write(path, tokens=["A", *(text for text in spelled if text != "<0x41>")], model="llama")).tensors
    found = "has 255 of the 256 byte tokens; the first that is missing is <0xE2>, expected all from <0x00>"
    assert found in problem(write(path, tokens=[text for text in spelled if text != "<0xE2>"], model="llama"))
    assert check(write(path, tokens=["a"])).tensors  # gpt2 leaves out what it cannot write


def test_sizes_on_which_llama_cpp_would_abort(tmp_path: Path) -> None:
    """Without `check`, each of these made llama.cpp abort, or hang (a rope of 0)."""
    path = tmp_path / "sizes.gguf"
    whole = {"block_count": 512, "expert_count": 8, "expert_used_count": 8, "embedding_length": 64}
    whole |= {"attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 16}
    assert check(write(path, sizes=whole)).metadata["llama.block_count"] == 512
    cases: dict[str, tuple[int, str]] = {
        "block_count": (0, "0, expected 1 to 512"),
        "attention.head_count": (1 << 31, "2,147,483,648, expected 0 to 65,535"),
        "attention.head_count_kv": ((1 << 30) + 2, "1,073,741,826, expected 0 to 65,535"),  # wraps around to 2 heads
        "attention.key_length": (1 << 20, "1,048,576, expected 0 to 65,535"),
        "attention.sliding_window": ((1 << 31) - 1, "2,147,483,647, expected 0 to 1,073,741,824"),
        "rope.dimension_count": (18, "18, expected 2 to 16"),
        "rope.dimension_count_swa": (0, "0, expected 2 to 16"),
        "expert_used_count": (9, "9, expected 1 to 8"),
    }
    for key, (value, said) in cases.items():
        assert f"damaged: llama.{key} is {said}" in problem(write(path, sizes=whole | {key: value}))
    assert "block_count is 513, expected 1 to 512" in problem(write(path, sizes={"block_count": 513}))
    assert "dimension_count is 3, expected an even number" in problem(write(path, sizes={"rope.dimension_count": 3}))
    assert "expert_used_count is 0, expected 1 to 8" in problem(write(path, sizes={"expert_count": 8}))
    assert "expert_used_count is 1, expected 0" in problem(write(path, sizes={"expert_used_count": 1}))
    wider = whole | {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}
    assert check(write(path, sizes=wider)).metadata["llama.rope.dimension_count"] == 32


@pytest.mark.parametrize("epsilon", [-1e-5, float("nan"), float("inf")])
def test_an_epsilon_that_is_none(epsilon: float, family: Family, tmp_path: Path) -> None:
    key = b"llama.attention.layer_norm_rms_epsilon" + struct.pack("<I", 6)
    path = _patched(
        family.tuned, tmp_path / "eps.gguf", key + struct.pack("<f", 1e-5), key + struct.pack("<f", epsilon)
    )
    assert f"layer_norm_rms_epsilon is {struct.unpack('<f', struct.pack('<f', epsilon))[0]}, expected 0" in problem(
        path
    )


@pytest.mark.parametrize(
    ("name", "shape", "kind", "said"),
    [
        ("blk.0.attn_norm.weight", (64,), np.float16, "is of type F16, expected F32"),
        ("blk.0.ssm_conv1d.weight", (8, 4), np.float16, "is of type F16, expected F32"),
        ("output.weight", (8, 64), np.int32, "is of type I32, expected a type for weights"),
        ("blk.0.attn_q.weight", (8, 64), np.float16, ""),
        ("blk.0.ffn_gate_tid2eid.weight", (8, 64), np.int32, ""),
    ],
)
def test_weights_of_a_type_on_which_llama_cpp_would_abort(
    name: str, shape: tuple[int, ...], kind: type, said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "types.gguf", more={name: np.zeros(shape, kind)})
    if said:
        assert f"tensor {name} {said}" in problem(path)
    else:
        assert name in [tensor.name for tensor in check(path).tensors]


def test_every_model_of_the_tests_and_every_demo_model_is_whole(family: Family) -> None:
    demos = sorted(Path(__file__).parents[2].glob("demo/*.gguf"))
    for path in [*demos, *(path for name, path in vars(family).items() if name != "lora")]:
        assert check(path).tensors
    assert check_lora(family.lora).tensors


def test_lora_adapters_are_told_from_models(tmp_path: Path, tiny: Path) -> None:
    def adapter(kind: str, tensor: str, dtype: type = np.float32) -> Path:
        writer = GGUFWriter(tmp_path / "lora.gguf", "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", kind)
        writer.add_tensor(tensor, np.zeros((2, 4), dtype))
        return finished(writer)

    assert "x.lora_a is of type I32, expected a type for" in problem(adapter("lora", "x.lora_a", np.int32), check_lora)
    assert check_lora(adapter("lora", "blk.0.attn_q.weight.lora_a")).architecture == "llama"
    assert 'adapter.type is "ia3", expected "lora"' in problem(adapter("ia3", "x.lora_a"), check_lora)
    assert "has no LoRA weights" in problem(adapter("lora", "x"), check_lora)
    assert 'is not a LoRA adapter: general.type is "", expected "adapter"' in problem(tiny, check_lora)


# --- split files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    write(tmp_path / "s.gguf", tensors=5, parts_of=2)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert [part.name for part in parts] == [f"s-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    return parts


def test_a_split_file_is_one_model(split: list[Path]) -> None:
    header = check(split[0])
    assert header.shards == tuple(split) and header.file_bytes == sum(part.stat().st_size for part in split)
    assert [tensor.name for tensor in header.tensors] == [f"blk.{i}.weight" for i in range(5)]
    assert [tensor.shard for tensor in header.tensors] == [0, 0, 1, 1, 2]
    for tensor in header.tensors:
        with header.shards[tensor.shard].open("rb") as file:
            file.seek(tensor.offset)
            values = np.frombuffer(file.read(tensor.n_bytes), np.float32)
        assert set(values.tolist()) == {float(tensor.name[4])}


def test_a_split_file_starts_at_part_1(split: list[Path]) -> None:
    assert "is shard 2 of 3, expected the first, s-00001-of-00003.gguf" in problem(split[1])


def test_a_missing_part_is_named(split: list[Path]) -> None:
    split[1].unlink()
    assert "shard 2 of 3 is missing, expected s-00002-of-00003.gguf in the same folder" in problem(split[0])


def test_a_part_that_is_cut_short_is_named(split: list[Path]) -> None:
    os.truncate(split[2], split[2].stat().st_size - 40)
    with pytest.raises(ModelFileError, match=r"s-00003-of-00003.gguf: cut short"):
        check(split[0])


def test_parts_that_do_not_belong_together(split: list[Path]) -> None:
    third = split[2].read_bytes()
    split[2].write_bytes(split[1].read_bytes())
    with pytest.raises(ModelFileError, match=r"s-00003-of-00003.gguf: damaged: split.no and split.count are \(1, 3\)"):
        check(split[0])
    split[2].write_bytes(third.replace(b"blk.4.weight", b"blk.3.weight"))
    assert "two tensors of its 3 shards have the same name" in problem(split[0])


def test_a_renamed_first_part(split: list[Path]) -> None:
    renamed = split[0].rename(split[0].with_name("model.gguf"))
    assert "is shard 1 of 3, expected the file name model-00001-of-00003.gguf" in problem(renamed)


def test_shards_that_were_put_together_into_one_file_are_told(split: list[Path], tmp_path: Path) -> None:
    joined = tmp_path / "joined.gguf"
    joined.write_bytes(b"".join(part.read_bytes() for part in split))
    more = joined.stat().st_size - split[0].stat().st_size
    said = f"{more:,} bytes follow the tensors of shard 1 of 3, as when shards are put together into one file"
    assert said in problem(joined)
    for part in split[1:]:
        part.unlink()
    assert said in problem(joined.rename(split[0]))  # whatever its name
    with pytest.raises(ModelFileError) as caught:
        check(split[0])
    assert caught.value.hint is not None and "llama-gguf-split --merge" in caught.value.hint
