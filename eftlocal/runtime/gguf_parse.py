"""Parses the GGUF format: any bytes give either a `Header` or a ModelFileError of one line.

The limits are llama.cpp's (ggml/src/gguf.cpp, gguf_init_from_reader), or tighter where no real file comes near them. No
memory is allocated for a size that a file only claims. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import re
import struct
from pathlib import Path
from typing import Final, NamedTuple

from eftlocal.errors import ModelFileError
from eftlocal.runtime.gguf_arrays import FIXED, TYPE_NAMES, Array, Data, string_runs
from eftlocal.runtime.gguf_header import TENSOR_TYPES, Header, Tensor

__all__ = ["MAX_HEADER", "HeaderIncompleteError", "parse"]

MAX_HEADER: Final = 64 << 20  # bytes; Gemma 3 has the largest vocabulary known, and its header is 16 MB
MAX_KEYS: Final = 1 << 13  # real files have about 50; llama.cpp compares each key with all before it
MAX_TENSORS: Final = 1 << 15  # real files have some thousands at most; llama.cpp compares their names too
MAX_STRINGS: Final = 1 << 22  # in all arrays together; a tokenizer has up to 800,000
MAX_KEY_BYTES: Final = (1 << 16) - 1
MAX_NAME_BYTES: Final = 63  # GGML_MAX_NAME without the final NUL
MAX_DIMENSIONS: Final = 4

# fmt: off
UINT16, UINT32, INT32, FLOAT32, STRING, ARRAY = 2, 4, 5, 6, 8, 9  # gguf.h: value types

# The types of keys for which llama.cpp aborts the process on another type (gguf_get_val_*).
WANTED_TYPES: Final = {
    "general.architecture": STRING, "general.type": STRING, "general.alignment": UINT32,
    "adapter.type": STRING, "adapter.lora.alpha": FLOAT32,
    "split.no": UINT16, "split.count": UINT16, "split.tensors.count": INT32,
    "tokenizer.ggml.model": STRING, "tokenizer.ggml.pre": STRING, "tokenizer.chat_template": STRING,
}
# fmt: on


class HeaderIncompleteError(ModelFileError):
    """The header is longer than the bytes given, but not longer than the file. At least `needed` bytes are needed."""

    def __init__(self, path: Path, needed: int, have: int) -> None:
        super().__init__(f"{path}: its header needs {needed:,} bytes or more, expected at most {have:,}")
        self.needed = needed


def parse(data: Data, total: int, path: Path) -> Header:
    """Returns the header at the start of `data`, which are the first bytes of a file of `total` bytes.

    `path` names the file in errors. Raises HeaderIncompleteError when `data` ends too early, and ModelFileError for
    everything that is wrong with the file.
    """
    cursor = _Cursor(data, total, path)
    version, n_tensors, n_keys = _numbers(cursor)
    spans = _key_spans(cursor, n_keys)
    alignment = _value(data, spans["general.alignment"]) if "general.alignment" in spans else 32
    assert isinstance(alignment, int)
    tensors = _tensors(cursor, n_tensors, alignment)
    end = _aligned(tensors[-1].offset + tensors[-1].n_bytes if tensors else cursor.at, alignment)
    # Values are copied only now, after the whole header was found to be valid.
    return Header(
        path=path,
        version=version,
        metadata={key: _value(data, span) for key, span in spans.items()},
        tensors=tensors,
        file_bytes=total,
        shards=(path,),
        end=end,
        types={key: _type_name(span.kind) for key, span in spans.items()},
    )


class _Cursor:
    """A position in the header. It never passes the end of the file or of the bytes given."""

    def __init__(self, data: Data, total: int, path: Path) -> None:
        self.data, self.total, self.path = data, total, path
        self.at = self.n_strings = 0

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: {problem}")

    def skip(self, n: int, what: str) -> int:
        """Moves on by `n` bytes and returns the position before. `what` names them in errors."""
        start, end = self.at, self.at + n
        if end > self.total:
            expected = f"expected at most {self.total:,}, the file's size"
            raise self.error(f"cut short or damaged: {what} ends at byte {end:,}, {expected}")
        if end > len(self.data):
            raise HeaderIncompleteError(self.path, end, len(self.data))
        self.at = end
        return start

    def number(self, code: str, what: str) -> int:
        start = self.skip(struct.calcsize(code), what)
        return int(struct.unpack_from("<" + code, self.data, start)[0])

    def string(self, what: str, limit: int = MAX_HEADER) -> bytes:
        length = self.number("Q", what)
        if length > limit:
            raise self.error(f"damaged: {what} is {length:,} bytes long, expected at most {limit:,}")
        start = self.skip(length, what)
        return bytes(self.data[start : self.at])


def _numbers(cursor: _Cursor) -> tuple[int, int, int]:
    """Reads the version, the number of tensors and the number of keys."""
    start = bytes(cursor.data[:64])
    if start[:4] != b"GGUF":
        raise cursor.error(f"{_foreign(start)}, expected a GGUF file (first bytes b'GGUF', found {start[:4]!r})")
    cursor.skip(4, "the magic")
    version = cursor.number("I", "the version")
    if version and not version & 0xFFFF:
        raise cursor.error("is a big-endian GGUF file, expected a little-endian one")
    if version not in (2, 3):
        raise cursor.error(f"has GGUF version {version}, expected 2 or 3")
    n_tensors, n_keys = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of keys")
    for n, most, what in ((n_tensors, MAX_TENSORS, "tensors"), (n_keys, MAX_KEYS, "metadata keys")):
        if n > most:
            raise cursor.error(f"damaged: claims {n:,} {what}, expected at most {most:,}")
    return version, n_tensors, n_keys


def _foreign(start: bytes) -> str:
    """Says what a file that is not a GGUF seems to be, from its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the file itself"
    if start[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "is in the GGML format from before August 2023"
    if start[:4] in (b"PK\x03\x04", b"\x80\x02}q"):
        return "is a PyTorch or zip file"
    if re.match(rb".{7}\x00\{\"", start, re.DOTALL):
        return "is a safetensors file"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start[:16]):
        return "is a text file"
    return "is in an unknown format"


class _Span(NamedTuple):
    """The place of a metadata value. `kind` is its type and `element` that of its elements; equal if not an array."""

    kind: int
    element: int
    length: int
    start: int
    end: int


def _key_spans(cursor: _Cursor, n_keys: int) -> dict[str, _Span]:
    spans: dict[str, _Span] = {}
    for i in range(n_keys):
        key = cursor.string(f"metadata key {i}", MAX_KEY_BYTES).decode("utf-8", "backslashreplace")
        if not key or key in spans:
            raise cursor.error(f"damaged: metadata key {i} is {'a second ' + key if key else 'empty'}")
        kind = element = cursor.number("I", f"the type of {key}")
        count = 1
        if kind == ARRAY:
            element, count = cursor.number("I", f"the type of {key}"), cursor.number("Q", f"the length of {key}")
        if kind != (wanted := WANTED_TYPES.get(key, kind)):
            raise cursor.error(f"damaged: {key} is of type {_type_name(kind)}, expected {_type_name(wanted)}")
        start = cursor.at
        _skip_values(cursor, key, element, count)
        spans[key] = _Span(kind, element, count, start, cursor.at)
    return spans


def _type_name(number: int) -> str:
    return TYPE_NAMES[number] if number < len(TYPE_NAMES) else str(number)


def _skip_values(cursor: _Cursor, key: str, element: int, count: int) -> None:
    if element in FIXED:
        cursor.skip(count * struct.calcsize("<" + FIXED[element]), key)
        return
    if element != STRING:  # ggml does not support arrays of arrays
        raise cursor.error(f"damaged: {key} is of type {_type_name(element)}, expected one of {', '.join(TYPE_NAMES)}")
    room = min(MAX_STRINGS - cursor.n_strings, (cursor.total - cursor.at) // 8)
    if count > room:
        raise cursor.error(f"cut short or damaged: {key} claims {count:,} strings, expected at most {room:,}")
    cursor.n_strings += count
    for starts, following in string_runs(cursor.data, cursor.at, count):
        count, cursor.at = count - len(starts), following
    if count:  # the next string passes the end, so this raises the error
        cursor.skip(cursor.number("Q", key), key)


def _value(data: Data, span: _Span) -> "bool | int | float | str | Array":
    raw = bytes(data[span.start : span.end])
    if span.kind == ARRAY:
        return Array(TYPE_NAMES[span.element], span.length, raw)
    if span.kind == STRING:
        return raw[8:].decode("utf-8", "replace")
    value: bool | int | float = struct.unpack("<" + FIXED[span.kind], raw)[0]
    return value


def _tensors(cursor: _Cursor, n_tensors: int, alignment: int) -> tuple[Tensor, ...]:
    """Reads the list of tensors. As in gguf.cpp, they must follow each other in the file, each at an aligned start."""
    if alignment <= 0 or alignment & (alignment - 1):
        raise cursor.error(f"damaged: general.alignment is {alignment}, expected a power of two")
    listed = [_tensor(cursor, i) for i in range(n_tensors)]
    names = {name.partition("\0")[0] for name, _, _, _ in listed}
    if len(names) < n_tensors:
        raise cursor.error("damaged: two tensors have the same name")
    tensors, start = [], _aligned(cursor.at, alignment)
    expected = 0
    for name, shape, kind, offset in listed:
        if offset != expected:
            raise cursor.error(f"damaged: tensor {name} starts at byte {offset:,} of the data, expected {expected:,}")
        label, block, block_bytes = TENSOR_TYPES[kind]
        n_bytes = math.prod(shape) // block * block_bytes
        tensors.append(Tensor(name, shape, label, start + offset, n_bytes))
        expected = _aligned(offset + n_bytes, alignment)
    if tensors and (end := tensors[-1].offset + tensors[-1].n_bytes) > cursor.total:
        raise cursor.error(f"cut short: the file has {cursor.total:,} bytes, expected {end:,} from its list of tensors")
    return tuple(tensors)


def _aligned(n: int, alignment: int) -> int:
    return (n + alignment - 1) // alignment * alignment


def _tensor(cursor: _Cursor, i: int) -> tuple[str, tuple[int, ...], int, int]:
    """Reads the name, shape, type and offset in the data of tensor number `i`."""
    name = cursor.string(f"the name of tensor {i}", MAX_NAME_BYTES).decode("utf-8", "backslashreplace")
    what = f"tensor {name}"
    n_dimensions = cursor.number("I", what)
    if n_dimensions > MAX_DIMENSIONS:
        raise cursor.error(f"damaged: {what} has {n_dimensions:,} dimensions, expected at most {MAX_DIMENSIONS}")
    shape = tuple(cursor.number("Q", what) for _ in range(n_dimensions))
    if min(shape, default=1) < 1 or math.prod(shape) >= 1 << 63:
        raise cursor.error(f"damaged: {what} has shape {shape}, expected sizes of 1 or more and a product below 2^63")
    kind, offset = cursor.number("I", what), cursor.number("Q", what)
    if kind not in TENSOR_TYPES:
        known = "one that this version of llama.cpp supports (the file may be newer, or use a removed type)"
        raise cursor.error(f"{what} is of ggml type {kind}, expected {known}")
    label, block, _ = TENSOR_TYPES[kind]
    if (shape[0] if shape else 1) % block:
        raise cursor.error(f"damaged: {what} of type {label} has shape {shape}, expected rows of a multiple of {block}")
    return name, shape, kind, offset
