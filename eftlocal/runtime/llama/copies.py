"""Copies of sequences: what a context holds of one, to be put into another context of the same model."""

import ctypes
import struct
from typing import Any, NamedTuple

import llama_cpp as lib

__all__ = ["SavedSequence", "put", "taken"]

HEADER = 8  # bytes before what llama_kv_cache::state_write writes: a magic number, and one more number


class SavedSequence(NamedTuple):
    """A copy of what a cache for `n_seq` sequences holds of one of them: `size` bytes of `data`, for `n` tokens."""

    data: "ctypes.Array[ctypes.c_uint8]"
    size: int
    n: int
    n_seq: int


def taken(handle: Any, sequence: int, *, n: int, n_seq: int, room: int) -> SavedSequence:
    """Returns a copy of a sequence of `n` tokens. It can be put into a context for up to `room` sequences more."""
    size = lib.llama_state_seq_get_size(handle, sequence)
    data = (ctypes.c_uint8 * (size + 4 * room))()
    return SavedSequence(data, lib.llama_state_seq_get_data(handle, data, size, sequence), n, n_seq)


def put(handle: Any, sequence: int, copy: SavedSequence, *, n_seq: int) -> bool:
    """Puts a copy into a context for `n_seq` sequences. Returns whether llama.cpp took it; else nothing is there.

    llama.cpp (llama_kv_cache::state_write) writes a header, the number of sequences, and then for each of them its
    number of cells and what they hold. It refuses a copy from a context for another number. So that number is changed
    here, and empty sequences are added, if a sequence that holds nothing shows this form. A sliding window has two
    caches and another form, and is not copied. A recurrent state has no such number.
    """
    size = copy.size
    empty = taken(handle, sequence, n=0, n_seq=n_seq, room=0)
    form = struct.pack(f"{n_seq + 1}I", n_seq, *[0] * n_seq)
    if bytes(empty.data[HEADER : empty.size]) == form and struct.unpack_from("I", copy.data, HEADER) == (copy.n_seq,):
        struct.pack_into("I", copy.data, HEADER, n_seq)
        size += 4 * (n_seq - copy.n_seq)  # the bytes behind the copy are 0
    return bool(size and lib.llama_state_seq_set_data(handle, copy.data, size, sequence))
