"""LoRA adapters: whether one fits a model, and which of its tensors llama.cpp accepts and does not use."""

from typing import Final

from eftlocal.errors import ModelFileError
from eftlocal.runtime.gguf_header import Header, Tensor

__all__ = ["must_fit", "unused"]

# Matrices that llama.cpp multiplies without asking for an adapter's part (no build_lora_mm in src/models/*.cpp).
WITHOUT: Final = (".ssm_a", ".ssm_conv1d.weight", ".shortconv.conv.weight", ".attn_k_b.weight", ".attn_v_b.weight")
EMBEDDING: Final = "token_embd.weight"
OUTPUT: Final = "output.weight"


def must_fit(adapter: Header, model: Header) -> None:
    """Raises ModelFileError for an adapter that llama.cpp would refuse, or on which it would end the process."""
    theirs, names = _changed(adapter), _by_name(model)
    if missing := [name for name in theirs if name not in names]:
        raise ModelFileError(
            f"{adapter.path}: does not fit {model.path.name}, which does not have {_named(missing)}",
            "An adapter works on the model that it was trained on, and on copies of that in other types.",
        )
    # The output is the embedding then, and the two parts of an adapter stand the other way round there.
    if EMBEDDING in theirs and OUTPUT not in names:
        raise ModelFileError(
            f"{adapter.path}: changes the token embedding of {model.path.name}, which is its output, too: llama.cpp "
            "cannot apply that",
            "Merge the adapter into the model, or train it without the embedding.",
        )


def unused(adapter: Header, model: Header) -> list[str]:
    """The tensors of a model that an adapter changes in its file and that llama.cpp uses unchanged."""
    tensors = _by_name(model)
    plain = [t.name for t in adapter.tensors if t.name.endswith("_norm.weight")]  # whole norms, not pairs: skipped
    pairs = [name for name in _changed(adapter) if name in tensors and _without(tensors[name])]
    return sorted({*plain, *pairs})


def _without(tensor: Tensor) -> bool:
    """Whether llama.cpp applies no adapter to a tensor: norms, biases and other vectors, and convolutions."""
    return len(tensor.shape) < 2 or tensor.name.endswith(WITHOUT)


def _changed(adapter: Header) -> list[str]:
    """The names of the tensors that the adapter has a pair for."""
    return [t.name.removesuffix(".lora_a") for t in adapter.tensors if t.name.endswith(".lora_a")]


def _by_name(model: Header) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in model.tensors}


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
