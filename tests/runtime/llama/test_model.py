"""Tests of a model's weights and tokenizer: a refused file gives llama.cpp's reason; tokens keep the text's bytes."""

import os
import sys
import threading
from pathlib import Path

import gguf as gguf_writer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal.errors import DecodeError, ModelLoadError
from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.llama.stack import on_deep_stack
from tests import families
from tests.families import VOCAB, Family
from tests.runtime.altered import altered

# --- files that llama.cpp refuses -------------------------------------------------------------------------------------


def test_a_file_that_passes_the_header_check_but_not_llama_cpp_gives_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "no-output-norm.gguf"
    whole = families.write_model(tmp_path / "whole.gguf", seed=1)
    path.write_bytes(whole.read_bytes().replace(b"output_norm.weight", b"output_form.weight"))
    with pytest.raises(ModelLoadError, match=r"no-output-norm\.gguf: .*'output_norm\.weight' not found") as caught:
        Model(gguf.check(path))
    assert "\n" not in caught.value.message


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names of any bytes")
@pytest.mark.parametrize("folder", [b"mod\xc3\xa8les", b"m\xff"])
def test_a_model_and_an_adapter_load_from_a_folder_of_any_name(tmp_path: Path, family: Family, folder: bytes) -> None:
    there = tmp_path / os.fsdecode(folder)
    there.mkdir()
    for path in (family.reference, family.lora):
        (there / path.name).write_bytes(path.read_bytes())
    made = Model(gguf.check(there / family.reference.name))
    assert made.lora(there / family.lora.name)
    with pytest.raises(ModelLoadError) as caught:
        made.lora(there / "missing.gguf")
    assert caught.value.message.isprintable()
    made.close()


def test_an_adapter_of_another_shape_gives_llama_cpps_reason(family: Family) -> None:
    made = Model(gguf.check(family.base))
    before = Context(made, n_ctx=64)
    try:
        expected = before.feed([Feed(0, [1, 2, 3], 1)]).copy()
        with pytest.raises(ModelLoadError, match=r"lora\.gguf: .*could not apply this adapter to .*base\.gguf: .+"):
            Context(made, n_ctx=64, lora=(family.lora, 1.0))
        with pytest.raises(ModelLoadError):  # a model is not an adapter
            Context(made, n_ctx=64, lora=(family.tuned, 1.0))
        fine = Context(made, n_ctx=64)  # the weights can still be used
        np.testing.assert_array_equal(fine.feed([Feed(0, [1, 2, 3], 1)]), expected)
        fine.close()
    finally:
        before.close()
        made.close()


def test_an_adapter_for_experts_is_not_applied_to_a_plain_matrix(family: Family, tmp_path: Path) -> None:
    """llama.cpp accepts it when it loads, and aborts when it computes."""
    path = tmp_path / "experts.gguf"
    writer = gguf_writer.GGUFWriter(path, "llama")
    writer.add_type(gguf_writer.GGUFType.ADAPTER)
    writer.add_string(gguf_writer.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf_writer.Keys.Adapter.LORA_ALPHA, 1.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((2, 2, 64), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((2, 64, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = Model(gguf.check(family.tuned))
    try:
        with pytest.raises(
            ModelLoadError, match=r"lora_a has the shape \(64, 2, 2\), expected one for .*\(64, 64\) in"
        ):
            Context(made, n_ctx=64, lora=(path, 1.0))
    finally:
        made.close()


# --- the tokenizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [-1, 1_000_000])
def test_an_id_outside_the_vocabulary_is_an_error_and_no_abort(model: Model, token: int) -> None:
    with pytest.raises(DecodeError, match=f"token {token} is not in its vocabulary of {model.n_vocab}"):
        model.piece(token)
    assert not model.is_eog(token)


def test_a_typed_control_token_stays_text(model: Model) -> None:
    for text in families.SPECIALS:
        ids = model.tokenize(f"a{text}b")
        assert not set(ids) & set(model.controls.values())
        assert b"".join(map(model.piece, ids)).decode() == f"a{text}b"
    assert model.controls == {text: VOCAB.id(text) for text in families.SPECIALS}


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=[])))
def test_tokens_are_the_texts_own_bytes(family: Family, text: str) -> None:
    made = _shared(family)
    assert b"".join(map(made.piece, made.tokenize(text))) == text.encode("utf-8", "surrogatepass")


_kept: list[Model] = []


def _shared(family: Family) -> Model:
    """Returns one model that all examples of hypothesis share."""
    if not _kept:
        _kept.append(Model(gguf.check(family.tuned)))
    return _kept[0]


def test_a_control_token_stands_for_no_text_and_a_long_piece_is_whole(tmp_path: Path, model: Model) -> None:
    assert [model.piece(VOCAB.id(text)) for text in families.SPECIALS] == [b"", b"", b""]
    long = "x" * 300
    vocab = VOCAB.extended([long], gguf_writer.TokenType.NORMAL)
    made = Model(gguf.check(families.write_model(tmp_path / "long.gguf", seed=1, vocab=vocab)))
    assert made.piece(vocab.id(long)) == long.encode()
    made.close()


def test_the_ends_of_generation_are_the_eos_and_those_of_llama_cpps_names(family: Family, model: Model) -> None:
    ends = {text for text in families.SPECIALS if model.is_eog(VOCAB.id(text))}
    assert "<|im_end|>" in ends and "<|im_start|>" not in ends
    assert not any(model.is_eog(i) for i in range(256))


def test_bos_is_added_only_where_the_vocabulary_says_so(family: Family, model: Model) -> None:
    made = Model(gguf.check(family.with_bos))
    assert made.add_bos and not model.add_bos
    assert made.bos == VOCAB.id("<|endoftext|>")
    assert made.bos not in made.tokenize("Hello")  # the view adds it
    made.close()


def test_a_text_of_a_megabyte_is_tokenized(model: Model) -> None:
    for text in ("a", " ", "\n", "1", "😀"):
        many = text * (300_000 // len(text.encode()))
        assert b"".join(map(model.piece, set(model.tokenize(many)))).decode().strip(text) == ""


@pytest.mark.parametrize("pre", ["tekken", "default", "deepseek-llm"])
def test_a_word_of_any_length_is_tokenized_whatever_the_pre_tokenizer(pre: str, family: Family, tmp_path: Path) -> None:
    """llama.cpp splits a text with std::regex, which filled a stack of 8 MB with a word of 25,000 letters."""
    made = Model(gguf.check(altered(family.tuned, tmp_path / "pre.gguf", {"tokenizer.ggml.pre": pre})))
    try:
        for text in ("a", "!", "1", "é"):
            assert b"".join(map(made.piece, made.tokenize(text * 40_000))) == (text * 40_000).encode()
        with pytest.raises(DecodeError, match="a text has 4,194,305 characters, expected at most 4,194,304"):
            made.tokenize("a" * (1 + (1 << 22)))
    finally:
        made.close()


def test_a_deep_stack_returns_and_raises_what_the_call_does_and_leaves_the_setting() -> None:
    before = threading.stack_size()
    here = threading.get_ident()
    assert on_deep_stack(10, threading.get_ident) == here != on_deep_stack(50 << 20, threading.get_ident)
    with pytest.raises(ZeroDivisionError):
        on_deep_stack(50 << 20, lambda: 1 // 0)
    assert threading.stack_size() == before
