"""Computes what the engine must compute, but in a slow and obvious way.

Each model runs by itself in llama-cpp-python's `Llama`, and the sums are in float64. Nothing here comes from eftlocal,
and nothing is reused between calls. `numpy_llama` does not even use llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from tests.families import RMS_EPSILON, ROPE_BASE, Weights

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """A model, perhaps with an adapter, and its prompt: at least one token, read before the generated ones."""

    path: Path
    prompt: Sequence[int]
    lora: Path | None = None
    lora_scale: float = 1.0


@dataclass(frozen=True)
class Reward:
    """beta * (log p_tuned - log p_reference) + bias, where the bias maps tokens to what is added to them."""

    tuned: Member
    reference: Member
    beta: float
    bias: Mapping[int, float] = field(default_factory=dict)


def log_softmax(logits: NDArray[np.floating]) -> Rows:
    """Log-probabilities over the last axis, in float64."""
    rows: Rows = logits.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    return rows


def log_probabilities(path: Path, tokens: Sequence[int], *, lora: Path | None = None, lora_scale: float = 1.0) -> Rows:
    """One model's log-probabilities, (len(tokens), V): row t is the distribution of the token after tokens[: t + 1].

    All tokens are decoded in one batch in a new context, as exactly as llama.cpp can: with an F32 KV cache and without
    flash attention. On the tiny models, llama.cpp's defaults differ from this by 0.04. Decoding token by token differs
    from decoding in one batch by 0.004 with the defaults and by 0.00002 with the exact settings. A gemma3 is less
    exact, 0.002, because llama.cpp looks its GELU up in a table of F16 values.
    """
    model = llama_cpp.Llama(
        str(path),
        n_ctx=len(tokens) + 1,
        n_batch=len(tokens) + 1,
        n_ubatch=len(tokens) + 1,
        n_threads=1,  # threads wait for each other by spinning: on busy cores two take a hundred times as long
        n_threads_batch=1,
        n_gpu_layers=0,
        logits_all=True,
        lora_path=None if lora is None else str(lora),
        lora_scale=lora_scale,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    try:
        model.eval(list(tokens))
        return log_softmax(model.scores[: len(tokens)])
    finally:
        model.close()


def combined(
    base: Member,
    rewards: Sequence[Reward],
    generated: Sequence[int],
    *,
    reward_top_p: float | None = None,
    n_real: int | None = None,
    unrewarded: Sequence[int] = (),
) -> Rows:
    """Emulated fine-tuning (arXiv 2310.12962): log p_base + the sum of the rewards, normalised.

    Returns log-probabilities, (len(generated) + 1, n_real). Row t is the distribution of the token after each member's
    prompt and generated[:t]. So generated[t] was drawn from row t, and the last row is for the token to come.

    Each member is normalised over the first `n_real` tokens (default: the rows of the smallest vocabulary). Each reward
    is kept on the nucleus `reward_top_p` of its own tuned model. It is 0 elsewhere and on the ids `unrewarded`.
    """

    def rows(member: Member) -> Rows:
        tokens = [*member.prompt, *generated]
        all_rows = log_probabilities(member.path, tokens, lora=member.lora, lora_scale=member.lora_scale)
        return all_rows[len(member.prompt) - 1 :]

    base_rows = rows(base)
    reward_rows = [(rows(reward.tuned), rows(reward.reference), reward) for reward in rewards]
    if n_real is None:
        n_real = min(each.shape[1] for each in [base_rows, *(r for t, f, _ in reward_rows for r in (t, f))])

    total = log_softmax(base_rows[:, :n_real])
    for tuned_rows, reference_rows, given in reward_rows:
        tuned = log_softmax(tuned_rows[:, :n_real])
        reward = given.beta * (tuned - log_softmax(reference_rows[:, :n_real]))
        for token, added in given.bias.items():
            reward[:, token] += added
        if reward_top_p is not None:
            for t in range(len(tuned)):
                reward[t, ~nucleus(tuned[t], reward_top_p)] = 0.0
        reward[:, list(unrewarded)] = 0.0
        total = total + reward
    return log_softmax(total)


def nucleus(log_probability: Rows, p: float) -> NDArray[np.bool_]:
    """(V,) -> (V,): the smallest set of most probable tokens whose probability reaches `p`; all of them for p >= 1."""
    kept = np.zeros(len(log_probability), dtype=bool)
    reached = 0.0
    for id in np.argsort(-log_probability, kind="stable"):
        if reached >= p and p < 1.0:
            break
        kept[id] = True
        reached += float(np.exp(log_probability[id]))
    return kept


def numpy_llama(weights: Weights, tokens: Sequence[int]) -> Rows:
    """A tiny llama's log-probabilities, (len(tokens), V), computed by a plain forward pass in float64.

    Rotary positions are those of llama.cpp for this architecture (LLAMA_ROPE_TYPE_NORM): dimensions 2i and 2i + 1
    turn together by position * base^(-2i / head). Transformers pairs i with i + head / 2, and llama.cpp's converter
    permutes the rows of q and k to match. Our random matrices need no permutation.
    """
    tensor = {name: matrix.astype(np.float64) for name, matrix in weights.tensors.items()}
    length, n_head, n_head_kv = len(tokens), weights.n_head, weights.n_head_kv

    def rms_norm(x: Rows, name: str) -> Rows:
        scaled: Rows = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + RMS_EPSILON)
        return scaled * tensor[f"{name}.weight"]

    def linear(x: Rows, name: str) -> Rows:
        product: Rows = x @ tensor[f"{name}.weight"].T
        return product

    def rotate(x: Rows) -> Rows:  # (length, heads, head)
        head = x.shape[-1]
        angle = np.arange(length)[:, None] * ROPE_BASE ** (-np.arange(0, head, 2) / head)  # (length, head / 2)
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    x: Rows = tensor["token_embd.weight"][list(tokens)]  # (length, d_model)
    future = np.triu(np.ones((length, length), dtype=bool), k=1)
    for layer in range(weights.n_layers):
        block = f"blk.{layer}"
        h = rms_norm(x, f"{block}.attn_norm")
        q = rotate(linear(h, f"{block}.attn_q").reshape(length, n_head, -1))
        k = rotate(linear(h, f"{block}.attn_k").reshape(length, n_head_kv, -1))
        v = linear(h, f"{block}.attn_v").reshape(length, n_head_kv, -1)
        heads = []
        for head in range(n_head):
            shared = head // (n_head // n_head_kv)  # grouped-query attention: neighbours share a key and a value
            score = q[:, head] @ k[:, shared].T / np.sqrt(q.shape[-1])  # (length, length)
            heads.append(np.exp(log_softmax(np.where(future, -np.inf, score))) @ v[:, shared])
        x = x + linear(np.concatenate(heads, axis=-1), f"{block}.attn_output")

        h = rms_norm(x, f"{block}.ffn_norm")
        gate = linear(h, f"{block}.ffn_gate")
        x = x + linear(gate / (1.0 + np.exp(-gate)) * linear(h, f"{block}.ffn_up"), f"{block}.ffn_down")
    return log_softmax(linear(rms_norm(x, "output_norm"), "output"))
