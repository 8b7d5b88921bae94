"""Tests of comparing vocabularies token by token, from headers alone."""

from pathlib import Path

import numpy as np
import pytest

from eftlocal.errors import ModelFileError, VocabularyError
from eftlocal.runtime import gguf
from eftlocal.runtime.gguf import Header
from eftlocal.runtime.gguf_arrays import Array
from eftlocal.runtime.vocab import CONTROL, NORMAL, UNUSED, USER_DEFINED, Vocabulary, shared
from tests.families import Family

BYTE = 6
TEXTS = ("a", "b", "c", "<|start|>", "<|end|>")
TYPES = (NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED)


def vocabulary(
    texts: tuple[str, ...] = TEXTS, types: tuple[int, ...] | None = TYPES, *, model: str = "gpt2", pre: str = "qwen2"
) -> Vocabulary:
    metadata: dict[str, bool | int | float | str | Array] = {"tokenizer.ggml.model": model, "tokenizer.ggml.pre": pre}
    raw = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in texts)
    metadata["tokenizer.ggml.tokens"] = Array("string", len(texts), raw)
    if types is not None:
        metadata["tokenizer.ggml.token_type"] = Array("i32", len(types), np.array(types, "<i4").tobytes())
    return Vocabulary.of(Header(path=Path("x.gguf"), version=3, metadata=metadata, tensors=(), file_bytes=0, shards=()))


def refused(a: Vocabulary, b: Vocabulary, *, special_tokens_differ: bool = False) -> VocabularyError:
    with pytest.raises(VocabularyError) as caught:
        shared({"base": a, "tuned": b}, special_tokens_differ=special_tokens_differ)
    assert "\n" not in caught.value.message
    return caught.value


def test_equal_vocabularies_are_shared_whole() -> None:
    got = shared({name: vocabulary() for name in ("base", "tuned", "reference")})
    assert got.n_real == 5 and got.differing.tolist() == []
    assert shared({"base": vocabulary()}).n_real == 5


def test_padding_is_cut_by_type_or_by_text() -> None:
    unused = vocabulary((*TEXTS, "x", "[PAD6]"), (*TYPES, UNUSED, UNUSED))
    named = vocabulary((*TEXTS, "[PAD5]", "[PAD6]", "[PAD7]"), (*TYPES, NORMAL, NORMAL, NORMAL))
    assert (unused.n_real, len(unused), named.n_real, len(named)) == (5, 7, 5, 8)
    assert shared({"base": vocabulary(), "tuned": unused, "reference": named}).n_real == 5
    inside = vocabulary(("a", "[PAD1]", "c"), (NORMAL, UNUSED, NORMAL))
    assert inside.n_real == 3  # only what follows the last real token is padding


def test_rows_are_cut_to_the_smallest_vocabulary() -> None:
    longer = vocabulary((*TEXTS, "more"), (*TYPES, NORMAL))
    assert shared({"base": longer, "tuned": vocabulary()}).n_real == 5


def test_types_may_be_missing() -> None:
    plain = vocabulary(types=None)
    assert plain.types.tolist() == [NORMAL] * 5
    assert shared({"base": plain, "tuned": vocabulary(types=(NORMAL,) * 5)}).n_real == 5


def test_another_text_is_refused_with_names_sizes_and_the_first_five_ids() -> None:
    a = vocabulary(tuple("abcdefgh"), (NORMAL,) * 8)
    b = vocabulary((*"aBCDEFGH", "[PAD8]"), (NORMAL,) * 8 + (UNUSED,))
    message = refused(a, b).message
    assert message.startswith("base (8 tokens) and tuned (8 tokens and 1 of padding) do not share a vocabulary: ")
    assert "token 1 'b' / 'B', 2 'c' / 'C', 3 'd' / 'D', 4 'e' / 'E', 5 'f' / 'F' and 2 more" in message
    assert "one family" in (refused(a, b, special_tokens_differ=True).hint or "")


def test_another_type_is_refused_and_shown() -> None:
    other = vocabulary(types=(NORMAL, BYTE, NORMAL, CONTROL, USER_DEFINED))
    assert "token 1 'b' (normal) / 'b' (byte)" in refused(vocabulary(), other).message
    refused(vocabulary(), other, special_tokens_differ=True)


def test_renamed_special_tokens_need_the_emulators_word() -> None:
    renamed = vocabulary(("a", "b", "c", "<|User|>", "<think>"))
    assert "special_tokens_differ = true" in (refused(vocabulary(), renamed).hint or "")
    got = shared({"base": vocabulary(), "tuned": renamed, "reference": vocabulary()}, special_tokens_differ=True)
    assert got.n_real == 5 and got.differing.tolist() == [3, 4]


def test_a_special_token_of_the_same_text_keeps_its_reward() -> None:
    other = vocabulary(types=(NORMAL, NORMAL, NORMAL, USER_DEFINED, CONTROL))
    assert shared({"base": vocabulary(), "tuned": other}, special_tokens_differ=True).differing.tolist() == []
    refused(vocabulary(), other)


def test_a_normal_token_turned_special_is_refused() -> None:
    other = vocabulary(("a", "b", "<think>", "<|start|>", "<|end|>"), (NORMAL, NORMAL, CONTROL, CONTROL, USER_DEFINED))
    refused(vocabulary(), other, special_tokens_differ=True)


def test_another_tokenizer_model_is_refused() -> None:
    assert "tokenizer.ggml.model is 'gpt2' and 'llama'" in refused(vocabulary(), vocabulary(model="llama")).message


def test_a_pre_tokenizer_counts_by_what_it_does() -> None:
    aliased = vocabulary(pre="deepseek-r1-qwen")
    assert shared({"base": vocabulary(), "tuned": aliased}).n_real == 5
    assert "tokenizer.ggml.pre is 'qwen2' and 'llama-bpe'" in refused(vocabulary(), vocabulary(pre="llama3")).message
    spm = {name: vocabulary(model="llama", pre=name) for name in ("default", "", "anything")}
    assert shared(spm).n_real == 5  # llama.cpp ignores `pre` for SentencePiece


def test_a_file_without_tokens_has_no_vocabulary() -> None:
    empty = Header(path=Path("x.gguf"), version=3, metadata={}, tensors=(), file_bytes=0, shards=())
    with pytest.raises(ModelFileError, match=r"x.gguf: has no tokenizer"):
        Vocabulary.of(empty)
    with pytest.raises(ModelFileError, match=r"x.gguf: has no tokens, or only padding"):
        vocabulary(("[PAD0]",), (UNUSED,))
    with pytest.raises(ModelFileError, match=r"has 2 token types, expected 5"):
        vocabulary(types=(1, 1))


def test_files_of_one_family_share_a_vocabulary_and_others_do_not(family: Family) -> None:
    paths = {"base": family.base, "tuned": family.padded, "other": family.other_vocabulary}
    base, padded, other = (Vocabulary.of(gguf.check(path)) for path in paths.values())
    assert shared({"base": base, "tuned": padded}).n_real == base.n_real == len(padded) - 16
    refused(base, other, special_tokens_differ=True)
    specials = Vocabulary.of(gguf.check(family.other_specials))
    refused(base, specials)
    assert len(shared({"base": base, "tuned": specials}, special_tokens_differ=True).differing) == 2


def test_a_real_vocabulary(smollm2: Path) -> None:
    real = Vocabulary.of(gguf.check(smollm2))
    assert (real.n_real, real.text(1), real.text(49151)) == (49152, b"<|im_start|>", b"ectable")
