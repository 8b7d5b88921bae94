"""Reads and checks a model's GGUF file before llama.cpp opens it.

`read` reads the header of one file. `check` checks a whole model: all shards, and the tokenizer that llama.cpp needs.
`check_lora` checks an adapter. `parse` needs only the first bytes of a file, so that the file may still be remote. Each
failure is a ModelFileError of one line: the file, what was found and what was expected.
"""

import mmap
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from eftlocal.errors import ModelFileError
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_header import Header, Tensor
from eftlocal.runtime.gguf_limits import check_numbers
from eftlocal.runtime.gguf_parse import MAX_HEADER, HeaderIncompleteError, parse

Read = Callable[[Path], Header]

__all__ = ["Array", "Header", "HeaderIncompleteError", "Read", "Tensor", "check", "check_lora", "parse", "read"]

# Types that llama.cpp's operations on weights do not support: integers are indices, and Q8_1 and Q8_K are only for
# intermediate results of a product.
NO_WEIGHTS: Final = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
INDICES: Final = ("tid2eid", "d2t")  # DeepSeek's table of experts by token, EAGLE's of draft tokens
ONLY_F32: Final = (".ssm_a", ".ssm_conv1d.weight", ".shortconv.conv.weight")


def read(path: Path) -> Header:
    """Returns the header of one file, with all its tensors inside the file. Raises ModelFileError."""
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ModelFileError(f"{path}: is {what}, expected a GGUF file")
        with path.open("rb") as file:
            total = file.seek(0, 2)
            if total == 0:
                raise ModelFileError(f"{path}: is empty (0 bytes), expected a GGUF file")
            with mmap.mmap(file.fileno(), min(total, MAX_HEADER), access=mmap.ACCESS_READ) as data:
                return parse(data, total, path)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ModelFileError(f"{str(path)!r}: cannot be read: {reason}") from error


def check(path: Path, read: Read = read) -> Header:
    """Returns the header of a whole model: of all its shards, checked so that llama.cpp can load them.

    `read` returns the header of one file. The default reads files on this machine. Raises ModelFileError.
    """
    first = read(path)
    parts = list(_parts(first, read))
    _must_be_a_model(first, any(part.tensors for part in parts))
    check_numbers(first)
    _check_tokenizer(first)
    tensors = tuple(replace(tensor, shard=i) for i, part in enumerate(parts) for tensor in part.tensors)
    _check_types(path, tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ModelFileError(f"{path}: damaged: two tensors of its {len(parts)} shards have the same name")
    if len(parts) > 1 and (expected := first.metadata.get("split.tensors.count")) != len(tensors):
        raise ModelFileError(f"{path}: damaged: its shards have {len(tensors)} tensors, expected {expected}")
    return replace(
        first,
        tensors=tensors,
        file_bytes=sum(part.file_bytes for part in parts),
        shards=tuple(part.path for part in parts),
    )


def check_lora(path: Path) -> Header:
    """Returns the header of a LoRA adapter. Whether it fits a model is checked by llama.cpp. Raises ModelFileError."""
    header = read(path)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if (found := header.text(key)) != expected:
            problem = f'is not a LoRA adapter: {key} is "{found}", expected "{expected}"'
            raise ModelFileError(f"{path}: {problem}")
    _must_name_an_architecture(header)
    if not any(tensor.name.endswith(".lora_a") for tensor in header.tensors):
        raise ModelFileError(f"{path}: has no LoRA weights, expected tensors named *.lora_a and *.lora_b")
    for tensor in header.tensors:
        if tensor.type in NO_WEIGHTS:
            raise _no_weights(path, tensor)
    return header


# --- what kind of file it is ------------------------------------------------------------------------------------------


def _must_be_a_model(header: Header, weights: bool) -> None:
    kind, architecture = header.text("general.type"), header.text("general.architecture")
    if kind == "adapter":
        hint = "give it as the `lora` of the model that it was trained on"
        raise ModelFileError(f"{header.path}: is a LoRA adapter, expected a whole model", hint)
    if kind == "mmproj" or architecture == "clip":
        raise ModelFileError(f"{header.path}: is a projector for images or sound, expected a language model")
    if kind == "imatrix" or architecture in ("imatrix", "controlvector"):
        what = "a control vector" if architecture == "controlvector" else "an importance matrix"
        raise ModelFileError(f"{header.path}: is {what}, expected a language model")
    _must_name_an_architecture(header)
    if kind == "vocab" or not weights:
        raise ModelFileError(f"{header.path}: is a vocab-only file, expected a model with weights")


def _must_name_an_architecture(header: Header) -> None:
    if not header.architecture:
        raise ModelFileError(f"{header.path}: has no architecture, expected the metadata key general.architecture")


def _check_types(path: Path, tensors: Iterable[Tensor]) -> None:
    """Refuses weights of a type on which llama.cpp aborts. Norms, biases and other vectors must be F32."""
    for tensor in tensors:
        if tensor.type == "F32" or any(index in tensor.name for index in INDICES):
            continue
        found = f"{path}: tensor {tensor.name} is of type {tensor.type}"
        if len(tensor.shape) < 2 or tensor.name.endswith(ONLY_F32):
            raise ModelFileError(f"{found}, expected F32: llama.cpp supports no other type there")
        if tensor.type in NO_WEIGHTS:
            raise _no_weights(path, tensor)


def _no_weights(path: Path, tensor: Tensor) -> ModelFileError:
    found = f"{path}: tensor {tensor.name} is of type {tensor.type}"
    return ModelFileError(f"{found}, expected a type for weights, such as F16 or Q4_K")


# --- split files ------------------------------------------------------------------------------------------------------


def _parts(first: Header, read: Read) -> Iterator[Header]:
    """Yields the headers of all shards of a split model, given its first; of any other file, its own header."""
    count, number = first.metadata.get("split.count", 1), first.metadata.get("split.no", 0)
    assert isinstance(count, int) and isinstance(number, int)
    yield first
    if count < 2:
        return
    named = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", first.path.name)
    stem = named[1] if named else first.path.stem
    names = [f"{stem}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    if first.end < first.file_bytes:  # llama.cpp would look for the other shards, and not read on
        more = f"{first.file_bytes - first.end:,} bytes follow the tensors of shard {number + 1} of {count}"
        hint = "Join shards with `llama-gguf-split --merge`, or keep them apart under their own names."
        raise ModelFileError(f"{first.path}: {more}, as when shards are put together into one file", hint)
    if number != 0:
        raise ModelFileError(f"{first.path}: is shard {number + 1} of {count}, expected the first, {names[0]}")
    if first.path.name != names[0] or "split.no" not in first.metadata:
        raise ModelFileError(f"{first.path}: is shard 1 of {count}, expected the file name {names[0]}")
    for i, name in enumerate(names[1:], start=1):
        path = first.path.with_name(name)
        try:
            part = read(path)
        except ModelFileError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            problem = f"shard {i + 1} of {count} is missing, expected {name} in the same folder"
            raise ModelFileError(f"{first.path}: {problem}") from error
        if (found := (part.metadata.get("split.no"), part.metadata.get("split.count"))) != (i, count):
            raise ModelFileError(f"{path}: damaged: split.no and split.count are {found}, expected {(i, count)}")
        yield part


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def _check_tokenizer(header: Header) -> None:
    """Checks what llama.cpp reads of the tokenizer without checks (src/llama-vocab.cpp, llama_vocab::impl::load)."""
    model = header.text("tokenizer.ggml.model")
    if model in ("", "none", "no_vocab"):
        found = f'"{model}"' if model else "missing"
        expected = "expected a name such as gpt2 or llama"
        raise ModelFileError(f"{header.path}: has no tokenizer: tokenizer.ggml.model is {found}, {expected}")
    if (pre := header.text("tokenizer.ggml.pre")) == "whitespace":  # llama.cpp aborts at two spaces in a row
        raise ModelFileError(f'{header.path}: tokenizer.ggml.pre is "{pre}", expected one for language models')
    tokens = _array(header, "tokenizer.ggml.tokens", ("string",), least=1)
    optional = {"tokenizer.ggml.token_type": ("i32",), "tokenizer.ggml.scores": ("f32", "i32")}
    for key, types in optional.items():
        if key in header.metadata:
            _array(header, key, types, least=len(tokens))
    if model == "gpt2" and pre != "kimi-k2":  # kimi-k2 is BPE without merges
        _array(header, "tokenizer.ggml.merges", ("string",), least=0)
    texts = tokens.strings()
    _check_texts(header, texts)
    if model == "llama":
        _check_bytes(header, texts)


def _array(header: Header, key: str, types: tuple[str, ...], least: int) -> Array:
    value = header.metadata.get(key)
    if value is None:
        raise ModelFileError(f"{header.path}: has no complete tokenizer: {key} is missing")
    if not isinstance(value, Array) or value.type not in types:
        found = f"an array of {value.type}" if isinstance(value, Array) else "not an array"
        raise ModelFileError(f"{header.path}: damaged: {key} is {found}, expected an array of {' or '.join(types)}")
    if len(value) < least:
        raise ModelFileError(f"{header.path}: damaged: {key} has {len(value):,} entries, expected {least:,} or more")
    return value


def _check_texts(header: Header, tokens: list[bytes]) -> None:
    """Refuses two tokens with one text: llama.cpp aborts on them (llama_vocab::impl::load).

    It reads a text up to its first NUL, and names an empty token i `[EMPTY_i]`.
    """
    if b"\0" in b"".join(tokens):
        tokens = [token.partition(b"\0")[0] for token in tokens]
    seen = [token or b"[EMPTY_%d]" % i for i, token in enumerate(tokens)]
    if len(set(seen)) == len(seen):
        return
    first: dict[bytes, int] = {}
    a, b = next((first[text], i) for i, text in enumerate(seen) if first.setdefault(text, i) != i)
    text = repr(seen[a].decode("utf-8", "backslashreplace"))
    why = ", since llama.cpp gives an empty token this name" if b"" in (tokens[a], tokens[b]) else ""
    raise ModelFileError(f"{header.path}: damaged: token {text} is listed twice, as {a} and {b}{why}")


def _check_bytes(header: Header, tokens: list[bytes]) -> None:
    """Refuses a SentencePiece vocabulary that cannot write each byte: llama.cpp ends at a text that needs the byte.

    It spells a character that is not a token as byte tokens, and does not check that they exist (byte_to_token).
    """
    known = set(tokens)
    missing = [i for i in range(256) if b"<0x%02X>" % i not in known and (i == 0 or bytes([i]) not in known)]
    if missing:
        found = f"{256 - len(missing)} of the 256 byte tokens; the first that is missing is <0x{missing[0]:02X}>"
        raise ModelFileError(f"{header.path}: has no complete tokenizer: it has {found}, expected all from <0x00>")
