"""Tests of a member's KV cache: its logits equal the oracle's, rewinds are exact, and no bad call aborts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from eftlocal.arithmetic.arrays import Logits
from eftlocal.errors import DecodeError, ModelLoadError, SettingError
from eftlocal.runtime import gguf
from eftlocal.runtime.feed import Feed
from eftlocal.runtime.llama import context as llama_context
from eftlocal.runtime.llama.context import Context
from eftlocal.runtime.llama.model import Model
from eftlocal.runtime.plan.loads import Offload
from eftlocal.runtime.plan.memory import MAX_ROWS
from tests import families, oracle
from tests.families import VOCAB, Family
from tests.faults import fail_decode

PROMPT = list(range(1, 21))
ANSWER = [72, 101, 108, 108, 111, 44, 32, 119]
TOLERANCE = {"sliding": 5e-3}  # gemma3 looks its GELU up in a table of F16 values


def context(model: Model, *, n_ctx: int = 64, n_seq: int = 1, lora: tuple[Path, float] | None = None) -> Context:
    """Makes an exact context: its logits do not depend on how tokens are batched."""
    return Context(model, n_ctx=n_ctx, n_seq=n_seq, n_threads=1, lora=lora, kv_type="f32")


@pytest.fixture
def one(model: Model) -> Iterator[Context]:
    made = context(model)
    yield made
    made.close()


def cold(path: Path, tokens: list[int], rows: int = 1) -> Logits:
    """Returns the logits of the last rows, decoded in one batch in a new context."""
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


def test_logits_are_a_view_into_llama_cpps_own_buffer_that_the_next_feed_overwrites(
    one: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers: list[Any] = []
    real = llama_cpp.llama_get_logits

    def spy(*args: Any) -> Any:
        pointers.append(real(*args))
        return pointers[-1]

    monkeypatch.setattr(llama_cpp, "llama_get_logits", spy)
    z = one.feed([Feed(0, PROMPT, 3)])
    assert z.shape == (3, len(VOCAB)) and z.dtype == np.float32
    (pointer,) = pointers
    assert np.shares_memory(z, np.ctypeslib.as_array(pointer, z.shape)) and not z.flags.owndata
    before = z[0].copy()
    one.feed([Feed(0, [5], 1)])
    assert not np.array_equal(z[0], before)


def test_views_of_the_buffer_stay_right_when_it_grows(family: Family, one: Context) -> None:
    for rows in (1, 3, 40, 1, 3, 64, 40, 1):  # a longer feed than all before moves the buffer
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
    monkeypatch.setattr(llama_context, "CPU_BATCH", 8)
    for n in (100, 96, 95):  # the wanted rows may end at a chunk's border or cross it
        small = context(model, n_ctx=128)
        assert small.n_batch == 8
        small.feed([Feed(0, tokens[: 100 - n], 0)])
        np.testing.assert_allclose(small.feed([Feed(0, tokens[100 - n :], 7)]), expected, atol=1e-4)
        small.close()


def test_several_sequences_in_one_feed_come_in_its_order_and_do_not_see_each_other(
    family: Family, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 16)
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
        assert cut.rewind(0, 100) == cut.held(0) == 14  # all there are
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
        kept = forked.fork(0, 2, n)  # replaces what sequence 2 held
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


@pytest.mark.parametrize("kind", ["tuned", "sliding", "recurrent"])
def test_copies_go_on_in_a_context_for_more_sequences_or_are_not_there(family: Family, kind: str) -> None:
    path: Path = getattr(family, kind)
    made = Model(gguf.check(path))
    small, large = context(made, n_seq=3), context(made, n_ctx=80, n_seq=5)
    try:
        small.feed([Feed(0, PROMPT, 0), Feed(2, ANSWER, 0)])
        large.restore(small.saved())
        kept = kind != "sliding"
        held = {0: len(PROMPT) * kept, 1: 0, 2: len(ANSWER) * kept, 3: 0, 4: 0}
        assert {sequence: large.held(sequence) for sequence in held} == held
        rest = [[*text[held[i] :], 9] for i, text in ((0, PROMPT), (2, ANSWER))]
        z = large.feed([Feed(0, rest[0], 1), Feed(2, rest[1], 1), Feed(4, PROMPT, 1)]).copy()
        tight = context(made, n_ctx=16, n_seq=3)
        tight.restore(small.saved())
        assert tight.held(0) == 0  # it has no room for it
        tight.close()
    finally:
        small.close()
        large.close()
        made.close()
    tolerance = TOLERANCE.get(kind, 1e-4)
    for row, tokens in zip(z, ([*PROMPT, 9], [*ANSWER, 9], PROMPT), strict=True):
        np.testing.assert_allclose(row[None], cold(path, tokens), atol=tolerance)


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
                raise KeyboardInterrupt  # when only the copy is interrupted
        for sequence in (0, 1):
            kept = cut.held(sequence)
            assert kept <= 12
            z = cut.feed([Feed(sequence, [*PROMPT[kept:12], 9], 1)]).copy()
            np.testing.assert_allclose(z, cold(path, [*PROMPT[:12], 9]), atol=1e-4)
    finally:
        cut.close()
        made.close()


def test_a_context_that_is_closed_twice_is_freed_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[object] = []
    real = llama_cpp.llama_free

    def spy(handle: Any) -> None:
        freed.append(handle)
        real(handle)

    monkeypatch.setattr(llama_cpp, "llama_free", spy)
    made = context(model)
    made.close()
    made.close()
    assert len(freed) == 1 and freed[0]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ([Feed(0, [1] * 65, 1)], r"0 \+ 65 tokens do not fit in a context of 64"),
        ([Feed(0, [1, len(VOCAB)], 1)], f"token {len(VOCAB)} is not in its vocabulary of {len(VOCAB)}"),
        ([Feed(0, [1, -1], 1)], "token -1 is not in its vocabulary"),
        ([Feed(0, [2**40], 1)], "is not in its vocabulary"),
        ([Feed(0, [1] * 9, 9)], "9 rows of logits were asked for, but at most 8 fit"),
    ],
)
def test_what_llama_cpp_would_abort_on_is_an_error_and_the_context_works_after_it(
    family: Family, model: Model, monkeypatch: pytest.MonkeyPatch, feeds: list[Feed], words: str
) -> None:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 8)
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
def test_a_prefill_that_was_interrupted_or_refused_midway_keeps_what_was_decoded_whole(
    family: Family, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path: Path = getattr(family, kind)
    monkeypatch.setattr(llama_context, "CPU_BATCH", 8)
    made = Model(gguf.check(path))
    cut = context(made)
    try:
        with monkeypatch.context() as patch:
            fail_decode(patch, 2, KeyboardInterrupt(), after=False)
            with pytest.raises(KeyboardInterrupt):
                cut.feed([Feed(0, PROMPT, 1)])
        assert cut.held(0) == 8
        real, calls = llama_cpp.llama_decode, iter([True, False])
        with monkeypatch.context() as patch:
            # The second chunk is decoded but reported as failed, so its tokens in the cache cannot be trusted.
            patch.setattr(llama_cpp, "llama_decode", lambda *args: real(*args) if next(calls) else real(*args) or -3)
            with pytest.raises(DecodeError, match="code -3"):
                cut.feed([Feed(0, PROMPT[8:], 1)])
        kept = cut.held(0)
        assert kept == (16 if made.rewinds else 0)  # a recurrent state cannot be cut in the middle
        z = cut.feed([Feed(0, [*PROMPT[kept:16], 9], 1)]).copy()
    finally:
        cut.close()
        made.close()
    np.testing.assert_allclose(z, cold(path, [*PROMPT[:16], 9]), atol=TOLERANCE.get(kind, 1e-4))


@pytest.mark.parametrize("n_threads", [0, -1, 513, 100_000])
def test_a_number_of_threads_that_llama_cpp_does_not_take_is_an_error(model: Model, n_threads: int) -> None:
    with pytest.raises(SettingError, match=f"threads is {n_threads}; it must be between 1 and 512"):
        Context(model, n_ctx=64, n_threads=n_threads)


def test_more_sequences_than_llama_cpp_takes_are_an_error_with_its_reason(model: Model) -> None:
    with pytest.raises(ModelLoadError, match="n_seq_max"):
        context(model, n_seq=257)


def test_a_batch_of_a_device_has_no_more_rows_of_logits_than_one_of_the_cpu(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_context, "CPU_BATCH", 512)  # as on a device; one more row of logits would abort
    model = Model(gguf.check(family.base), Offload())
    wide = Context(model, n_ctx=512)
    assert wide.feed([Feed(0, [5] * 300, MAX_ROWS)]).shape == (MAX_ROWS, model.n_vocab)
    with pytest.raises(DecodeError, match=f"{MAX_ROWS + 1} rows of logits were asked for, but at most {MAX_ROWS} fit"):
        wide.feed([Feed(0, [5] * 150, MAX_ROWS + 1)])
    wide.close()
    model.close()


def test_a_cache_type_that_the_heads_do_not_fit_is_told_with_the_type_that_does(model: Model) -> None:
    with pytest.raises(ModelLoadError, match=r"cache of type q8_0: .*block size 32 .*n_embd_head_k=16") as caught:
        Context(model, n_ctx=64, kv_type="q8_0")
    assert caught.value.hint is not None and caught.value.hint.startswith("Use --kv-type f16")
    Context(model, n_ctx=64, kv_type="f16").close()
