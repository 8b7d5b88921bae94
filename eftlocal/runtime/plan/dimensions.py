"""How wide a model's caches, states and buffers are for one token, from the keys of its GGUF header."""

from collections.abc import Mapping, Sequence

from eftlocal.runtime.gguf import Array, Header

__all__ = ["Keys", "cache_width", "inner", "query", "state"]


class Keys:
    """Reads the keys of a header that begin with the architecture's name."""

    def __init__(self, header: Header) -> None:
        self._metadata, self._prefix = header.metadata, header.architecture

    def number(self, key: str, default: int = 0) -> int:
        """Returns a number; if there is one for each layer, the first."""
        return next(iter(self.numbers(key)), default)

    def numbers(self, key: str) -> Sequence[int]:
        value = self._metadata.get(f"{self._prefix}.{key}")
        if isinstance(value, Array):
            return [] if value.type == "string" else [int(n) for n in value.values().tolist()]
        return [value] if isinstance(value, int) else []

    def largest(self, key: str) -> int:
        return max(self.numbers(key), default=0)

    def of_layer(self, key: str, il: int, default: int = 0) -> int:
        values = self.numbers(key)
        return values[il] if il < len(values) > 1 else next(iter(values), default)


def cache_width(keys: Keys, names: Mapping[str, tuple[int, ...]], il: int) -> tuple[int, int]:
    """Returns how many numbers one token's key and value take in a layer; (0, 0) for a layer without a KV cache."""
    k, v = (names.get(f"blk.{il}.attn_{part}.weight") for part in "kv")
    if k is not None:
        return k[-1], (v or k)[-1]
    fused = any(f"blk.{il}.{name}.weight" in names for name in ("attn_qkv", "attn_kv_b", "attn_kv_a_mqa"))
    if not fused or f"blk.{il}.ssm_conv1d.weight" in names:  # linear attention has a state instead
        return 0, 0
    heads = keys.of_layer("attention.head_count_kv", il, keys.of_layer("attention.head_count", il))
    head = keys.number("embedding_length") // max(keys.largest("attention.head_count"), 1)
    k_width = heads * keys.number("attention.key_length", head)
    if keys.number("attention.key_length_mla"):  # DeepSeek's compressed keys include the values
        return k_width, 0
    return k_width, heads * keys.number("attention.value_length", head)


def state(keys: Keys) -> int:
    """Floats of one sequence's recurrent state in one layer (llama_hparams::n_embd_r and n_embd_s)."""
    n_embd, head = keys.number("embedding_length"), keys.number("wkv.head_size")
    if head:
        return n_embd * (keys.number("token_shift_count", 2) + head)
    if taps := keys.number("shortconv.l_cache"):
        return n_embd * (taps - 1)
    kernel = keys.number("ssm.conv_kernel")
    if head := keys.number("kda.head_dim"):
        heads = keys.largest("attention.head_count")
        return heads * head * (3 * ((kernel or 4) - 1) + head)
    d_inner, d_state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    taps = max(kernel - 1, 0)
    return taps * (d_inner + 2 * keys.number("ssm.group_count") * d_state) + d_state * d_inner


def inner(keys: Keys) -> int:
    """Floats of one token in a feed-forward network (gate, up and their product) or in a recurrent layer."""
    used, n_embd = keys.largest("expert_used_count"), keys.number("embedding_length")
    experts = used * (2 * n_embd + keys.largest("expert_feed_forward_length"))
    return max(3 * keys.largest("feed_forward_length"), experts, 5 * keys.number("ssm.inner_size"))


def query(keys: Keys) -> int:
    """Floats of one token's query."""
    heads = keys.largest("attention.head_count")
    return heads * keys.number("attention.key_length", keys.number("embedding_length") // max(heads, 1))
