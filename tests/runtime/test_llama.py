"""One model through llama.cpp: its limits are errors and never an abort, its logits the oracle's, its cache exact."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf as gguf_writer
import llama_cpp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eftlocal.errors import DecodeError, ModelLoadError, SettingError
from eftlocal.runtime import gguf, llama
from eftlocal.runtime.llama import Cancelled, Context, Feed, Logits, Model
from tests import families, oracle
from tests.families import VOCAB, Family

PROMPT = list(range(1, 21))
ANSWER = [72, 101, 108, 108, 111, 44, 32, 119]
TOLERANCE = {"sliding": 5e-3}  # gemma3 looks its GELU up in a table of F16 values


def context(model: Model, *, n_ctx: int = 64, n_seq: int = 1, lora: tuple[Path, float] | None = None) -> Context:
    """An exact context: its logits do not depend on how tokens were batched."""
    return Context(model, n_ctx=n_ctx, n_seq=n_seq, n_threads=1, lora=lora, kv_type="f32")


@pytest.fixture
def model(family: Family) -> Iterator[Model]:
    made = Model(gguf.check(family.tuned))
    yield made
    made.close()


@pytest.fixture
def one(model: Model) -> Iterator[Context]:
    made = context(model)
    yield made
    made.close()


def cold(path: Path, tokens: list[int], rows: int = 1) -> Logits:
    """The last rows' logits from a context that has never seen anything, in one decode."""
    made = Model(gguf.check(path))
    fresh = context(made, n_ctx=128)
    try:
        return fresh.feed([Feed(0, tokens, rows)]).copy()
    finally:
        fresh.close()
        made.close()


# --- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["base", "tuned2", "padded", "sliding", "recurrent"])
def test_logits_are_the_oracles_at_every_position(family: Family, kind: str) -> None:
    path: Path = getattr(family, kind)
    made = Model(gguf.check(path))
    fed = context(made)
    tokens = [*PROMPT, *ANSWER]
    try:
        got = oracle.log_softmax(fed.feed([Feed(0, tokens, len(tokens))]))
    finally:
        fed.close()
        made.close()
    np.testing.assert_allclose(got, oracle.log_probabilities(path, tokens), atol=TOLERANCE.get(kind, 1e-4))


def test_logits_are_a_view_into_llama_cpps_own_buffer_that_the_next_feed_overwrites(one: Context) -> None:
    z = one.feed([Feed(0, PROMPT, 3)])
    assert z.shape == (3, len(VOCAB)) and z.dtype == np.float32
    pointer = llama_cpp.llama_get_logits(one._handle)
    assert np.shares_memory(z, np.ctypeslib.as_array(pointer, z.shape)) and not z.flags.owndata
    before = z[0].copy()
    one.feed([Feed(0, [5], 1)])
    assert not np.array_equal(z[0], before)


def test_views_of_the_buffer_stay_right_when_it_grows(family: Family, one: Context) -> None:
    for rows in (1, 3, 40, 1, 3, 64, 40, 1):  # (a longer feed than any before moves the buffer)
        one.rewind(0, 0)
        tokens = [(7 * rows + i) % 250 for i in range(rows)]
        np.testing.assert_allclose(one.feed([Feed(0, tokens, rows)]), cold(family.tuned, tokens, rows), atol=1e-4)


def test_no_rows_asked_for_gives_none_but_feeds_the_tokens(family: Family, one: Context) -> None:
    assert one.feed([Feed(0, PROMPT, 0)]).shape == (0, len(VOCAB))
    assert one.feed([]).shape == (0, len(VOCAB))
    assert one.held(0) == len(PROMPT)
    z = one.feed([Feed(0, ANSWER, 1)])
    np.testing.assert_allclose(z, cold(family.tuned, PROMPT + ANSWER), atol=1e-4)


def test_chunks_of_n_batch_give_the_logits_of_one_batch(
    family: Family, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [i % 250 for i in range(100)]
    expected = cold(family.tuned, tokens, 7)
    monkeypatch.setattr(llama, "CPU_BATCH", 8)
    for n in (100, 96, 95):  # the wanted rows may fall on a chunk's border, or lie across one
        small = context(model, n_ctx=128)
        assert small.n_batch == 8
        small.feed([Feed(0, tokens[: 100 - n], 0)])
        np.testing.assert_allclose(small.feed([Feed(0, tokens[100 - n :], 7)]), expected, atol=1e-4)
        small.close()


def test_several_sequences_in_one_feed_come_in_its_order_and_do_not_see_each_other(
    family: Family, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "CPU_BATCH", 16)
    many = context(model, n_seq=3)
    prompts = {0: PROMPT, 1: PROMPT[::-1] * 2, 2: [7]}
    z = many.feed([Feed(2, prompts[2], 1), Feed(0, prompts[0], 2), Feed(1, prompts[1], 3)]).copy()
    assert z.shape[0] == 6
    for part, sequence, rows in ((z[:1], 2, 1), (z[1:3], 0, 2), (z[3:], 1, 3)):
        np.testing.assert_allclose(part, cold(family.tuned, prompts[sequence], rows), atol=1e-4)
    z = many.feed([Feed(1, [9], 1), Feed(2, [8, 7], 1)]).copy()
    many.close()
    np.testing.assert_allclose(z[:1], cold(family.tuned, [*prompts[1], 9]), atol=1e-4)
    np.testing.assert_allclose(z[1:], cold(family.tuned, [7, 8, 7]), atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.5])
def test_an_adapter_counts_by_its_scale(family: Family, scale: float) -> None:
    made = Model(gguf.check(family.reference))
    with_lora, without = context(made, lora=(family.lora, scale)), context(made)
    try:
        got = oracle.log_softmax(with_lora.feed([Feed(0, PROMPT, 5)]))
        plain = oracle.log_softmax(without.feed([Feed(0, PROMPT, 5)]))
    finally:
        with_lora.close()
        without.close()
        made.close()
    merged = families.read_weights(family.reference).with_lora(family.lora, scale)
    np.testing.assert_allclose(got, oracle.numpy_llama(merged, PROMPT)[-5:], atol=1e-4)
    np.testing.assert_allclose(plain, oracle.log_probabilities(family.reference, PROMPT)[-5:], atol=1e-4)


# --- rewind and fork --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tuned", "sliding", "recurrent"])
def test_after_a_rewind_the_logits_are_those_of_tokens_never_taken(family: Family, kind: str) -> None:
    path: Path = getattr(family, kind)
    made = Model(gguf.check(path))
    cut = context(made)
    try:
        cut.feed([Feed(0, [*PROMPT, *ANSWER], 1)])
        kept = cut.rewind(0, 12)
        assert kept == cut.held(0) == (12 if made.rewinds else 0)
        z = cut.feed([Feed(0, [*PROMPT[kept:12], 9, 8], 2)]).copy()
        assert cut.rewind(0, 100) == cut.held(0) == 14  # no more than there is
        assert cut.rewind(0, 0) == cut.held(0) == 0
        again = cut.feed([Feed(0, PROMPT, 1)]).copy()
    finally:
        cut.close()
        made.close()
    tolerance = TOLERANCE.get(kind, 1e-4)
    np.testing.assert_allclose(z, cold(path, [*PROMPT[:12], 9, 8], 2), atol=tolerance)
    np.testing.assert_allclose(again, cold(path, PROMPT), atol=tolerance)


@pytest.mark.parametrize("kind", ["tuned", "sliding", "recurrent"])
@pytest.mark.parametrize("n", [20, 12, 0])
def test_a_fork_goes_on_as_its_source_would_and_leaves_it_alone(family: Family, kind: str, n: int) -> None:
    path: Path = getattr(family, kind)
    made = Model(gguf.check(path))
    forked = context(made, n_seq=3)
    try:
        forked.feed([Feed(0, PROMPT, 0), Feed(2, ANSWER, 0)])
        kept = forked.fork(0, 2, n)  # over what 2 held
        assert kept == forked.held(2) == (n if made.rewinds or n == len(PROMPT) else 0)
        again = forked.fork(2, 1, n)  # a copy of a copy, before anything was decoded
        assert again == kept
        rest = [*PROMPT[kept:n], 9]
        z = forked.feed([Feed(1, rest, 1), Feed(2, rest, 1), Feed(0, ANSWER, 1)]).copy()
    finally:
        forked.close()
        made.close()
    expected = cold(path, [*PROMPT[:n], 9])
    tolerance = TOLERANCE.get(kind, 1e-4)
    np.testing.assert_allclose(z[:2], np.repeat(expected, 2, axis=0), atol=tolerance)
    np.testing.assert_allclose(z[2:], cold(path, PROMPT + ANSWER), atol=tolerance)


@pytest.mark.parametrize("kind", ["tuned", "recurrent"])
@pytest.mark.parametrize("function", ["llama_memory_seq_rm", "llama_memory_seq_cp"])
def test_an_interrupt_in_the_middle_of_a_rewind_or_a_fork_leaves_no_wrong_count(
    family: Family, monkeypatch: pytest.MonkeyPatch, function: str, kind: str
) -> None:
    path: Path = getattr(family, kind)
    made = Model(gguf.check(path))
    cut = context(made, n_seq=2)
    real = getattr(llama_cpp, function)

    def interrupted(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    try:
        cut.feed([Feed(0, PROMPT, 0), Feed(1, ANSWER, 0)])
        with monkeypatch.context() as patch:
            patch.setattr(llama_cpp, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                cut.fork(0, 1, 12)
            with pytest.raises(KeyboardInterrupt):
                cut.rewind(0, 12)
                raise KeyboardInterrupt  # where it is the copy that is interrupted
        for sequence in (0, 1):
            kept = cut.held(sequence)
            assert kept <= 12
            z = cut.feed([Feed(sequence, [*PROMPT[kept:12], 9], 1)]).copy()
            np.testing.assert_allclose(z, cold(path, [*PROMPT[:12], 9]), atol=1e-4)
    finally:
        cut.close()
        made.close()


def test_closed_twice_is_closed(model: Model) -> None:
    made = context(model)
    made.close()
    made.close()


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ([Feed(0, [1] * 65, 1)], r"0 \+ 65 tokens do not fit in a context of 64"),
        ([Feed(0, [1, len(VOCAB)], 1)], f"token {len(VOCAB)} is not in its vocabulary of {len(VOCAB)}"),
        ([Feed(0, [1, -1], 1)], "token -1 is not in its vocabulary"),
        ([Feed(0, [2**40], 1)], "is not in its vocabulary"),
        ([Feed(0, [1] * 9, 9)], "9 rows of logits asked for, at most 8"),
    ],
)
def test_what_llama_cpp_would_abort_on_is_an_error_and_the_context_works_after_it(
    family: Family, model: Model, monkeypatch: pytest.MonkeyPatch, feeds: list[Feed], words: str
) -> None:
    monkeypatch.setattr(llama, "CPU_BATCH", 8)
    small = context(model)
    with pytest.raises(DecodeError, match=words) as caught:
        small.feed(feeds)
    assert str(family.tuned) in caught.value.message
    assert small.held(0) == 0
    z = small.feed([Feed(0, PROMPT, 1)]).copy()
    with pytest.raises(DecodeError):
        small.feed([Feed(0, [1] * 60, 1)])
    assert small.held(0) == len(PROMPT)
    after = small.feed([Feed(0, [9], 1)]).copy()
    small.close()
    np.testing.assert_allclose(z, cold(family.tuned, PROMPT), atol=1e-4)
    np.testing.assert_allclose(after, cold(family.tuned, [*PROMPT, 9]), atol=1e-4)


def test_the_last_position_of_the_context_can_be_used_and_no_further(model: Model) -> None:
    full = context(model, n_ctx=300)
    full.feed([Feed(0, [1] * 299, 0)])
    full.feed([Feed(0, [1], 1)])
    assert full.held(0) == full.n_ctx == 300
    with pytest.raises(DecodeError, match=r"300 \+ 1"):
        full.feed([Feed(0, [1], 1)])
    full.close()


@pytest.mark.parametrize("kind", ["tuned", "sliding", "recurrent"])
def test_a_prefill_that_was_cancelled_or_refused_midway_keeps_what_was_decoded_whole(
    family: Family, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path: Path = getattr(family, kind)
    monkeypatch.setattr(llama, "CPU_BATCH", 8)
    made = Model(gguf.check(path))
    cut = context(made)
    asked = iter([False, True])
    try:
        with pytest.raises(Cancelled):
            cut.feed([Feed(0, PROMPT, 1)], lambda: next(asked))
        assert cut.held(0) == 8
        real, calls = llama_cpp.llama_decode, iter([True, False])
        with monkeypatch.context() as patch:
            # The second chunk is decoded and then told to have failed: what lies in the cache is not to be trusted.
            patch.setattr(llama_cpp, "llama_decode", lambda *args: real(*args) if next(calls) else real(*args) or -3)
            with pytest.raises(DecodeError, match="code -3"):
                cut.feed([Feed(0, PROMPT[8:], 1)])
        kept = cut.held(0)
        assert kept == (16 if made.rewinds else 0)  # half a step cannot be cut from a recurrent state
        z = cut.feed([Feed(0, [*PROMPT[kept:16], 9], 1)]).copy()
    finally:
        cut.close()
        made.close()
    np.testing.assert_allclose(z, cold(path, [*PROMPT[:16], 9]), atol=TOLERANCE.get(kind, 1e-4))


@pytest.mark.parametrize("n_threads", [0, -1, 513, 100_000])
def test_a_number_of_threads_that_llama_cpp_does_not_take_is_an_error(model: Model, n_threads: int) -> None:
    with pytest.raises(SettingError, match="threads"):
        Context(model, n_ctx=64, n_threads=n_threads)


def test_more_sequences_than_llama_cpp_takes_are_an_error_with_its_reason(model: Model) -> None:
    with pytest.raises(ModelLoadError, match="n_seq_max"):
        context(model, n_seq=257)


# --- files that llama.cpp refuses -------------------------------------------------------------------------------------


def test_a_file_that_passes_the_header_check_but_not_llama_cpp_gives_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "no-output-norm.gguf"
    whole = families.write_model(tmp_path / "whole.gguf", seed=1)
    path.write_bytes(whole.read_bytes().replace(b"output_norm.weight", b"output_form.weight"))
    with pytest.raises(ModelLoadError, match=r"no-output-norm\.gguf: .*'output_norm\.weight' not found") as caught:
        Model(gguf.check(path))
    assert "\n" not in caught.value.message


def test_an_adapter_of_another_shape_gives_llama_cpps_reason(family: Family) -> None:
    made = Model(gguf.check(family.base))
    try:
        with pytest.raises(ModelLoadError, match=r"lora\.gguf: .*could not apply this adapter to .*base\.gguf: .+"):
            context(made, lora=(family.lora, 1.0))
        with pytest.raises(ModelLoadError):  # a model is no adapter
            context(made, lora=(family.tuned, 1.0))
        fine = context(made)  # and the weights are as usable as before
        fine.feed([Feed(0, PROMPT, 1)])
        fine.close()
    finally:
        made.close()


# --- the tokenizer ----------------------------------------------------------------------------------------------------


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
    """One model for all examples of hypothesis."""
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
    assert made.bos not in made.tokenize("Hello")  # the view's business
    made.close()


def test_a_text_of_a_megabyte_is_tokenized(model: Model) -> None:
    for text in ("a", " ", "\n", "1", "😀"):
        many = text * (300_000 // len(text.encode()))
        assert b"".join(map(model.piece, set(model.tokenize(many)))).decode().strip(text) == ""


# --- logs -------------------------------------------------------------------------------------------------------------

LOUD = """
import sys
from pathlib import Path
from eftlocal.runtime import gguf, llama
llama.set_verbose(sys.argv[2] == "verbose")
model = llama.Model(gguf.check(Path(sys.argv[1])))
context = llama.Context(model, n_ctx=64)
context.feed([llama.Feed(0, [1, 2, 3], 1)])
context.close()
model.close()
"""


@pytest.mark.parametrize("how", ["silent", "verbose"])
def test_llama_cpp_is_silent_unless_it_is_asked_to_talk(family: Family, how: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOUD, str(family.tuned), how], capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout == b""
    assert (b"llama" in done.stderr) is (how == "verbose")
    if how == "silent":
        assert done.stderr == b""
