"""A model's GGUF file, read and checked before llama.cpp sees it.

`read` takes one file's header, `check` a whole model (every part of a split one, and what llama.cpp wants of a
tokenizer), `check_lora` an adapter; `parse` works on a header's first bytes alone, for a file that is still far away.
Every failure is a ModelFileError: one line that says the file, what was found and what was expected.
"""

import mmap
import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from eftlocal.errors import ModelFileError
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.gguf_header import MAX_HEADER, Header, HeaderIncompleteError, Tensor, parse

__all__ = ["Array", "Header", "HeaderIncompleteError", "Tensor", "check", "check_lora", "parse", "read"]

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS


def read(path: Path) -> Header:
    """One file's header; every tensor it lists lies within the file."""
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
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


def check(path: Path) -> Header:
    """The header of a whole model that llama.cpp can be given: every part of it, and a tokenizer."""
    first = read(path)
    parts = list(_parts(first))
    _must_be_a_model(first, any(part.tensors for part in parts))
    _check_sizes(first)
    _check_tokenizer(first)
    tensors = tuple(replace(tensor, shard=i) for i, part in enumerate(parts) for tensor in part.tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ModelFileError(f"{path}: damaged: two tensors of its {len(parts)} parts have the same name")
    if len(parts) > 1 and (expected := first.metadata.get("split.tensors.count")) != len(tensors):
        raise ModelFileError(f"{path}: damaged: its parts hold {len(tensors)} tensors, expected {expected}")
    return replace(
        first,
        tensors=tensors,
        file_bytes=sum(part.file_bytes for part in parts),
        shards=tuple(part.path for part in parts),
    )


def check_lora(path: Path) -> Header:
    """The header of a LoRA adapter; whether it fits a model is llama.cpp's to say."""
    header = read(path)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if (found := header.text(key)) != expected:
            raise ModelFileError(f'{path}: is no LoRA adapter: {key} is "{found}", expected "{expected}"')
    _must_name_an_architecture(header)
    if not any(tensor.name.endswith(".lora_a") for tensor in header.tensors):
        raise ModelFileError(f"{path}: holds no LoRA weights, expected tensors named *.lora_a and *.lora_b")
    return header


# --- what kind of file it is ------------------------------------------------------------------------------------------


def _must_be_a_model(header: Header, weights: bool) -> None:
    kind, architecture = header.text("general.type"), header.text("general.architecture")
    if kind == "adapter":
        hint = "name it as the `lora` of the model it was trained on"
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
        raise ModelFileError(f"{header.path}: names no architecture, expected the metadata general.architecture")


def _check_sizes(header: Header) -> None:
    """The numbers that llama.cpp only asserts, so that it aborts on others (src/llama-model.cpp, load_hparams)."""
    layers, experts, used = (
        header.metadata.get(f"{header.architecture}.{key}", default)
        for key, default in (("block_count", 1), ("expert_count", 0), ("expert_used_count", 0))
    )
    if isinstance(layers, int) and not 1 <= layers <= MAX_LAYERS:
        raise ModelFileError(f"{header.path}: damaged: has {layers:,} layers, expected 1 to {MAX_LAYERS}")
    if isinstance(used, Array):
        used = max(used.values().tolist(), default=0) if used.type != "string" else 0
    if isinstance(experts, int) and isinstance(used, int) and not min(experts, 1) <= used <= experts:
        raise ModelFileError(f"{header.path}: damaged: uses {used:,} of {experts:,} experts at a time")


# --- split files ------------------------------------------------------------------------------------------------------


def _parts(first: Header) -> Iterator[Header]:
    """The headers of every part of a split file, which must start at part 1; of any other file its own."""
    count, number = first.metadata.get("split.count", 1), first.metadata.get("split.no", 0)
    assert isinstance(count, int) and isinstance(number, int)
    yield first
    if count < 2:
        return
    named = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", first.path.name)
    stem = named[1] if named else first.path.stem
    names = [f"{stem}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    if number != 0:
        raise ModelFileError(f"{first.path}: is part {number + 1} of {count}, expected the first, {names[0]}")
    if first.path.name != names[0] or "split.no" not in first.metadata:
        raise ModelFileError(f"{first.path}: is part 1 of {count}, expected the name {names[0]}")
    for i, name in enumerate(names[1:], start=1):
        path = first.path.with_name(name)
        if not path.exists():
            raise ModelFileError(f"{first.path}: part {i + 1} of {count} is missing, expected {name} beside it")
        part = read(path)
        if (found := (part.metadata.get("split.no"), part.metadata.get("split.count"))) != (i, count):
            raise ModelFileError(f"{path}: damaged: split.no and split.count are {found}, expected {(i, count)}")
        yield part


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def _check_tokenizer(header: Header) -> None:
    """What llama.cpp's vocabulary reads without asking (src/llama-vocab.cpp, llama_vocab::impl::load)."""
    model = header.text("tokenizer.ggml.model")
    if model in ("", "none", "no_vocab"):
        found = f'"{model}"' if model else "missing"
        raise ModelFileError(
            f"{header.path}: has no tokenizer: tokenizer.ggml.model is {found}, expected gpt2, llama ..."
        )
    tokens = _array(header, "tokenizer.ggml.tokens", ("string",), least=1)
    optional = {"tokenizer.ggml.token_type": ("i32",), "tokenizer.ggml.scores": ("f32", "i32")}
    for key, types in optional.items():
        if key in header.metadata:
            _array(header, key, types, least=len(tokens))
    if model == "gpt2" and header.text("tokenizer.ggml.pre") != "kimi-k2":  # which is BPE without merges
        _array(header, "tokenizer.ggml.merges", ("string",), least=0)
    _check_duplicates(header, tokens.strings())


def _array(header: Header, key: str, types: tuple[str, ...], least: int) -> Array:
    value = header.metadata.get(key)
    if value is None:
        raise ModelFileError(f"{header.path}: has no complete tokenizer: {key} is missing")
    if not isinstance(value, Array) or value.type not in types:
        found = f"an array of {value.type}" if isinstance(value, Array) else "no array"
        raise ModelFileError(f"{header.path}: damaged: {key} is {found}, expected an array of {' or '.join(types)}")
    if len(value) < least:
        raise ModelFileError(f"{header.path}: damaged: {key} has {len(value):,} entries, expected {least:,} or more")
    return value


def _check_duplicates(header: Header, tokens: list[bytes]) -> None:
    """llama.cpp aborts on a token listed twice; it reads C strings, and gives empty ones a name of their own."""
    if b"\0" in b"".join(tokens):
        tokens = [token.partition(b"\0")[0] for token in tokens]
    if len(set(tokens)) == len(tokens):
        return
    first: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if token and first.setdefault(token, i) != i:
            text = token.decode("utf-8", "backslashreplace")
            raise ModelFileError(f"{header.path}: damaged: token {text!r} is listed twice, as {first[token]} and {i}")
