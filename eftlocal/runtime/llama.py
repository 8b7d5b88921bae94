"""One model through llama.cpp: its weights, its tokenizer and its KV caches; nothing else imports llama_cpp.

llama.cpp answers a bad call by aborting the process, so every limit (batch, context, token range) is checked first.
"""

import ctypes
import platform
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from eftlocal.errors import DecodeError, ModelFileError, ModelLoadError, SettingError
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.plan.machine import Device
from eftlocal.runtime.plan.memory import CPU_BATCH, GPU_BATCH, MAX_ROWS
from eftlocal.runtime.plan.placement import Offload

Logits = NDArray[np.float32]

VIEWS = 64  # arrays over a context's logits that are kept
MAX_THREADS = 512  # GGML_MAX_N_THREADS; far beyond it, starting the threads ends the process
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ in llama.cpp's src/llama-cparams.h
KV_TYPES = {"f32": lib.GGML_TYPE_F32, "f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}


class Cancelled(Exception):  # noqa: N818 - a request, not an error; the engine turns it into a finish reason
    """The caller asked to stop between two chunks of a prefill."""


# --- logs -----------------------------------------------------------------------------------------------------------

_recent: deque[str] = deque(maxlen=50)  # what llama.cpp said last: the reason, when a load fails
_verbose = False


@lib.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes function type
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace")
    if level >= 3:  # GGML_LOG_LEVEL_WARN; above it ERROR (4) and CONT (5), which goes on with a line
        _recent.append(line.strip())
    if _verbose:
        sys.stderr.write(line)


lib.llama_log_set(_log, ctypes.c_void_p(0))


def set_verbose(verbose: bool) -> None:
    """Let llama.cpp's own log through to stderr, or keep it silent (the default)."""
    global _verbose
    _verbose = verbose


def _reason() -> str:
    """llama.cpp's own last words on what went wrong."""
    errors = [line for line in _recent if "error" in line.lower() or "fail" in line.lower()]
    return (errors or list(_recent) or ["no reason given"])[0]


@cache
def _backend() -> None:
    lib.llama_backend_init()


# --- what this build of llama.cpp has, and what it runs on ------------------------------------------------------------


def can_offload() -> bool:
    """Whether this build of llama.cpp can run layers on a device (CUDA, Metal, Vulkan, ...)."""
    _backend()
    return bool(lib.llama_supports_gpu_offload())


def version() -> str:
    """llama-cpp-python's version."""
    return str(lib.__version__)


def build_features() -> Mapping[str, str]:
    """What this build of llama.cpp can use here: backends beside the CPU ("CUDA"), and their features ("AVX2").

    The value is "1", but for features with a value of their own ("ARCHS" -> "890").
    """
    _backend()
    found = {}
    for part in lib.llama_print_system_info().decode("utf-8", "replace").split("|"):
        backend, named, rest = part.rpartition(" : ")  # "CUDA : ARCHS = 890 | CPU : SSE3 = 1 | AVX = 1 | "
        name, equals, value = (rest if named else part).partition("=")
        if named and backend.strip() != "CPU":
            found[backend.strip()] = "1"
        if equals and value.strip() != "0":
            found[name.strip()] = value.strip()
    if lib.llama_supports_rpc():
        found["RPC"] = "1"
    return found


def devices() -> tuple[Device, ...]:
    """What llama.cpp can put layers on, beside the CPU; () where its library does not tell."""
    return tuple(device for device, _ in _devices())


DEVICE_KINDS: Mapping[int, Literal["gpu", "igpu", "accel"]] = {1: "gpu", 2: "igpu", 3: "accel"}  # ggml-backend.h


def _devices() -> list[tuple[Device, int]]:
    """Devices with their handles (ggml_backend_dev_t)."""
    _backend()
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    try:
        count, get = _ggml("ggml_backend_dev_count", size), _ggml("ggml_backend_dev_get", pointer, size)
        name, describe = (_ggml(f"ggml_backend_dev_{what}", text, pointer) for what in ("name", "description"))
        kind = _ggml("ggml_backend_dev_type", ctypes.c_int, pointer)
        backend = _ggml("ggml_backend_dev_backend_reg", pointer, pointer)
        backend_name = _ggml("ggml_backend_reg_name", text, pointer)
        memory = _ggml("ggml_backend_dev_memory", None, pointer, ctypes.POINTER(size), ctypes.POINTER(size))
    except AttributeError:
        return []
    found: list[tuple[Device, int]] = []
    owners: dict[str, str] = {}
    for i in range(count()):
        handle = get(i)
        if (which := DEVICE_KINDS.get(kind(handle))) is None:  # the CPU
            continue
        free, total = size(), size()
        memory(handle, ctypes.byref(free), ctypes.byref(total))
        owner, description = _text(backend_name(backend(handle))), _text(describe(handle))
        if owners.setdefault(description, owner) != owner:  # one GPU, seen by two backends
            continue
        shared = which == "igpu" or (owner in ("MTL", "Metal") and platform.machine() == "arm64")
        found.append((Device(_text(name(handle)), description, which, free.value, total.value, shared), handle))
    return found


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace").strip()


def _ggml(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of ggml's that the bindings do not declare. Raises AttributeError where there is none.

    Looked up in the library that is loaded: a second copy of it would have a list of devices of its own. On Windows a
    library does not answer for those it was linked with, and is found again by its name.
    """
    libraries = [lib.llama_cpp._lib]
    if sys.platform == "win32":
        folder = lib.llama_cpp._base_path
        paths = (folder / f"{prefix}ggml{part}.dll" for prefix in ("", "lib") for part in ("", "-base"))
        libraries += [ctypes.CDLL(str(path)) for path in paths if path.exists()]
    for library in libraries:
        try:
            function = library[name]
        except AttributeError:
            continue
        function.restype, function.argtypes = result, arguments
        return function  # type: ignore[no-any-return]  # a ctypes function pointer
    raise AttributeError(name)


# --- weights --------------------------------------------------------------------------------------------------------


class Model:
    """The weights and the tokenizer of one GGUF file, loaded once; contexts share it.

    `header`: the file's own, by gguf.check, so that llama.cpp never meets a file that was not looked at before.
    Raises ModelLoadError, with llama.cpp's reason, when the file cannot be loaded.
    """

    def __init__(self, header: Header, offload: Offload | None = None) -> None:
        """Load the weights, with these layers on devices; None is llama.cpp's own choice: all, where it has devices."""
        _backend()
        path = header.path
        _recent.clear()
        params = lib.llama_model_default_params()
        self._kept: list[Any] = []  # arrays that llama.cpp reads from
        if offload is not None:
            self._kept = _set_offload(params, offload)
        handle = lib.llama_model_load_from_file(str(path).encode(), params)
        if not handle:
            raise ModelLoadError(f"{path}: llama.cpp could not load it: {_reason()}")
        self.path = path
        self.handle = handle
        self.on_device = can_offload() if offload is None else offload.layers > 0 and bool(offload.devices)
        self._vocab = lib.llama_model_get_vocab(handle)
        self._loras: dict[Path, lib.llama_adapter_lora_p] = {}
        self._pieces: dict[int, bytes] = {}  # of the tokens that were asked for: a call costs more than a look
        self._ends: dict[int, bool] = {}
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        bos = int(lib.llama_vocab_bos(self._vocab))
        self.bos = bos if bos >= 0 else None
        self.add_bos = self.bos is not None and bool(lib.llama_vocab_get_add_bos(self._vocab))
        self._types = header.array("tokenizer.ggml.token_type")
        # Recurrent and hybrid models keep a state that cannot be cut in the middle.
        self.rewinds = not (lib.llama_model_is_recurrent(handle) or lib.llama_model_is_hybrid(handle))

    @cached_property
    def controls(self) -> Mapping[str, int]:
        """The tokens that stand for no text, by their texts: only a template may write them."""
        if self._types is None:
            return {}
        types = self._types.values()
        ids = np.flatnonzero((types == lib.LLAMA_TOKEN_TYPE_CONTROL) | (types == lib.LLAMA_TOKEN_TYPE_UNKNOWN)).tolist()
        return {text: i for i in ids if (text := lib.llama_vocab_get_text(self._vocab, i).decode("utf-8", "replace"))}

    @cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer puts a space before any text it is given (SentencePiece's habit)."""
        return b"".join(map(self.piece, self.tokenize("a")))[:1] == b" "

    def strips(self, token: int) -> tuple[bool, bool]:
        """Whether a control token swallows the white space before it, and after it."""
        attributes = int(lib.llama_vocab_get_attr(self._vocab, token))
        return bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP), bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP)

    def tokenize(self, text: str) -> list[int]:
        """The ids of plain text: no BOS, and control tokens that appear in `text` stay text."""
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8  # a byte is at most one token; a leading space may be added
        tokens = (lib.llama_token * room)()
        n = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, False)
        if n < 0:
            room = -n
            tokens = (lib.llama_token * room)()
            n = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, False)
        return list(tokens[:n])

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for; a control token stands for none."""
        if (known := self._pieces.get(token)) is not None:
            return known
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if n >= 0:
                return self._pieces.setdefault(token, buffer.raw[:n])
            room = -n

    def is_eog(self, token: int) -> bool:
        """Whether `token` ends a generation (llama.cpp's set, which it builds from the tokens' texts)."""
        if (known := self._ends.get(token)) is None:
            known = self._ends[token] = bool(lib.llama_vocab_is_eog(self._vocab, token))
        return known

    def lora(self, path: Path) -> lib.llama_adapter_lora_p:
        """The LoRA adapter at `path`, loaded once for these weights. Raises ModelLoadError."""
        if path not in self._loras:
            _recent.clear()
            adapter = lib.llama_adapter_lora_init(self.handle, str(path).encode())
            if not adapter:
                raise ModelLoadError(f"{path}: llama.cpp could not apply this adapter to {self.path}: {_reason()}")
            self._loras[path] = adapter
        return self._loras[path]

    def close(self) -> None:
        """Free the weights (and adapters); every context of theirs must be closed before."""
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None


def _set_offload(params: lib.llama_model_params, offload: Offload) -> list[Any]:
    """Fill in the parameters that place a model's layers; returns the arrays that they point into."""
    handles = {device.name: handle for device, handle in _devices()}
    if missing := [name for name in offload.devices if name not in handles]:
        raise ModelLoadError(f"There is no device named {missing[0]}.", f"Devices: {', '.join(handles) or 'none'}.")
    names = offload.devices if offload.layers > 0 else ()
    chosen = (ctypes.c_void_p * (len(names) + 1))(*(handles[name] for name in names), None)  # alone, NULL is: none
    params.devices = ctypes.addressof(chosen)  # type: ignore[assignment]  # the bindings name another type
    params.n_gpu_layers = offload.layers if names else 0
    params.main_gpu = 0
    if len(names) < 2:
        params.split_mode = lib.LLAMA_SPLIT_MODE_NONE if names else lib.LLAMA_SPLIT_MODE_LAYER
        return [chosen]
    params.split_mode = lib.LLAMA_SPLIT_MODE_ROW if offload.rows else lib.LLAMA_SPLIT_MODE_LAYER
    ratios = offload.ratios or (1.0,) * len(names)
    shares = (ctypes.c_float * max(lib.LLAMA_MAX_DEVICES, len(names)))(*(ratio / sum(ratios) for ratio in ratios))
    params.tensor_split = shares  # ctypes takes an array for a pointer to its first element
    return [chosen, shares]


# --- one member's KV cache ------------------------------------------------------------------------------------------


class Feed(NamedTuple):
    """Tokens that continue one sequence, and for how many of the last of them logits are wanted."""

    sequence: int
    tokens: Sequence[int]
    rows: int


Cell = tuple[int, int, int]  # a token, its position, its sequence


class Context:
    """The KV cache of one member, for several sequences: feed tokens, get logits, rewind, fork.

    It knows how many tokens of each sequence it holds for certain. A feed that fails or is cancelled leaves that count
    at what was decoded whole; what lies beyond it is removed before the sequence is used again.
    Not thread-safe: one call at a time (different contexts may run at the same time).
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_seq: int = 1,
        n_threads: int = 1,
        lora: tuple[Path, float] | None = None,
        kv_type: str = "f16",
    ) -> None:
        """A cache for `n_seq` sequences of `n_ctx` tokens each, with keys and values stored as `kv_type`.

        f32 also turns flash attention off: then logits do not depend on how tokens were batched, to about 1e-5.
        Raises ModelLoadError, and SettingError for a number of threads that llama.cpp does not take.
        """
        if not 1 <= n_threads <= MAX_THREADS:
            raise SettingError(f"{n_threads} threads were asked for; it must be 1 to {MAX_THREADS}.")
        _recent.clear()
        self.model = model
        self.n_batch = GPU_BATCH if model.on_device else CPU_BATCH
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx * n_seq
        params.n_batch = params.n_ubatch = max(self.n_batch, n_seq)
        params.n_seq_max = n_seq
        params.n_outputs_max = self._max_rows = min(params.n_batch, max(MAX_ROWS, n_seq))
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        params.type_k = params.type_v = KV_TYPES[kv_type]
        if kv_type == "f32":
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.swa_full = True  # a sliding window that forgot could not be rewound
        params.kv_unified = False  # each sequence attends over its own cells only
        handle = lib.llama_init_from_model(model.handle, params)
        if not handle:
            raise ModelLoadError(
                f"{model.path}: llama.cpp could not create a context of {n_ctx} tokens x {n_seq}: {_reason()}",
                "A smaller context (--ctx) needs less memory.",
            )
        self._handle = handle
        self._memory = lib.llama_get_memory(handle)
        self.n_ctx = min(n_ctx, int(lib.llama_n_ctx_seq(handle)))
        self.n_seq = n_seq
        self._held = [0] * n_seq  # tokens of each sequence that were decoded whole
        self._torn = [False] * n_seq  # whether the cache may hold more than that
        self.n_fed = 0  # tokens decoded since the start
        if lora is not None:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(
                ctypes.cast(model.lora(lora[0]), lib.llama_adapter_lora_p_ctypes)
            )
            if lib.llama_set_adapters_lora(handle, adapters, 1, (ctypes.c_float * 1)(lora[1])) != 0:
                raise ModelLoadError(f"{lora[0]}: llama.cpp could not set this adapter on {model.path}")
        self._n_threads = n_threads
        self._views: dict[tuple[int, int], Logits] = {}  # of llama.cpp's buffer, by address and rows
        self._tokens = np.zeros(params.n_batch, np.int32)
        self._positions = np.zeros(params.n_batch, np.int32)
        self._sequences = np.zeros(params.n_batch, np.int32)
        self._wanted = np.zeros(params.n_batch, np.int8)
        self._batch = _batch(self._tokens, self._positions, self._sequences, self._wanted)

    def held(self, sequence: int) -> int:
        """How many tokens of `sequence` the cache holds for certain; to be asked again after an error."""
        return self.rewind(sequence, self._held[sequence])  # a torn recurrent state is lost as a whole

    def rewind(self, sequence: int, n: int) -> int:
        """Keep the first `n` tokens of `sequence`; returns how many are really kept.

        That is fewer than `n` where the cache holds fewer, and 0 where a recurrent state cannot be cut.
        """
        if n >= self._held[sequence] and not self._torn[sequence]:
            return self._held[sequence]
        n = min(n, self._held[sequence])
        self._held[sequence], self._torn[sequence] = n, True  # until it is done: a KeyboardInterrupt may come between
        if n == 0 or not lib.llama_memory_seq_rm(self._memory, sequence, n, -1):
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)  # a whole sequence can always be removed
            self._held[sequence] = n = 0
        self._torn[sequence] = False
        return n

    def fork(self, source: int, target: int, n: int) -> int:
        """Make `target` hold the first `n` tokens of `source` (computed once); returns how many it holds."""
        self.rewind(source, self._held[source])  # a torn tail must not be copied
        self.rewind(target, 0)
        self._torn[target] = True
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self._held[target], self._torn[target] = self._held[source], False
        return self.rewind(target, n)

    def set_threads(self, n: int) -> None:
        """Decode with `n` threads from now on."""
        if n != self._n_threads:
            lib.llama_set_n_threads(self._handle, n, n)
            self._n_threads = n

    def feed(self, feeds: Sequence[Feed], cancelled: Callable[[], bool] | None = None) -> Logits:
        """Decode tokens after what each sequence holds; returns the wanted rows, (rows, n_vocab) float32.

        Rows come in the order of `feeds`. They are a view into llama.cpp's own buffer: the next feed overwrites it.
        A long feed is decoded in chunks of n_batch; `cancelled` is asked before each.

        Raises Cancelled, and DecodeError when llama.cpp refuses a batch; both leave every sequence usable.
        """
        for sequence in {f.sequence for f in feeds}:
            self.rewind(sequence, self._held[sequence])
        quiet, wanted = self._lay_out(feeds)
        rows = len(wanted)
        # llama.cpp decodes sequences with as many tokens together. Where they have more and fewer, those of a prompt go
        # first: mixed into the rows of others, its first token would make 17 of 16, which cost as much as 20.
        alike = len({len(feed.tokens) for feed in feeds}) <= 1
        parts = [quiet + wanted] if alike else [part for part in (quiet, wanted) if part]
        for part in parts:
            start, last = 0, rows if part is parts[-1] else 0
            while start < len(part):
                if cancelled is not None and cancelled():
                    raise Cancelled
                # The wanted rows share the last decode, since each decode overwrites the rows of the one before.
                left, room = len(part) - start, len(self._tokens)
                stop = len(part) if left <= room else min(start + room, len(part) - last)
                self._decode(part[start:stop], max(0, stop - (len(part) - last)))
                start = stop
        return self._logits([sequence for _, _, sequence in wanted])

    def _lay_out(self, feeds: Sequence[Feed]) -> tuple[list[Cell], list[Cell]]:
        """What is to be decoded: what no logits are wanted of, and then, in order, the rest."""
        quiet: list[Cell] = []
        wanted: list[Cell] = []
        for sequence, tokens, rows in feeds:
            held = self._held[sequence]
            if held + len(tokens) > self.n_ctx:
                raise DecodeError(
                    f"{self.model.path}: {held} + {len(tokens)} tokens do not fit in a context of {self.n_ctx}"
                )
            for i, token in enumerate(tokens):
                if not 0 <= token < self.model.n_vocab:
                    raise DecodeError(
                        f"{self.model.path}: token {token} is not in its vocabulary of {self.model.n_vocab}"
                    )
                (wanted if i >= len(tokens) - rows else quiet).append((token, held + i, sequence))
        if len(wanted) > self._max_rows:  # more would abort the process
            raise DecodeError(
                f"{self.model.path}: {len(wanted)} rows of logits asked for, at most {self._max_rows} at once"
            )
        return quiet, wanted

    def _decode(self, cells: list[Cell], rows: int) -> None:
        """Decode these, with logits of the last `rows`: in ascending order of sequences, as `_logits` knows."""
        n = len(cells)
        flags = [0] * (n - rows) + [1] * rows
        if n > 1:  # llama.cpp computes neighbours together only where they ascend
            order = sorted(range(n), key=lambda i: cells[i][2])
            cells, flags = [cells[i] for i in order], [flags[i] for i in order]
        tokens, positions, sequences = zip(*cells, strict=True)
        self._tokens[:n], self._positions[:n], self._sequences[:n], self._wanted[:n] = (
            tokens,
            positions,
            sequences,
            flags,
        )
        self._batch.n_tokens = n
        for sequence in sequences:
            self._torn[sequence] = True
        code = lib.llama_decode(self._handle, self._batch)
        if code != 0:
            raise DecodeError(f"{self.model.path}: llama.cpp could not decode {n} tokens (code {code}): {_reason()}")
        for sequence, position in dict(zip(sequences, positions, strict=True)).items():  # each one's last
            self._held[sequence], self._torn[sequence] = position + 1, False
        self.n_fed += n

    def _logits(self, sequences: list[int]) -> Logits:
        """The last decode's rows, in the order of their sequences here."""
        rows = len(sequences)
        if rows == 0:
            return np.empty((0, self.model.n_vocab), np.float32)
        pointer = lib.llama_get_logits(self._handle)
        address = ctypes.addressof(pointer.contents)
        if (logits := self._views.get((address, rows))) is None:
            if len(self._views) >= VIEWS:  # the buffer grows a few times, and then stays
                self._views.clear()
            logits = self._views[address, rows] = np.ctypeslib.as_array(pointer, (rows, self.model.n_vocab))
        if all(a <= b for a, b in pairwise(sequences)):
            return logits
        return logits[np.argsort(np.argsort(sequences, kind="stable"))]  # the batch was in ascending order

    def close(self) -> None:
        """Free the cache."""
        if self._handle:
            lib.llama_free(self._handle)
            self._handle = None


def _batch(
    tokens: NDArray[np.int32], positions: NDArray[np.int32], sequences: NDArray[np.int32], wanted: NDArray[np.int8]
) -> lib.llama_batch:
    """A llama_batch over our own arrays, so that a step is filled by numpy and not token by token."""
    integers, n = ctypes.POINTER(ctypes.c_int32), len(tokens)
    first = sequences.ctypes.data
    rows = (integers * n)(*(ctypes.cast(first + 4 * i, integers) for i in range(n)))
    ones = (ctypes.c_int32 * n)(*([1] * n))
    return lib.llama_batch(
        n_tokens=0,
        token=tokens.ctypes.data_as(integers),
        embd=None,
        pos=positions.ctypes.data_as(integers),
        n_seq_id=ctypes.cast(ones, integers),
        seq_id=ctypes.cast(rows, ctypes.POINTER(integers)),
        logits=wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
    )


QUANTIZED = {
    "F16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


def quantize(source: Path, target: Path, kind: str) -> None:
    """Write `source` with its weights stored as `kind`, one of QUANTIZED. Raises ModelFileError."""
    _backend()
    params = lib.llama_model_quantize_default_params()
    params.ftype = QUANTIZED[kind]
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise ModelFileError(f"{source}: llama.cpp could not quantize it to {kind}: {_reason()}")
